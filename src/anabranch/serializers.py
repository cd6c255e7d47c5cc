"""Serializers: how a result becomes bytes at rest, and a value again."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from anabranch.errors import OptionError, UnknownSerializerError, UnserializableResult
from anabranch.execution.pickling import loads as unpickle
from anabranch.execution.pickling_at_rest import dumps_at_rest

Compression = Literal["zlib", "gzip", "bz2", "lzma"]


@runtime_checkable
class Serializer(Protocol):
    """Turns values into bytes and back; must be picklable, as workers use it too."""

    @property
    def name(self) -> str:
        """What `serializer` knows it by; stands with each result that it wrote."""
        ...

    def dumps(self, value: Any) -> bytes:
        """The value as bytes; raises `UnserializableResult` for one that it cannot write."""
        ...

    def loads(self, data: bytes) -> Any:
        """The other end of `dumps`; may raise anything."""
        ...


@dataclass(frozen=True, slots=True)
class PickleSerializer:
    """Pickle, and cloudpickle by value for what another process could not import."""

    @property
    def name(self) -> str:
        return "pickle"

    def dumps(self, value: Any) -> bytes:
        return dumps_at_rest(value, "The result")

    def loads(self, data: bytes) -> Any:
        return unpickle(data)


@dataclass(frozen=True, slots=True)
class JSONSerializer:
    """JSON, as pydantic writes it: gives plain data back.

    Models and dataclasses come back as dicts, tuples and sets as lists, dates, UUIDs and paths as
    text, bytes as base64, and secrets masked. What pydantic cannot write is an
    `UnserializableResult`.
    """

    @property
    def name(self) -> str:
        return "json"

    def dumps(self, value: Any) -> bytes:
        from pydantic_core import to_json  # loads with the first result that is kept as JSON

        try:
            return to_json(value, bytes_mode="base64", inf_nan_mode="constants")
        except Exception as error:  # pydantic's own, and those of a user's field serializers
            reason = str(error) or type(error).__name__
            raise UnserializableResult("The result", self.name, "result", reason) from error

    def loads(self, data: bytes) -> Any:
        from pydantic_core import from_json  # as above

        return from_json(data)


# Each kind of compressed data begins with a mark of its own.
_MARKS: dict[Compression, bytes] = {
    "zlib": b"\x78",
    "gzip": b"\x1f\x8b",
    "bz2": b"BZh",
    "lzma": b"\xfd7zXZ\x00",
}


@dataclass(frozen=True, slots=True)
class CompressedSerializer:
    """Another serializer's bytes, compressed; reads what any of the compressions wrote.

    Raises `OptionError` for an unknown compression, `UnknownSerializerError` for a serializer.
    """

    serializer: Serializer | str = "pickle"
    compression: Compression = "zlib"
    _inner: Serializer = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.compression not in _MARKS:
            known = ", ".join(map(repr, _MARKS))
            raise OptionError("CompressedSerializer", "compression", self.compression, known)
        object.__setattr__(self, "_inner", serializer(self.serializer))

    @property
    def name(self) -> str:
        return _PREFIX + self._inner.name

    def dumps(self, value: Any) -> bytes:
        data: bytes = importlib.import_module(self.compression).compress(self._inner.dumps(value))
        return data

    def loads(self, data: bytes) -> Any:
        for compression, mark in _MARKS.items():
            if data.startswith(mark):
                return self._inner.loads(importlib.import_module(compression).decompress(data))
        raise ValueError(f"the data is compressed by none of {', '.join(_MARKS)}")


_PREFIX = "compressed/"
_KNOWN: dict[str, type[PickleSerializer] | type[JSONSerializer]] = {
    "pickle": PickleSerializer,
    "json": JSONSerializer,
}


def serializer(given: Serializer | str) -> Serializer:
    """The serializer that a string stands for; an object with the methods of one is itself.

    Strings are `"pickle"`, `"json"`, `"compressed/pickle"`, `"compressed/json"`. Raises
    `UnknownSerializerError`.
    """
    if isinstance(given, str):
        if given in _KNOWN:
            return _KNOWN[given]()
        inner = given.removeprefix(_PREFIX)
        if inner != given and inner in _KNOWN:
            return CompressedSerializer(inner)
    elif isinstance(given, Serializer) and not isinstance(given, type):  # pyright: ignore[reportUnnecessaryIsInstance]  # users without a type checker
        return given
    raise UnknownSerializerError(str(given), [*_KNOWN, *(_PREFIX + name for name in _KNOWN)])
