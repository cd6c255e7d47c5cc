"""How the standard library's values are written: containers, numbers, dates, paths and the like."""

from __future__ import annotations

import array
import collections
import datetime as dt
import decimal
import fractions
import functools
import ipaddress
import pathlib
import re
import sys
import types
import uuid
import zoneinfo
from collections.abc import Callable
from typing import Any

from anabranch.hashing.encoder import Encoder, Unencodable, Writer, header


def _write_buffer(tag: bytes) -> Writer:
    def write(encoder: Encoder, value: Any) -> None:
        data = memoryview(value)
        encoder.out += header(tag, data.nbytes)
        encoder.raw(data)

    return write


_write_bytes = _write_buffer(b"b")


def _write_memoryview(encoder: Encoder, value: memoryview) -> None:
    encoder.named("memoryview", (value.format, value.shape, value.tobytes()))


def _write_array(encoder: Encoder, value: array.array[Any]) -> None:
    if value.typecode in ("u", "w"):
        encoder.named("array", (value.typecode, value.tounicode()))
        return
    if sys.byteorder == "big":
        value = value[:]
        value.byteswap()
    encoder.named("array", (value.typecode, value.itemsize, value.tobytes()))


def _named(name: str, parts: Callable[[Any], Any]) -> Writer:
    """Writes values as a kind of ours with these parts."""

    def write(encoder: Encoder, value: Any) -> None:
        encoder.named(name, parts(value))

    return write


def _zone(zone: dt.tzinfo | None) -> str | None:
    """A time zone's name in the database, where it has one."""
    name = getattr(zone, "key", None) or getattr(zone, "zone", None)  # zoneinfo's, pytz's
    return name if isinstance(name, str) else None


def _moment(value: Any) -> tuple[Any, ...]:
    """Of a datetime or time: its text with the offset, its fold, its zone's name."""
    return value.isoformat(), value.fold, _zone(value.tzinfo) or value.tzname()


def _write_zone(encoder: Encoder, value: zoneinfo.ZoneInfo) -> None:
    if value.key is None:  # pyright: ignore[reportUnnecessaryComparison]  # so where it was read from a file
        raise Unencodable(value, "a time zone read from a file has no name")
    encoder.named("zone", value.key)


def _write_module(encoder: Encoder, value: types.ModuleType) -> None:
    encoder.named("module", value.__name__)


WRITERS: dict[type[Any], Writer] = {
    tuple: lambda encoder, value: encoder.items(b"(", value),
    list: lambda encoder, value: encoder.items(b"[", value),
    dict: lambda encoder, value: encoder.pairs(value),
    set: lambda encoder, value: encoder.unordered(value),
    frozenset: _named("frozenset", set),
    bytes: _write_bytes,
    bytearray: lambda encoder, value: encoder.named("bytearray", bytes(value)),
    memoryview: _write_memoryview,
    array.array: _write_array,
    decimal.Decimal: _named("decimal", str),
    fractions.Fraction: _named("fraction", lambda value: (value.numerator, value.denominator)),
    dt.datetime: _named("datetime", _moment),
    dt.date: _named("date", lambda value: value.isoformat()),
    dt.time: _named("time", _moment),
    dt.timedelta: _named("timedelta", lambda v: (v.days, v.seconds, v.microseconds)),
    dt.timezone: _named("timezone", lambda value: (value.utcoffset(None), value.tzname(None))),
    zoneinfo.ZoneInfo: _write_zone,
    uuid.UUID: _named("uuid", lambda value: value.bytes),
    range: _named("range", lambda value: (value.start, value.stop, value.step)),
    slice: _named("slice", lambda value: (value.start, value.stop, value.step)),
    re.Pattern: _named("pattern", lambda value: (value.pattern, value.flags)),
    types.ModuleType: _write_module,
    types.MappingProxyType: _named("mappingproxy", dict),
    types.SimpleNamespace: _named("namespace", vars),
    collections.OrderedDict: _named("ordered dict", lambda value: list(value.items())),
    collections.defaultdict: _named("defaultdict", lambda v: (v.default_factory, dict(v))),
    collections.Counter: _named("counter", dict),
    collections.deque: _named("deque", lambda value: (value.maxlen, list(value))),
    functools.partial: _named("partial", lambda v: (v.func, v.args, v.keywords)),
    **dict.fromkeys(
        (
            *(pathlib.PurePath, pathlib.PurePosixPath, pathlib.PureWindowsPath),
            *(pathlib.Path, pathlib.PosixPath, pathlib.WindowsPath),
        ),
        _named("path", lambda value: value.as_posix()),
    ),
    ipaddress.IPv4Address: _named("ipv4 address", str),
    ipaddress.IPv6Address: _named("ipv6 address", str),
    ipaddress.IPv4Network: _named("ipv4 network", str),
    ipaddress.IPv6Network: _named("ipv6 network", str),
}
