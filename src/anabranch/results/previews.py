"""Previews: a value in a line for people, at a cost that does not grow with it.

No code of a user's class is called: what is not known here is told by its type alone.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from itertools import islice
from json.encoder import encode_basestring
from pathlib import Path, PosixPath, PurePosixPath
from typing import Any
from uuid import UUID

from pydantic import BaseModel, Secret, SecretBytes, SecretStr

MASK = "**********"
DEEPEST = 8
"""Levels into a value that a preview goes."""
WIDEST_INTEGER = 1024
"""Bits of an integer up to which its digits are told."""
COLUMNS = 8
"""Columns of a frame that are named."""


def preview(value: Any, limit: int = 200) -> str:
    """The value as JSON-like text of at most `limit` characters, cut with an ellipsis.

    Secrets of pydantic are masked. Never raises, and takes a bounded time whatever the value.
    """
    line = _Line(limit)
    try:
        _tell(value, line, 0)
    except Exception:  # of a library's object in an odd state
        line = _Line(limit)
        line.add(_type_name(_type(value)))
    return line.text()


def size_text(size: int) -> str:
    """A number of bytes for people: `"1.2 GB"`."""
    number, unit = float(size), "bytes"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if number < 1000:
            break
        number, unit = number / 1000, larger
    return f"{number:.3g} {unit}" if unit != "bytes" else f"{size} bytes"


class _Line:
    """Text that stops to grow once it is full."""

    __slots__ = ("left", "limit", "parts")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.left = limit
        self.parts: list[str] = []

    def add(self, text: str) -> None:
        self.parts.append(text)
        self.left -= len(text)

    def text(self) -> str:
        text = "".join(self.parts)
        if len(text) > self.limit:
            text = text[: max(self.limit - 1, 0)] + "…" if self.limit else ""
        if text.isascii():
            return text
        return text.encode("utf-8", "backslashreplace").decode()  # surrogates without a partner


def _tell(value: object, line: _Line, depth: int) -> None:
    teller = _TELLERS.get(type(value))
    if teller is None:
        teller = _teller(value)
    teller(value, line, depth)


def _tell_none(_value: None, line: _Line, _depth: int) -> None:
    line.add("null")


def _tell_truth(value: bool, line: _Line, _depth: int) -> None:
    line.add("true" if value else "false")


def _tell_integer(value: int, line: _Line, _depth: int) -> None:
    bits = int.bit_length(value)
    line.add(int.__repr__(value) if bits <= WIDEST_INTEGER else f"<int of {bits} bits>")


def _tell_float(value: float, line: _Line, _depth: int) -> None:
    text = float.__repr__(value)
    line.add("NaN" if text == "nan" else text)


def _tell_text(value: str, line: _Line, _depth: int) -> None:
    line.add(encode_basestring(str.__getitem__(value, slice(0, max(line.left, 0) + 1))))


def _tell_bytes(value: bytes | bytearray, line: _Line, _depth: int) -> None:
    line.add(repr(bytes(memoryview(value)[: max(line.left, 0) + 1])))


# The ways of the base classes, whatever a subclass makes of them.
_list: Any = list
_tuple: Any = tuple
_deque: Any = deque
_dict: Any = dict


def _tell_list(value: Any, line: _Line, depth: int) -> None:
    _tell_items("[", _list.__iter__(value), "]", line, depth)


def _tell_tuple(value: Any, line: _Line, depth: int) -> None:
    end = ",)" if _tuple.__len__(value) == 1 else ")"
    _tell_items("(", _tuple.__iter__(value), end, line, depth)


def _tell_set(value: Any, line: _Line, depth: int) -> None:
    base: Any = set if isinstance(value, set) else frozenset
    if base.__len__(value):
        _tell_items("{", base.__iter__(value), "}", line, depth)
    else:
        line.add("set()")


def _tell_deque(value: Any, line: _Line, depth: int) -> None:
    _tell_items("deque([", _deque.__iter__(value), "])", line, depth)


def _tell_items(begin: str, items: Iterable[Any], end: str, line: _Line, depth: int) -> None:
    line.add(begin)
    if depth >= DEEPEST:
        line.add("…")
    else:
        first = True
        for item in items:
            if line.left < 0:
                return
            if not first:
                line.add(", ")
            first = False
            _tell(item, line, depth + 1)
    line.add(end)


def _tell_dict(value: Any, line: _Line, depth: int) -> None:
    _tell_pairs("{", _dict.items(value), ": ", "}", line, depth)


def _tell_pairs(
    begin: str, pairs: Iterable[tuple[Any, Any]], between: str, end: str, line: _Line, depth: int
) -> None:
    line.add(begin)
    if depth >= DEEPEST:
        line.add("…")
    else:
        first = True
        for key, item in pairs:
            if line.left < 0:
                return
            if not first:
                line.add(", ")
            first = False
            if between == "=":
                line.add(key)
            else:
                _tell(key, line, depth + 1)
            line.add(between)
            _tell(item, line, depth + 1)
    line.add(end)


def _tell_secret(_value: Any, line: _Line, _depth: int) -> None:
    line.add(f"'{MASK}'")


def _tell_plainly(value: Any, line: _Line, _depth: int) -> None:
    line.add(f'"{value}"')


def _tell_member(value: Any, line: _Line, _depth: int) -> None:
    line.add(f"{type(value).__name__}.{value._name_}")


def _tell_type_of(value: Any, line: _Line, _depth: int) -> None:
    line.add(_type_name(_type(value)))


def _type(value: object) -> Any:
    """The class, as something that may have any attribute."""
    return type(value)


def _type_name(kind: type) -> str:
    name = f"{kind.__module__}.{kind.__qualname__}"
    return f"<{name.removeprefix('builtins.')}>"


_TELLERS: dict[type, Callable[[Any, _Line, int], None]] = {
    type(None): _tell_none,
    bool: _tell_truth,
    int: _tell_integer,
    float: _tell_float,
    str: _tell_text,
    bytes: _tell_bytes,
    bytearray: _tell_bytes,
    list: _tell_list,
    tuple: _tell_tuple,
    dict: _tell_dict,
    set: _tell_set,
    frozenset: _tell_set,
    deque: _tell_deque,
    **dict.fromkeys(
        (date, datetime, time, timedelta, Decimal, UUID, PosixPath, PurePosixPath, Path, complex),
        _tell_plainly,
    ),
}
"""By exact type, since a subclass may have methods of its own."""


def _teller(value: Any) -> Callable[[Any, _Line, int], None]:
    """How to tell of a value of no type in `_TELLERS`."""
    kind = _type(value)
    told = _LIBRARIES.get(str(kind.__module__).partition(".")[0])
    if told is not None:
        return told
    bases = kind.__mro__
    if Secret in bases or SecretStr in bases or SecretBytes in bases:
        return _tell_secret
    if issubclass(kind, Secret):  # a parametrised one
        return _tell_secret
    if Enum in bases:
        return _tell_member
    for base in (int, float, str, bytes, bytearray, list, dict, set, frozenset, deque):
        if base in bases:
            return _TELLERS[base]
    if tuple in bases:
        return _tell_named_tuple if hasattr(kind, "_fields") else _tell_tuple
    if BaseModel in bases:
        return _tell_model
    if "__dataclass_fields__" in kind.__dict__:
        return _tell_dataclass
    for base in bases:
        told = _LIBRARIES.get(str(base.__module__).partition(".")[0])
        if told is not None:
            return told
    return _tell_type_of


# -- things with fields ---------------------------------------------------------------------------


def _tell_named_tuple(value: Any, line: _Line, depth: int) -> None:
    kind = _type(value)
    pairs = zip(kind._fields, _tuple.__iter__(value), strict=False)
    _tell_pairs(f"{kind.__name__}(", pairs, "=", ")", line, depth)


def _tell_model(value: BaseModel, line: _Line, depth: int) -> None:
    kind = _type(value)
    stored: dict[str, Any] = object.__getattribute__(value, "__dict__")
    fields = kind.model_fields
    shown = ((name, stored[name]) for name in fields if name in stored and fields[name].repr)
    _tell_pairs(f"{kind.__name__}(", shown, "=", ")", line, depth)


def _tell_dataclass(value: Any, line: _Line, depth: int) -> None:
    kind = _type(value)
    shown = (
        (name, object.__getattribute__(value, name))
        for name, field in kind.__dataclass_fields__.items()
        if field.repr and field._field_type.name == "_FIELD"  # not a ClassVar or InitVar
    )
    _tell_pairs(f"{kind.__name__}(", shown, "=", ")", line, depth)


# -- arrays and frames ----------------------------------------------------------------------------


def _tell_numpy(value: Any, line: _Line, depth: int) -> None:
    if hasattr(_type(value), "shape") and hasattr(_type(value), "dtype"):
        if value.shape == () and type(value).__name__ != "ndarray":  # a number of numpy's
            plain = value.item()
            if type(plain) in _TELLERS:
                _tell(plain, line, depth)
                return
        _tell_array(value, line, depth)
    else:
        _tell_type_of(value, line, depth)


def _tell_array(value: Any, line: _Line, _depth: int) -> None:
    line.add(f"{_root_name(value)} {_dtype_name(value.dtype)} {value.shape}>")


@functools.lru_cache(maxsize=64, typed=True)
def _dtype_name(dtype: Any) -> str:
    """As the library tells it, which takes numpy longer than all else here."""
    return str(dtype)[:100]


def _tell_pandas_or_polars(value: Any, line: _Line, depth: int) -> None:
    kind = _type(value)
    name = kind.__name__
    if not hasattr(kind, "shape"):  # not read yet: to ask it would read it
        _tell_type_of(value, line, depth)
    elif hasattr(kind, "columns") or name == "DataFrame":
        rows, columns = value.shape
        _tell_frame(value, rows, columns, value.columns, line)
    else:
        _tell_array(value, line, depth)


def _tell_arrow(value: Any, line: _Line, depth: int) -> None:
    kind = _type(value)
    if hasattr(kind, "num_rows") and hasattr(kind, "num_columns"):
        _tell_frame(value, value.num_rows, value.num_columns, value.schema.names, line)
    else:
        _tell_type_of(value, line, depth)


def _tell_frame(value: Any, rows: int, columns: int, names: Iterable[Any], line: _Line) -> None:
    line.add(f"{_root_name(value)} {rows} rows x {columns} columns: ")
    for number, name in enumerate(islice(iter(names), COLUMNS)):
        line.add(", " if number else "")
        if type(name) is str:
            line.add(name[: max(line.left, 0) + 1])
        else:
            _tell(name, line, DEEPEST - 1)
    line.add(", …>" if columns > COLUMNS else ">")


def _root_name(value: Any) -> str:
    """`<numpy.ndarray`: the library and the class, without the rooms between."""
    kind = _type(value)
    return f"<{kind.__module__.partition('.')[0]}.{kind.__qualname__}"


_LIBRARIES: dict[str, Callable[[Any, _Line, int], None]] = {
    "numpy": _tell_numpy,
    "pandas": _tell_pandas_or_polars,
    "polars": _tell_pandas_or_polars,
    "pyarrow": _tell_arrow,
}
