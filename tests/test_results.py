"""Results at rest: storages, signatures, records, previews, and what is kept of a value."""

from __future__ import annotations

import errno
import json
import os
import pickle
import stat
import subprocess
import sys
import threading
import tracemalloc
import types
from collections import OrderedDict, defaultdict, deque, namedtuple
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, Secret, SecretBytes, SecretStr

from anabranch.errors import (
    MissingExtraError,
    MissingResultError,
    OptionError,
    ResultNotKeptError,
    ResultSecretError,
    StorageKeyError,
    StorageKeyTemplateError,
    TamperedResultError,
    UnknownStorageError,
    UnreadableResultError,
    UnserializableResult,
)
from anabranch.execution import pickling_at_rest
from anabranch.results import (
    FsspecStorage,
    Kept,
    LocalStorage,
    Persistence,
    ResultStore,
    Storage,
    keep_inline,
    keep_persistent,
    load_secret,
    preview,
    recover,
    sign,
    storage,
    verify,
)
from anabranch.results.storages import object_name
from anabranch.serializers import CompressedSerializer

SECRET = bytes(range(32))
LIMIT = 65536


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ANABRANCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


# -- storages -------------------------------------------------------------------------------------


@pytest.fixture(params=["local", "memory", "s3"])
def any_storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    folder = f"{request.node.name}-{os.getpid()}".replace("[", "-").replace("]", "")
    if request.param == "local":
        return LocalStorage(tmp_path / "results")
    if request.param == "memory":
        return FsspecStorage(f"memory://{folder}")
    return FsspecStorage(f"s3://bucket/{folder}", **request.getfixturevalue("s3"))


AWKWARD = [
    "plain",
    "with space",
    "a/b/c",
    "/etc/passwd",
    "..",
    "../../outside",
    ".hidden",
    "ünï/日本",
    "x" * 300,
    "x" * 299 + "y",
    "percent%2Fquoted",
    "tilde~" + "0" * 32,
    "line\nbreak\0nul",
    "half \ud800 pair",
    "*?[",
]


def test_each_storage_keeps_to_the_port(any_storage: Storage) -> None:
    assert isinstance(any_storage, Storage)
    assert any_storage.keys() == []
    with pytest.raises(MissingResultError, match=r"No result with the key 'none' at .*none"):
        any_storage.read("none")
    any_storage.remove("none")
    any_storage.write("a", b"one")
    any_storage.write("a", b"another")
    assert any_storage.read("a") == b"another"
    assert any_storage.read("a", 3) == b"ano"
    assert any_storage.read("a", 100) == b"another"
    assert any_storage.exists("a")
    assert not any_storage.exists("b")
    any_storage.remove("a")
    assert not any_storage.exists("a")
    assert any_storage.keys() == []


def test_each_storage_takes_any_text_as_a_key(any_storage: Storage) -> None:
    for number, key in enumerate(AWKWARD):
        any_storage.write(key, str(number).encode())
    for number, key in enumerate(AWKWARD):
        assert any_storage.exists(key)
        assert any_storage.read(key) == str(number).encode()
    listed = any_storage.keys()
    assert len(listed) == len(AWKWARD)
    for key in AWKWARD:
        assert key in listed or len(key) >= 299
    assert any_storage.keys("a/") == ["a/b/c"]
    assert any_storage.keys("..") == ["..", "../../outside"]
    assert any_storage.keys("ü") == ["ünï/日本"]
    long = any_storage.keys("xx")
    assert {any_storage.read(key) for key in long} == {b"8", b"9"}
    for key in listed:
        any_storage.remove(key)
    assert any_storage.keys() == []


def test_each_storage_travels_to_other_processes(any_storage: Storage) -> None:
    any_storage.write("a", b"one")
    assert pickle.loads(pickle.dumps(any_storage)).read("a") == b"one"


def test_each_storage_sees_what_others_wrote(any_storage: Storage) -> None:
    another = pickle.loads(pickle.dumps(any_storage))
    if isinstance(another, FsspecStorage):  # as another process has it
        another.storage_options["skip_instance_cache"] = True
    any_storage.write("first", b"")
    assert any_storage.keys() == ["first"]  # a listing that must not be remembered
    another.write("a", b"one")
    assert any_storage.exists("a")
    assert any_storage.keys() == ["a", "first"]
    another.remove("a")
    assert any_storage.keys() == ["first"]
    assert not any_storage.exists("a")


def test_an_empty_key_is_an_error(any_storage: Storage) -> None:
    with pytest.raises(StorageKeyError, match="it is empty"):
        any_storage.write("", b"")


@given(st.lists(st.text(st.characters(exclude_categories=()), min_size=1), unique=True))
def test_object_names_are_safe_and_never_the_same(keys: list[str]) -> None:
    names = [object_name(key) for key in keys]
    assert len(set(names)) == len(keys)
    for name in names:
        assert name.isascii()
        assert name.isprintable()
        assert not set(name) & set("/\\ *?:\"'<>|")
        assert not name.startswith(".")
        assert len(name) <= 200
        assert object_name(name) == name or "~" not in name


def test_local_files_are_for_their_user_alone(tmp_path: Path) -> None:
    local = LocalStorage(tmp_path / "new" / "results")
    local.write("a", b"one")
    assert stat.S_IMODE(os.stat(local.location("a")).st_mode) == 0o600
    assert stat.S_IMODE(local.folder.stat().st_mode) == 0o700


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"theirs")
    local = LocalStorage(tmp_path / "results")
    local.write("a", b"one")
    (local.folder / "link").symlink_to(outside)
    assert not local.exists("link")
    assert local.keys() == ["a"]
    with pytest.raises(StorageKeyError, match="is a symbolic link"):
        local.read("link")
    local.write("link", b"ours")
    assert outside.read_bytes() == b"theirs"
    assert local.read("link") == b"ours"


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = LocalStorage(tmp_path)
    local.write("a", b"before")
    write, calls = os.write, list[int]()

    def until_full(file: int, data: Any) -> int:
        calls.append(len(data))
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[:2])

    monkeypatch.setattr(os, "write", until_full)
    with pytest.raises(OSError, match="No space"):
        local.write("a", b"after")
    assert calls == [5, 3]
    assert local.read("a") == b"before"
    assert os.listdir(tmp_path) == ["a"]


def test_what_was_written_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(file: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(file).st_mode) else "file")
        fsync(file)

    def replaced(source: Any, target: Any) -> None:
        steps.append("name")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    LocalStorage(tmp_path).write("a", b"one")
    assert steps == ["file", "name", "folder"]


def test_what_stands_for_a_storage(tmp_path: Path) -> None:
    for given_ in (tmp_path, str(tmp_path), tmp_path.as_uri()):
        found = storage(given_)
        assert isinstance(found, LocalStorage)
        assert found.folder == Path(os.path.realpath(tmp_path))
    assert isinstance(storage("memory://x"), FsspecStorage)
    assert storage(found := LocalStorage(tmp_path)) is found


@pytest.mark.parametrize("given_", ["", 5, None, LocalStorage])
def test_anything_else_is_no_storage(given_: Any) -> None:
    with pytest.raises(UnknownStorageError, match="Pass a folder, a URL"):
        storage(given_)


def test_an_unknown_protocol_is_an_error() -> None:
    with pytest.raises(UnknownStorageError, match=r"'nope://x' .*Protocol not known"):
        storage("nope://x").exists("a")


@pytest.mark.parametrize(
    ("missing", "url", "extra"),
    [
        ("fsspec.core", "s3://b", "s3"),
        ("gcsfs", "gs://b", "gcs"),
        ("fsspec.core", "ftp://b", "storage"),
    ],
)
def test_a_missing_library_names_its_extra(
    missing: str, url: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtraError, match=rf'pip install "anabranch\[{extra}\]"'):
        storage(url).exists("a")


def test_passwords_are_not_told() -> None:
    given_ = FsspecStorage("ftp://me:hunter2@host/x", password="hunter2")
    assert "hunter2" not in repr(given_) + given_.location("a")


# -- signatures -----------------------------------------------------------------------------------


@given(st.text(), st.binary())
def test_what_was_signed_is_verified(key: str, data: bytes) -> None:
    assert verify(SECRET, key, sign(SECRET, key, data)) == data


@given(st.text(), st.binary(), st.data())
def test_any_other_bytes_are_refused(key: str, data: bytes, draw: st.DataObject) -> None:
    signed = bytearray(sign(SECRET, key, data))
    signed[draw.draw(st.integers(0, len(signed) - 1))] ^= draw.draw(st.integers(1, 255))
    with pytest.raises(TamperedResultError):
        verify(SECRET, key, bytes(signed))


def test_key_and_secret_are_bound() -> None:
    signed = sign(SECRET, "a", b"bc")
    for secret, key, data in [
        (SECRET, "ab", signed),
        (SECRET, "ab", signed[:-2] + b"c"),  # the same bytes in all, with another border
        (bytes(32), "a", signed),
        (SECRET, "a", signed[:-1]),
        (SECRET, "a", b""),
    ]:
        with pytest.raises(TamperedResultError, match="was not loaded"):
            verify(secret, key, data)


def test_the_secret_is_made_once(home: Path) -> None:
    first = load_secret(home)
    assert len(first) == 32
    assert load_secret(home) == load_secret() == first
    assert stat.S_IMODE((home / "secret").stat().st_mode) == 0o600
    assert os.listdir(home) == ["secret"]


def test_processes_that_make_the_secret_at_once_agree(home: Path) -> None:
    code = (
        "import sys; from anabranch.results import load_secret\n"
        "print('ready', flush=True); sys.stdin.read(1); print(load_secret().hex())"
    )
    pipe = subprocess.PIPE
    children = [
        subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True)
        for _ in range(4)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    told: set[str] = set()
    for child in children:
        assert child.stdin is not None
        child.stdin.write("x")
        child.stdin.flush()
    for child in children:
        told.add(child.communicate(timeout=30)[0].strip())
        assert child.returncode == 0
    assert told == {load_secret(home).hex()}
    assert os.listdir(home) == ["secret"]


def test_the_first_of_two_secrets_wins(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def another_was_first(draft: Path, path: Path) -> None:
        path.write_bytes(SECRET)
        path.chmod(0o600)
        link(draft, path)

    monkeypatch.setattr(os, "link", another_was_first)
    assert load_secret(home) == SECRET
    assert os.listdir(home) == ["secret"]


def test_a_secret_that_others_can_read_is_told(home: Path) -> None:
    secret = load_secret(home)
    (home / "secret").chmod(0o640)
    with pytest.warns(UserWarning, match="chmod 600"):
        assert load_secret(home) == secret


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_damaged_secret_is_an_error(home: Path, size: int) -> None:
    home.mkdir()
    (home / "secret").write_bytes(bytes(size))
    with pytest.raises(ResultSecretError, match="should hold 32 bytes"):
        load_secret(home)


# -- records --------------------------------------------------------------------------------------


def a_store(tmp_path: Path, **options: Any) -> ResultStore:
    return ResultStore(tmp_path / "results", secret=SECRET, **options)


@pytest.mark.parametrize("chosen", ["pickle", "json", "compressed/pickle", "compressed/json"])
def test_a_record_comes_back_and_says_what_it_is(tmp_path: Path, chosen: str) -> None:
    until = datetime.now(UTC) + timedelta(hours=1)
    written = a_store(tmp_path, serializer=chosen).write("a/b", {"x": [1]}, until)
    read = a_store(tmp_path).read("a/b")  # a store with another serializer of its own
    assert read == written
    assert read.value == {"x": [1]}
    assert read.metadata.serializer == chosen
    assert read.metadata.expiration == until
    assert read.metadata.python_version.startswith("3.")
    line, _, data = Path(a_store(tmp_path).storage.location("a/b")).read_bytes().partition(b"\n")
    assert json.loads(line)["storage_key"] == "a/b"
    assert json.loads(line)["size"] == read.metadata.size == len(data)


def test_defaults_come_from_the_settings(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ResultStore().write("a", 1)
    assert os.listdir(home / "storage") == ["a"]
    monkeypatch.setenv("ANABRANCH_RESULT_STORAGE", "memory://from-settings")
    monkeypatch.setenv("ANABRANCH_RESULT_SERIALIZER", "json")
    store = ResultStore()
    assert store.write("a", 1).metadata.serializer == "json"
    assert store.storage.location("a") == "memory://from-settings/a"
    assert ResultStore("memory://from-settings").read("a").value == 1


def test_results_in_any_storage(any_storage: Storage) -> None:
    store = ResultStore(any_storage, secret=SECRET)
    assert not store.exists("a b")
    store.write("a b", [1])
    assert store.exists("a b")
    assert pickle.loads(pickle.dumps(store)).read("a b").value == [1]
    store.delete("a b")
    assert not store.exists("a b")
    with pytest.raises(MissingResultError):
        store.read("a b")


def test_results_expire(tmp_path: Path) -> None:
    now = [1000.0]
    store = a_store(tmp_path, now=lambda: now[0])
    store.write("a", 1, datetime.fromtimestamp(1010, UTC))
    now[0] = 1009.9
    assert store.exists("a")
    assert store.read("a").value == 1
    now[0] = 1010.0
    assert not store.exists("a")
    with pytest.raises(MissingResultError, match="it expired at 1970-01-01 00:16:50"):
        store.read("a")
    store.write("a", 2)
    assert store.read("a").value == 2


def test_an_expiration_needs_a_time_zone(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="a datetime with a time zone"):
        a_store(tmp_path).write("a", 1, datetime(2030, 1, 1))


def test_a_long_first_line_is_read_whole(tmp_path: Path) -> None:
    store, key = a_store(tmp_path), "k" * 10_000
    store.write(key, 1)
    assert store.exists(key)
    assert store.read(key).value == 1
    assert [store.read(listed).value for listed in store.storage.keys("kkk")] == [1]


EVIL_RAN: list[str] = []


class Evil:
    def __reduce__(self) -> Any:
        return evil, ("it was unpickled",)


def evil(text: str) -> None:
    EVIL_RAN.append(text)


def test_nothing_of_a_strangers_record_is_unpickled(tmp_path: Path) -> None:
    ResultStore(tmp_path, secret=bytes(32)).write("a", Evil())
    with pytest.raises(TamperedResultError, match="another secret"):
        ResultStore(tmp_path, secret=SECRET).read("a")
    assert EVIL_RAN == []
    ResultStore(tmp_path, secret=bytes(32)).read("a")
    assert EVIL_RAN == ["it was unpickled"]  # so the test above could have failed


def test_a_record_moved_to_another_key_is_refused(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    store.write("a", 1)
    store.storage.write("b", store.storage.read("a"))
    with pytest.raises(TamperedResultError, match="'b'"):
        store.read("b")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draw=st.data())
def test_a_record_with_any_byte_changed_is_refused(tmp_path: Path, draw: st.DataObject) -> None:
    store = a_store(tmp_path)
    store.write("a", {"x": 1}, datetime(2100, 1, 1, tzinfo=UTC))
    record = bytearray(store.storage.read("a"))
    if draw.draw(st.booleans()):
        record[draw.draw(st.integers(0, len(record) - 1))] ^= draw.draw(st.integers(1, 255))
    else:
        record = record[: draw.draw(st.integers(0, len(record) - 1))]
    store.storage.write("a", bytes(record))
    with pytest.raises(TamperedResultError):
        store.read("a")
    store.exists("a")  # whatever it says, it does not raise


def test_a_result_whose_class_is_gone_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("of_yesterday")
    exec("class Gone: pass", module.__dict__)
    monkeypatch.setitem(sys.modules, "of_yesterday", module)
    store = a_store(tmp_path)
    store.write("a", module.Gone())
    del module.Gone
    with pytest.raises(
        UnreadableResultError, match=r"AttributeError.*written by anabranch .* on Python 3"
    ):
        store.read("a")
    assert store.exists("a")


class Mine:
    name = "mine"

    def dumps(self, value: Any) -> bytes:
        return b"x" * value

    def loads(self, data: bytes) -> Any:
        assert type(data) is bytes
        return len(data)


def test_a_users_own_serializer_is_needed_to_read(tmp_path: Path) -> None:
    a_store(tmp_path, serializer=Mine()).write("a", 3)
    assert a_store(tmp_path, serializer=Mine()).read("a").value == 3
    with pytest.raises(UnreadableResultError, match="the serializer 'mine' is not known here"):
        a_store(tmp_path).read("a")


def test_the_secret_is_not_shown(tmp_path: Path) -> None:
    assert repr(SECRET) not in repr(a_store(tmp_path))


# -- what is kept of a value ----------------------------------------------------------------------


@given(st.none() | st.booleans() | st.floats() | st.integers() | st.text() | st.text("\ud800a"))
def test_plain_values_are_kept_as_json(value: Any) -> None:
    kept = keep_inline(value, LIMIT)
    back = recover(kept)
    assert type(back) is type(value)
    assert back == value or value != value
    assert kept.data is not None
    assert kept.size == len(kept.data)
    assert kept.preview == preview(value)
    narrow = not isinstance(value, int) or -(2**63) <= value < 2**63
    finite = not isinstance(value, float) or abs(value) < float("inf")
    assert kept.form == ("json" if narrow and finite else "pickle")


class Text(str):
    pass


class Number(int):
    pass


class Shade(Enum):
    DARK = 1


@pytest.mark.parametrize(
    "value",
    [
        2**63,
        -(2**63) - 1,
        10**5000,
        [1, 2, 3],
        (1, "a", None, True, 1.5),
        {"a": [1, {"b": 2}], 3: "x" * 1000},
        [10**5000],
        {1, 2},
        b"\xff",
        Text("x"),
        Number(5),
        Shade.DARK,
        float("inf"),
    ],
    ids=lambda value: preview(value)[:20],
)
def test_other_values_are_kept_as_pickles(value: Any) -> None:
    kept = keep_inline(value, LIMIT)
    assert kept.form == "pickle"
    back = recover(kept)
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize("wrap", [lambda a: a, lambda a: [a], lambda a: {"f": lambda: 1, "a": a}])
def test_the_limit_is_met_to_the_byte(wrap: Any) -> None:
    value = wrap(np.arange(100_000.0))
    kept = keep_inline(value, 10**6)
    assert kept.size is not None
    assert keep_inline(value, kept.size) == kept
    assert keep_inline(value, kept.size - 1).form == "not kept"
    back = recover(kept)
    back = back if isinstance(back, np.ndarray) else list(back)[-1] if len(back) == 1 else back["a"]
    assert (back == np.arange(100_000.0)).all()


def test_arrays_and_frames_are_kept() -> None:
    array = np.arange(12.0).reshape(3, 4)
    assert (recover(keep_inline(array, LIMIT)) == array).all()
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    assert recover(keep_inline(frame, LIMIT)).equals(frame)
    polar = pl.DataFrame({"a": [1, 2]})
    assert recover(keep_inline(polar, LIMIT)).equals(polar)
    arrow = pa.table({"a": [1, 2]})
    assert recover(keep_inline(arrow, LIMIT)).equals(arrow)


@pytest.mark.parametrize("limit", [0, 1, 50, 1000, LIMIT])
@given(value=st.recursive(st.none() | st.integers() | st.text(), st.lists))
def test_nothing_is_kept_past_the_limit(limit: int, value: Any) -> None:
    kept = keep_inline(value, limit)
    if kept.form == "not kept":
        assert kept.data is None
        assert kept.reason is not None
        assert kept.reason.startswith("too large: ")
        assert len(pickle.dumps(value, 5)) > limit
    else:
        assert kept.data is not None
        assert len(kept.data) <= limit
        assert recover(kept) == value


MEGABYTE = 1_000_000


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.zeros(1200 * MEGABYTE, "u1"), "too large: 1.2 GB"),
        (np.zeros(1200 * MEGABYTE, "u1")[::2], "too large: 600 MB"),
        (pd.DataFrame({"a": np.zeros(10 * MEGABYTE)}), "too large: 80 MB"),
        (pd.Series(np.zeros(10 * MEGABYTE)), "too large: 80 MB"),
        (pl.DataFrame({"a": np.zeros(10 * MEGABYTE)}), "too large: 80 MB"),
        (pa.table({"a": np.zeros(10 * MEGABYTE)}), "too large: 80 MB"),
        (b"x" * MEGABYTE, "too large: 1 MB"),
        ("x" * MEGABYTE, "too large: 1 MB"),
        ([1] * MEGABYTE, "too large: more than 65.5 kB"),
        ({"x": bytes(MEGABYTE)}, "too large: more than 65.5 kB"),
        (
            [[np.zeros(100 * MEGABYTE, "u1") for _ in range(5)] for _ in range(2)],
            "too large: 100 MB",
        ),
        (types.SimpleNamespace(f=lambda: 1, a=np.zeros(900 * MEGABYTE, "u1")), "too large: 900 MB"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 50 else preview(value)[:30],
)
def test_what_is_too_large_costs_no_copy(
    value: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    write = pickling_at_rest._Bounded.write  # pyright: ignore[reportPrivateUsage]  # to count

    def counting(self: Any, data: Any) -> int:
        count = write(self, data)
        written.append(count)
        return count

    monkeypatch.setattr(pickling_at_rest._Bounded, "write", counting)  # pyright: ignore[reportPrivateUsage]  # as above
    keep_inline(value, LIMIT)  # what loads late is loaded now
    written.clear()
    tracemalloc.start()
    try:
        kept = keep_inline(value, LIMIT)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert kept.form == "not kept"
    assert kept.reason == reason
    assert kept.data is None
    assert sum(written) <= 2 * LIMIT  # plainly, then by value
    assert peak < 1_000_000


class Locked:
    def __init__(self) -> None:
        self.name = "x"
        self.lock = threading.Lock()


class Raises:
    def __reduce__(self) -> Any:
        raise RuntimeError("not me")


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (Locked(), "cannot be pickled: result.lock: cannot pickle '_thread.lock' object"),
        ([1, {"k": Locked()}], "cannot be pickled: result[1]['k'].lock: cannot pickle"),
        ([Raises()], "cannot be pickled: result[0]: not me"),
        ((x for x in "ab"), "cannot be pickled: result: cannot pickle 'generator' object"),
        (nested(50_000), "cannot be pickled: result: it is nested too deep"),
    ],
    ids=["lock", "inner", "user", "generator", "deep"],
)
def test_what_cannot_be_pickled_is_not_kept_and_says_why(value: Any, reason: str) -> None:
    kept = keep_inline(value, LIMIT)
    assert kept.form == "not kept"
    assert kept.reason is not None
    assert kept.reason.startswith(reason)
    with pytest.raises(ResultNotKeptError, match="persist_result=True"):
        recover(kept)


def test_a_panic_of_a_library_in_rust_is_no_end() -> None:
    panic = type("PanicException", (BaseException,), {})

    class Panics:
        def __reduce__(self) -> Any:
            raise panic("called unwrap on None")

    kept = keep_inline(Panics(), LIMIT)
    assert kept.reason == "cannot be pickled: result: called unwrap on None"


def test_an_interrupt_goes_on() -> None:
    class Interrupted:
        def __reduce__(self) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        keep_inline(Interrupted(), LIMIT)


def test_local_functions_are_kept_by_value() -> None:
    factor = 3
    assert recover(keep_inline(lambda x: factor * x, LIMIT))(2) == 6


def test_a_kept_value_whose_class_is_gone_is_told() -> None:
    with pytest.raises(UnreadableResultError, match="ModuleNotFoundError"):
        recover(Kept("pickle", b"cno_such_module\nThing\n.", 24, None, None))


# -- persistent results ---------------------------------------------------------------------------


def test_persistent_results_have_no_limit(tmp_path: Path) -> None:
    persistence = Persistence(tmp_path / "results", CompressedSerializer("pickle", "bz2"))
    persistence = pickle.loads(pickle.dumps(persistence))
    value = "x" * MEGABYTE
    kept = keep_persistent(value, "a/b", persistence, SECRET)
    assert kept.form == "stored"
    assert kept.data is not None
    assert kept.preview == preview(value)
    assert kept.size is not None
    assert kept.size < 10_000
    assert str(tmp_path).encode() in kept.data
    assert recover(kept, persistence.store(SECRET)) == value
    with pytest.raises(TamperedResultError):  # the secret of the settings is another one
        recover(kept)


def test_a_stored_result_says_where_it_is(home: Path) -> None:
    kept = keep_persistent({"x": 1}, "a/b", Persistence(result_serializer="json"), None)
    assert recover(kept) == {"x": 1}
    kept = keep_persistent({"x": 1}, "k" * 300, Persistence("memory://here/and/there"), None)
    assert recover(kept) == {"x": 1}


def test_persistent_results_that_cannot_be_written_raise(tmp_path: Path) -> None:
    with pytest.raises(UnserializableResult, match=r"result\.lock"):
        keep_persistent(Locked(), "a", Persistence(tmp_path), SECRET)
    with pytest.raises(UnserializableResult, match="'json'"):
        keep_persistent(object(), "a", Persistence(tmp_path, "json"), SECRET)
    assert os.listdir(tmp_path) == []


def test_storage_keys_from_templates() -> None:
    run = types.SimpleNamespace(id="r1")
    given_ = Persistence(result_storage_key="{task.name}/{parameters[x]}-{task_run.id}")
    named = types.SimpleNamespace(name="load")
    assert given_.storage_key({"x": 5}, task_run=run, task=named) == "load/5-r1"
    assert Persistence().storage_key({}) is None


@pytest.mark.parametrize("template", ["{y}", "{parameters[y]}", "{task.nope}", "{", "{0}"])
def test_a_template_with_something_unknown_is_an_error(template: str) -> None:
    given_ = Persistence(result_storage_key=template)
    with pytest.raises(StorageKeyTemplateError, match=r"It can use: parameters\[x\], task\."):
        given_.storage_key({"x": 5}, task=object())


# -- previews -------------------------------------------------------------------------------------


@dataclass
class Point:
    x: int
    y: int
    hidden: str = field(default="hidden", repr=False)


@dataclass(slots=True)
class Slotted:
    x: int


class Model(BaseModel):
    name: str
    password: SecretStr = SecretStr("hunter2")
    hidden: int = Field(default=1, repr=False)


class Hostile:
    def __repr__(self) -> str:
        raise AssertionError("asked for its repr")

    __str__ = __repr__

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"asked for {name}")

    def __len__(self) -> int:
        raise AssertionError("asked for its length")


class HostileList(list[Any]):
    def __iter__(self) -> Any:
        raise AssertionError("iterated over")

    def __repr__(self) -> str:
        raise AssertionError("asked for its repr")


class HostileDict(dict[Any, Any]):
    def items(self) -> Any:
        raise AssertionError("asked for its items")

    __iter__ = items


Pair = namedtuple("Pair", "left right")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (-5, "-5"),
        (1.5, "1.5"),
        (float("nan"), "NaN"),
        ('a "b"\n', '"a \\"b\\"\\n"'),
        ("日本", '"日本"'),
        ("\ud800", '"\\ud800"'),
        (b"ab", "b'ab'"),
        ([1, "a", [None]], '[1, "a", [null]]'),
        ((1,), "(1,)"),
        (Pair(1, "x"), 'Pair(left=1, right="x")'),
        ({"a": 1, 2: {"b": ()}}, '{"a": 1, 2: {"b": ()}}'),
        ({1}, "{1}"),
        (frozenset(), "set()"),
        (deque([1, 2]), "deque([1, 2])"),
        (OrderedDict(a=1), '{"a": 1}'),
        (defaultdict(list, a=[1]), '{"a": [1]}'),
        (10**1000, "<int of 3322 bits>"),
        (datetime(2026, 1, 2, tzinfo=UTC), '"2026-01-02 00:00:00+00:00"'),
        (Path("/tmp"), '"/tmp"'),
        (Shade.DARK, "Shade.DARK"),
        (SecretStr("hunter2"), "'**********'"),
        ([SecretBytes(b"hunter2")], "['**********']"),
        (Secret[int](5), "'**********'"),
        (Model(name="x"), "Model(name=\"x\", password='**********')"),
        (Point(1, 2), "Point(x=1, y=2)"),
        (Slotted(1), "Slotted(x=1)"),
        (object(), "<object>"),
        (Hostile(), "<test_results.Hostile>"),
        (HostileList([1, Hostile()]), "[1, <test_results.Hostile>]"),
        (HostileDict(a=1), '{"a": 1}'),
        (len, "<builtin_function_or_method>"),
        (np.zeros((1000, 3)), "<numpy.ndarray float64 (1000, 3)>"),
        (np.float64(2.5), "2.5"),
        (np.int8(3), "3"),
        (
            pd.DataFrame({c: range(10) for c in "abc"}),
            "<pandas.DataFrame 10 rows x 3 columns: a, b, c>",
        ),
        (pd.Series([1.0]), "<pandas.Series float64 (1,)>"),
        (pl.DataFrame({"a": [1]}), "<polars.DataFrame 1 rows x 1 columns: a>"),
        (pl.Series([1]), "<polars.Series Int64 (1,)>"),
        (pl.LazyFrame({"a": [1]}), "<polars.lazyframe.frame.LazyFrame>"),
        (pa.table({"a": [1]}), "<pyarrow.Table 1 rows x 1 columns: a>"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_previews(value: Any, text: str) -> None:
    assert preview(value) == text


@given(
    st.recursive(st.none() | st.integers() | st.text() | st.binary(), st.lists),
    st.integers(0, 300),
)
def test_previews_keep_to_their_limit(value: Any, limit: int) -> None:
    text = preview(value, limit)
    assert len(text) <= limit
    text.encode()
    whole = preview(value, 10**9)
    if len(whole) > limit > 0:
        assert text == whole[: limit - 1] + "…"
    else:
        assert text == whole[:limit]


def test_previews_end_where_a_value_contains_itself() -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    assert preview(loop).startswith("[1, [1, [1, ")
    assert len(preview(nested(50_000))) < 50


def test_previews_of_large_values_do_bounded_work() -> None:
    columns = {f"c{number}": [1] for number in range(2000)}
    for value in ([0] * 10**7, {"k": "x" * 10**8}, pd.DataFrame(columns), bytearray(10**8)):
        tracemalloc.start()
        try:
            text = preview(value)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert len(text) <= 200
        assert peak < 100_000
    assert preview(pd.DataFrame(columns)).endswith("columns: c0, c1, c2, c3, c4, c5, c6, c7, …>")
