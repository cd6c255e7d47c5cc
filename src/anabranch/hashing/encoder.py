"""The encoding: values as bytes that no two different values share.

Each part starts with a tag of one byte, and most tags with eight bytes after it: a number, the
length of what follows, or how many parts follow. So no encoding is the start of another.

    N T F . !   None, True, False, Ellipsis, NotImplemented     i f c   int, float, complex
    I           an int past 64 bits: length, two's complement   s b     str as UTF-8, bytes
    ( [         tuple, list: count, items                       < {     set, dict: count, sorted
    @ O         a kind of ours, a type: length, name, one part  =       labelled fields: count
    *           bytes that `special` gave                       ^       levels up to the same object
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Collection, Iterable
from pathlib import PurePath
from types import EllipsisType, NotImplementedType
from typing import Any, Protocol

from anabranch.errors import UnhashableInput

Special = Callable[[Any], bytes | None]
Writer = Callable[["Encoder", Any], None]

LARGE = 1 << 16  # bytes, from which on what is written goes to the hash
MOST_LEVELS = 200

header = struct.Struct(">cQ").pack
_int64 = struct.Struct(">cq").pack
_float64 = struct.Struct(">cd").pack
_complex = struct.Struct(">cdd").pack
_NAN = _float64(b"f", float("nan"))
_ONLY_STR = {str}
_SHOWN = 60  # characters of a key that errors show
_STR_HEADERS = [header(b"s", length) for length in range(256)]  # twice as fast as packing them


class Hash(Protocol):
    """What takes the bytes."""

    def update(self, data: Any, /) -> object: ...


class Unencodable(Exception):  # ours alone: on its way up it learns the path
    """Something inside the value has no encoding; `steps` lead to it, innermost first."""

    def __init__(self, value: object, reason: str) -> None:
        self.type_name = type_name(type(value))
        self.reason = reason
        self.steps: list[str] = []


def _write_bool(value: bool) -> bytes:
    return b"T" if value else b"F"


def _write_int(value: int) -> bytes:
    try:
        return _int64(b"i", value)
    except struct.error:
        data = value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)
        return header(b"I", len(data)) + data


def _write_float(value: float) -> bytes:
    return _float64(b"f", value) if value == value else _NAN


def _write_complex(value: complex) -> bytes:
    parts = [part if part == part else float("nan") for part in (value.real, value.imag)]
    return _complex(b"c", *parts)


def _write_str(value: str) -> bytes:
    try:
        data = value.encode()
    except UnicodeEncodeError:
        data = value.encode("utf-8", "surrogatepass")
    length = len(data)
    return (_STR_HEADERS[length] if length < 256 else header(b"s", length)) + data


SCALARS: dict[type[Any], Callable[[Any], bytes]] = {
    str: _write_str,
    int: _write_int,
    float: _write_float,
    bool: _write_bool,
    type(None): lambda _: b"N",
    complex: _write_complex,
    EllipsisType: lambda _: b".",
    NotImplementedType: lambda _: b"!",
}


class Encoder:
    """Writes one value; without a hash, into `out` alone."""

    __slots__ = ("_hash", "_open", "_special", "_writer_for", "out")

    def __init__(
        self,
        writer_for: Callable[[type[Any]], Writer | None],
        special: Special | None,
        hashed: Hash | None,
        opened: dict[int, int] | None = None,
    ) -> None:
        self.out = bytearray()
        self._hash = hashed
        self._special = special
        self._writer_for = writer_for
        self._open: dict[int, int] = {} if opened is None else opened  # ids and their levels

    def write_all(self, value: object, name: str, argument: str | None) -> None:
        """Write the value, and all of it to the hash; raises `UnhashableInput`."""
        try:
            self.write(value)
        except Unencodable as error:
            path = name + "".join(reversed(error.steps))
            raise UnhashableInput(path, error.type_name, error.reason, argument) from None
        except RecursionError:
            reason = "it is nested deeper than the stack that is left"
            raise UnhashableInput(name, type_name(type(value)), reason, argument) from None
        self._flush()

    def write(self, value: object) -> None:
        """Write any value."""
        kind = type(value)
        scalar = SCALARS.get(kind)
        if scalar is not None:
            self.out += scalar(value)
            return
        if self._special is not None:
            given = self._special(value)
            if given is not None:
                self.out += header(b"*", len(given)) + given
                return
        opened, identity = self._open, id(value)
        if identity in opened:
            self.out += header(b"^", len(opened) - opened[identity])
            return
        if len(opened) >= MOST_LEVELS:
            raise Unencodable(value, f"it is nested more than {MOST_LEVELS} levels deep")
        writer = self._writer_for(kind)
        if writer is None:
            raise Unencodable(value, "such objects have no lasting identity")
        opened[identity] = len(opened)
        try:
            writer(self, value)
        finally:
            del opened[identity]
        if len(self.out) > LARGE:
            self._flush()

    def items(self, tag: bytes, values: Collection[object]) -> None:
        """Write a sequence: its length and its items."""
        out = self.out
        out += header(tag, len(values))
        value = None
        try:
            for value in values:
                scalar = SCALARS.get(type(value))
                if scalar is None:
                    self.write(value)
                    continue
                out += scalar(value)
                if len(out) > LARGE:
                    self._flush()
        except Unencodable as error:  # the first of this identity is the one that failed
            place = next(i for i, each in enumerate(values) if each is value)
            error.steps.append(f"[{place}]")
            raise

    def pairs(self, given: dict[Any, object]) -> None:
        """Write a dict, in the order of its keys' text or else of their encodings."""
        self.out += header(b"{", len(given))
        if set(map(type, given)) <= _ONLY_STR:
            self._str_pairs(given)
            return
        for encoded, key in self._sorted_keys(given):
            self.out += encoded
            try:
                self.write(given[key])
            except Unencodable as error:
                error.steps.append(f"[{key!r:.{_SHOWN}}]")
                raise

    def _str_pairs(self, given: dict[str, object]) -> None:
        out = self.out
        key = ""
        try:
            for key in sorted(given):
                out += _write_str(key)
                value = given[key]
                scalar = SCALARS.get(type(value))
                if scalar is not None:
                    out += scalar(value)
                else:
                    self.write(value)
        except Unencodable as error:
            error.steps.append(f"[{key!r:.{_SHOWN}}]")
            raise

    def _sorted_keys(self, given: dict[Any, object]) -> list[tuple[bytes, Any]]:
        found = [(self.apart(key, " (a key)"), key) for key in given]
        found.sort(key=lambda each: each[0])
        if len({each[0] for each in found}) < len(found):  # keys that only their ids keep apart
            found.sort(key=lambda each: (each[0], self.apart(given[each[1]], "")))
        return found

    def unordered(self, values: Iterable[object]) -> None:
        """Write a set, in the order of its items' encodings."""
        found = sorted([self.apart(value, " (an item)") for value in values])
        self.out += header(b"<", len(found))
        for each in found:
            self.out += each
        if len(self.out) > LARGE:
            self._flush()

    def apart(self, value: object, step: str) -> bytes:
        """The encoding of a part whose place is not known yet."""
        scalar = SCALARS.get(type(value))
        if scalar is not None:
            return scalar(value)
        other = Encoder(self._writer_for, self._special, None, self._open)
        try:
            other.write(value)
        except Unencodable as error:
            error.steps.append(step)
            raise
        return bytes(other.out)

    def named(self, name: str, value: object) -> None:
        """Write a kind of ours, made up of one value."""
        data = name.encode()
        self.out += header(b"@", len(data)) + data
        self.write(value)

    def typed(self, value: object, fields: Iterable[tuple[str, object]]) -> None:
        """Write an object as its type's name and its fields, each with its label."""
        data = _write_str(type_name(type(value)))
        self.out += b"O" + data[1:]
        self.fields(fields)

    def fields(self, given: Iterable[tuple[str, object]]) -> None:
        """Write values with their labels; an empty label leaves no step in an error's path."""
        listed = list(given)
        self.out += header(b"=", len(listed))
        for label, value in listed:
            self.out += _write_str(label)
            try:
                self.write(value)
            except Unencodable as error:
                if label:
                    error.steps.append(f".{label}")
                raise

    def raw(self, data: memoryview) -> None:
        """Write bytes as they are, large ones without a copy. Their length must stand before."""
        if self._hash is None or data.nbytes < LARGE:
            self.out += data
        else:
            self._flush()
            self._hash.update(data)

    def _flush(self) -> None:
        if self._hash is not None:
            self._hash.update(self.out)
            self.out.clear()


def type_name(kind: type[Any]) -> str:
    """`module:qualname`, with the script's stem for `__main__`."""
    return f"{module_name(kind.__module__)}:{kind.__qualname__}"


def module_name(module: str | None) -> str:
    """A module's name; for `__main__` the script's stem, and in the standard library without the
    private modules that come and go between versions."""
    if module not in ("__main__", "__mp_main__"):
        top, _, inner = (module or "unknown").partition("._")
        return top if inner and top.partition(".")[0] in sys.stdlib_module_names else module or top
    path = getattr(sys.modules.get(module), "__file__", None)
    return PurePath(path).stem if path else "__main__"
