"""Serializers: what comes back, what is refused, and which strings stand for which."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr

from anabranch import flow, task
from anabranch.errors import OptionError, UnknownSerializerError, UnserializableResult
from anabranch.serializers import (
    CompressedSerializer,
    JSONSerializer,
    PickleSerializer,
    Serializer,
    serializer,
)

NAMES = ["pickle", "json", "compressed/pickle", "compressed/json"]

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.parametrize("name", NAMES)
@given(value=plain)
def test_plain_data_comes_back(name: str, value: Any) -> None:
    chosen = serializer(name)
    assert chosen.name == name
    assert chosen.loads(chosen.dumps(value)) == value


@pytest.mark.parametrize("name", NAMES)
def test_serializers_are_picklable_and_equal(name: str) -> None:
    assert pickle.loads(pickle.dumps(serializer(name))) == serializer(name)
    assert isinstance(serializer(name), Serializer)


@dataclass
class Point:
    x: int
    at: datetime


class Colour(Enum):
    RED = "red"


class Model(BaseModel):
    tags: set[str]
    password: SecretStr


def test_json_gives_plain_data_back() -> None:
    chosen = JSONSerializer()
    value = {
        "point": Point(1, datetime(2026, 1, 2, tzinfo=UTC)),
        "model": Model(tags={"a"}, password=SecretStr("hunter2")),
        "bytes": b"\xff\x00",
        "tuple": (1, 2),
        "colour": Colour.RED,
        "id": UUID(int=1),
        "path": Path("/tmp"),
    }
    data = chosen.dumps(value)
    assert b"hunter2" not in data
    assert chosen.loads(data) == {
        "point": {"x": 1, "at": "2026-01-02T00:00:00Z"},
        "model": {"tags": ["a"], "password": "**********"},
        "bytes": "_wA=",
        "tuple": [1, 2],
        "colour": "red",
        "id": "00000000-0000-0000-0000-000000000001",
        "path": "/tmp",
    }


@pytest.mark.parametrize("value", [float("inf"), float("-inf")])
def test_json_keeps_infinities(value: float) -> None:
    assert JSONSerializer().loads(JSONSerializer().dumps([value])) == [value]


def test_json_refuses_what_pydantic_cannot_write() -> None:
    with pytest.raises(UnserializableResult, match=r"'json' cannot write result .*object"):
        JSONSerializer().dumps({"a": object()})
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(UnserializableResult, match="Circular"):
        JSONSerializer().dumps(loop)


def test_pickle_gives_the_same_types_back() -> None:
    value = [Point(1, datetime(2026, 1, 2, tzinfo=UTC)), Colour.RED, {1, 2}, b"\xff", (1,)]
    assert PickleSerializer().loads(PickleSerializer().dumps(value)) == value


def test_pickle_writes_local_functions_by_value() -> None:
    factor = 3
    assert PickleSerializer().loads(PickleSerializer().dumps(lambda x: factor * x))(2) == 6


def test_pickle_writes_large_buffers_of_any_order() -> None:
    array = np.arange(250_000.0).reshape(500, 500)
    fixed = array.copy()
    fixed.setflags(write=False)
    value = [array, np.asfortranarray(array), array[:, ::2], fixed]
    value += [b"x" * 200_000, bytearray(200_000), "x" * 200_000, "ü" * 200_000]
    for back, item in zip(
        PickleSerializer().loads(PickleSerializer().dumps(value)), value, strict=True
    ):
        assert type(back) is type(item)
        assert np.array_equal(back, item)


def test_pickle_names_the_part_that_it_cannot_write() -> None:
    value = {"a": [1, {"lock": threading.Lock()}]}
    with pytest.raises(UnserializableResult) as caught:
        PickleSerializer().dumps(value)
    assert caught.value.path == "result['a'][1]['lock']"
    assert "_thread.lock" in caught.value.reason


def test_pickle_refuses_what_is_nested_too_deep() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(UnserializableResult, match="nested too deep"):
        PickleSerializer().dumps(value)


def test_pickle_refuses_futures() -> None:
    @task
    def one() -> int:
        return 1

    @flow
    def main() -> None:
        future = one.submit()
        future.wait()
        with pytest.raises(UnserializableResult, match=r"result\[1\] \(a future means nothing"):
            PickleSerializer().dumps([1, future])

    main()


def test_a_class_of_a_script_is_read_in_another_process(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from anabranch.serializers import PickleSerializer\n"
        "class Mine:\n"
        "    def __init__(self): self.x = 5\n"
        "sys.stdout.buffer.write(PickleSerializer().dumps(Mine()))\n"
    )
    data = subprocess.run([sys.executable, script], capture_output=True, check=True).stdout
    assert PickleSerializer().loads(data).x == 5


@pytest.mark.parametrize("compression", ["zlib", "gzip", "bz2", "lzma"])
def test_each_compression_shrinks_and_any_reads_it(compression: Any) -> None:
    value = ["the same again"] * 1000
    data = CompressedSerializer("json", compression).dumps(value)
    assert len(data) < len(JSONSerializer().dumps(value)) / 10
    assert serializer("compressed/json").loads(data) == value


def test_data_of_no_compression_is_an_error() -> None:
    with pytest.raises(ValueError, match="none of zlib, gzip, bz2, lzma"):
        CompressedSerializer().loads(b"plain")


def test_an_unknown_compression_is_an_error() -> None:
    with pytest.raises(OptionError, match="compression='rar' will not do; it takes 'zlib'"):
        CompressedSerializer(compression="rar")  # pyright: ignore[reportArgumentType]  # the point


class Upper:
    """A user's own."""

    name = "upper"

    def dumps(self, value: Any) -> bytes:
        return str(value).upper().encode()

    def loads(self, data: bytes) -> Any:
        return data.decode()


def test_a_users_own_serializer_is_taken_as_it_is() -> None:
    mine = Upper()
    assert serializer(mine) is mine
    assert CompressedSerializer(mine).name == "compressed/upper"
    assert CompressedSerializer(mine).loads(CompressedSerializer(mine).dumps("a")) == "A"


@pytest.mark.parametrize("given_", ["yaml", "", "compressed/", "compressed/yaml", Upper, 5, None])
def test_anything_else_is_an_error_that_names_the_known_ones(given_: Any) -> None:
    with pytest.raises(UnknownSerializerError, match="compressed/json, compressed/pickle, json"):
        serializer(given_)
