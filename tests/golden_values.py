"""Named values whose digests must never change, and pairs of values whose digests must differ.

A bare interpreter can import this: what needs numpy, pandas, polars or pyarrow is left out where
that is not installed. `python -m golden_values` prints the digests as JSON, and with `--write` adds
those of new names to golden_hashes.json; one that is there already it never changes.
"""

from __future__ import annotations

import array
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import functools
import importlib.util
import ipaddress
import json
import math
import pathlib
import re
import sys
import types
import typing
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from anabranch.hashing import hexdigest, source_digest

FILE = pathlib.Path(__file__).with_name("golden_hashes.json")


class Colour(enum.Enum):
    RED = 1
    BLUE = "blue"
    NOTHING = object()


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Rights(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()


class Name(enum.StrEnum):
    ANNA = "anna"


@dataclasses.dataclass
class Point:
    x: Any
    y: Any = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    x: Any
    y: Any = 0


class Pair(typing.NamedTuple):
    left: Any
    right: Any


class OtherPair(typing.NamedTuple):
    left: Any
    right: Any


class Plain:
    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)

    def method(self) -> int:
        return 1


class OtherPlain(Plain):
    pass


class Slotted:
    __slots__ = ("__hidden", "a")

    def __init__(self, a: Any) -> None:
        self.a = a
        self.__hidden = 5


class Keyed:
    """Counts by its key alone."""

    def __init__(self, key: Any) -> None:
        self.key = key
        self.lock = object()

    def __anabranch_key__(self) -> Any:
        return self.key


class MyInt(int):
    pass


class MyStr(str):
    pass


class MyList(list):
    pass


class MyDict(dict):
    pass


def add(a: int, b: int = 2) -> int:
    """Adds."""
    return a + b  # with plus


def outer(n: int) -> Callable[[], int]:
    def inner() -> int:
        return n

    return inner


def calls_others(n: int) -> int:
    return add(n, n) if n else called_back(n)


def called_back(n: int) -> int:
    return calls_others(n)


async def waits(n: int) -> int:
    return n


@functools.cache
def cached(n: int) -> int:
    return n


def with_text(n: int, width: int = 3) -> str:
    return f"{n!r:>{width}} {n=} {n:.2f} {{}}" + "ab" + rb"\x".decode()


def with_much(items: list[int], /, *rest: int, key: int = 1, **more: int) -> Iterator[int]:
    match items:
        case [first, *others] if first > 0:
            yield from others
        case {"a": 1, **left}:
            yield len(left)
        case None | Point(x=1):
            pass
        case _:
            raise ValueError from None
    with open("x"), open("y") as _:
        yield (lambda x, *, y=1: x + y)(1)
    try:
        a, *b = (*rest, 1)
        assert a, "text"
    except (ValueError, TypeError) as error:
        del error
    else:
        global _unused
        _unused = [x for x in b if x] if b else {**more}
    finally:
        yield from (i for i in range(3) if i)
    while (n := key) and not items:
        key -= 1 << 2 | n @ 1 if n else -n
        continue
    for _ in ...:
        break


class Recipe:
    """Documented."""

    size: int = 3
    table: typing.ClassVar = {"a": (1, 2.5, None, True, b"x", 1j, ...)}

    @property
    def twice(self) -> int:
        return self.size * 2


DOUBLE, TRIPLE = (lambda x: x * 2), (lambda x: x * 3)


def _cycle_list() -> list[Any]:
    made: list[Any] = [1]
    made.append(made)
    return made


def _cycle_deep() -> list[Any]:
    made: list[Any] = []
    made.append({"a": (made,)})
    return made


def _nested(levels: int) -> list[Any]:
    made: list[Any] = []
    for _ in range(levels):
        made = [made]
    return made


def _numbered(kind: str, given: list[Any]) -> dict[str, Any]:
    return {f"{kind} {place:02}": value for place, value in enumerate(given)}


def values() -> dict[str, Any]:
    """The values that need the standard library alone."""
    utc, plus_two = dt.timezone.utc, dt.timezone(dt.timedelta(hours=2))  # noqa: UP017
    found: dict[str, Any] = {
        **_numbered("single", [None, True, False, ..., NotImplemented]),
        **_numbered("int", [0, 1, -1, 2, 5, 127, 128, 255, 256, -128, -129, 2**31, -(2**31)]),
        **_numbered(
            "big int", [2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64, 10**30, -(10**30)]
        ),
        "huge int": 7**20_000,
        **_numbered("float", [0.0, -0.0, 1.0, -1.0, 0.1, 1e300, 5e-324, 2.0**63, 1 / 3]),
        **_numbered("float special", [math.nan, math.inf, -math.inf]),
        **_numbered("complex", [0j, 1j, 1 + 2j, complex(-0.0, 0.0), complex(math.nan, 1)]),
        **_numbered("str", ["", "a", "1", "None", "ä", "a\u0308", "日本", "😀", "\0", "a\0", " "]),
        **_numbered("surrogate", ["\ud800", "\udfff", "\ud83d\ude00", "a\udc80b"]),
        "long str": "ab" * 100_000,
        **_numbered("bytes", [b"", b"a", b"1", b"\0", b"\xff" * 300]),
        "long bytes": bytes(range(256)) * 1000,
        **_numbered("buffer", [bytearray(b""), bytearray(b"a"), memoryview(b"a"), memoryview(b"")]),
        **_numbered(
            "array", [array.array("i", [1, 2]), array.array("d", [1.5]), array.array("u", "ab")]
        ),
        **_numbered("tuple", [(), (1,), (1, 2), (1, (2, 3)), ((1, 2), 3), ("a", b"a", 1.0, None)]),
        **_numbered("list", [[], [1], [1, 2], [[1], 2], [[], []], [None], [True], ["a", ["b"]]]),
        "long list": list(range(20_000)),
        **_numbered("set", [set(), {1}, {1, "1", b"1"}, {(), frozenset()}, {1.5, 2, None}]),
        "large set": {f"item {n}" for n in range(500)},
        **_numbered("frozenset", [frozenset(), frozenset({1, 2}), frozenset({frozenset({1})})]),
        **_numbered("dict", [{}, {"a": 1}, {"a": 1, "b": 2}, {1: "a"}, {1: 1, "1": 1, None: 0}]),
        **_numbered("deep dict", [{"a": {"b": {"c": [1]}}}, {(1, 2): {3}}, {frozenset({1}): 1}]),
        "dict out of order": {"z": 1, "ä": 2, "a": 3, "😀": 4, "\ud800": 5, "\uffff": 6},
        "large dict": {f"key {n}": n for n in range(500)},
        "nan keys": {math.nan: 1, float("nan"): 2},
        **_numbered("cycle", [_cycle_list(), _cycle_deep()]),
        "deep list": _nested(150),
        **_numbered(
            "decimal", [decimal.Decimal(t) for t in ("0", "1", "1.0", "-0", "1E+5", "NaN")]
        ),
        **_numbered("fraction", [fractions.Fraction(1, 3), fractions.Fraction(2)]),
        **_numbered("date", [dt.date(2024, 2, 29), dt.date.min, dt.date.max]),
        **_numbered(
            "datetime",
            [
                dt.datetime(2024, 2, 29),
                dt.datetime(2024, 2, 29, 1, 2, 3, 4),
                dt.datetime(2024, 10, 27, 2, 30, fold=1),
                dt.datetime(2024, 2, 29, tzinfo=utc),
                dt.datetime(2024, 2, 29, 2, tzinfo=plus_two),
            ],
        ),
        **_numbered("time", [dt.time(0), dt.time(1, 2, 3, 4), dt.time(1, tzinfo=utc)]),
        **_numbered(
            "timedelta", [dt.timedelta(0), dt.timedelta(-1, 5, 6), dt.timedelta(seconds=1)]
        ),
        **_numbered("timezone", [utc, plus_two, dt.timezone(dt.timedelta(0), "Z")]),
        **_numbered("uuid", [uuid.UUID(int=0), uuid.UUID("12345678-1234-5678-1234-567812345678")]),
        **_numbered("range", [range(0), range(3), range(1, 10, 2)]),
        **_numbered("slice", [slice(None), slice(1, 2), slice(1, None, -1)]),
        **_numbered("pattern", [re.compile("a"), re.compile("a", re.I), re.compile(b"a")]),
        **_numbered("path", [pathlib.Path("a/b"), pathlib.PurePosixPath("/a"), pathlib.Path(".")]),
        "windows path": pathlib.PureWindowsPath("C:\\a\\b"),
        **_numbered("address", [ipaddress.ip_address("10.0.0.1"), ipaddress.ip_address("::1")]),
        **_numbered("network", [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::/64")]),
        **_numbered("module", [math, json]),
        "mapping proxy": types.MappingProxyType({"a": 1}),
        "namespace": types.SimpleNamespace(a=1, b=[2]),
        **_numbered(
            "collection",
            [
                collections.OrderedDict(a=1, b=2),
                collections.defaultdict(list, a=[1]),
                collections.Counter("aab"),
                collections.deque([1, 2]),
                collections.deque([1, 2], 5),
            ],
        ),
        **_numbered("enum", [Colour.RED, Colour.BLUE, Colour.NOTHING, Level.LOW, Name.ANNA]),
        **_numbered("flag", [Rights.READ, Rights.READ | Rights.WRITE, Rights(0)]),
        **_numbered(
            "dataclass", [Point(1), Point(1, [2]), Point(Point(1)), Place(1), Place("a", {})]
        ),
        **_numbered("named tuple", [Pair(1, 2), OtherPair(1, 2), Pair((), [Pair(1, 1)])]),
        **_numbered(
            "object", [Plain(), Plain(a=1), Plain(a=1, b=[2]), OtherPlain(a=1), Slotted(3)]
        ),
        **_numbered("keyed", [Keyed(1), Keyed("a"), Keyed([Keyed(1)])]),
        **_numbered("subclass", [MyInt(5), MyStr("a"), MyList([1, 2]), MyDict(a=1)]),
        **_numbered(
            "exception", [ValueError(), ValueError("x", 1), KeyError("x"), OSError(2, "no")]
        ),
        **_numbered(
            "type", [int, dict, type, object, pathlib.PurePath, decimal.Decimal, ValueError]
        ),
        **_numbered("own type", [Point, Colour, OtherPlain, Recipe]),
        **_numbered("alias", [list[int], dict[str, list[int]], int | None, list, int | str]),
        **_numbered("typing", [typing.Any, typing.Callable[[int], str], typing.Literal[1, "a"]]),
        **_numbered("builtin", [len, print, math.sin, "x".upper, str.upper, object.__init__]),
        **_numbered("partial", [functools.partial(len), functools.partial(add, 1, b=2)]),
        **_numbered("function", [add, outer, outer(1), outer(2), calls_others, called_back, waits]),
        **_numbered("hard function", [cached, with_text, with_much, DOUBLE, TRIPLE, json.dumps]),
        **_numbered("method", [Plain().method, Plain(a=1).method, Plain.method]),
        **_numbered(
            "mixed", [{"a": [(1, {2}), Point(Pair(1, [b"x"]))]}, [{}, (), set(), "", b"", 0]]
        ),
    }
    return found


def near_misses() -> dict[str, tuple[Any, Any]]:
    """Pairs that are easily taken for one another."""
    utc = dt.timezone.utc  # noqa: UP017
    noon = dt.datetime(2024, 1, 1, 12, tzinfo=utc)
    two = dt.timezone(dt.timedelta(hours=2))
    shared: list[int] = []
    return {
        "True and 1": (True, 1),
        "False and 0": (False, 0),
        "1 and 1.0": (1, 1.0),
        "1 and its text": (1, "1"),
        "text and bytes": ("1", b"1"),
        "None and its text": (None, "None"),
        "None and 0": (None, 0),
        "None and nothing": (None, ()),
        "zeros of either sign": (0.0, -0.0),
        "nan and infinity": (math.nan, math.inf),
        "real and complex": (1.0, 1 + 0j),
        "complex of either sign": (complex(0, 0.0), complex(0, -0.0)),
        "at the end of 64 bits": (2**63 - 1, 2**63),
        "past the end of a float": (2**53, 2**53 + 1),
        "an int and its float": (2**63, 2.0**63),
        "large ints of either sign": (2**70, -(2**70)),
        "decimal and int": (decimal.Decimal(1), 1),
        "decimals of other precision": (decimal.Decimal("1.0"), decimal.Decimal("1.00")),
        "fraction and int": (fractions.Fraction(1), 1),
        "list and tuple": ([1, 2], (1, 2)),
        "list and set": ([1], {1}),
        "set and frozenset": ({1}, frozenset({1})),
        "empty list and dict": ([], {}),
        "empty list and tuple": ([], ()),
        "empty text and bytes": ("", b""),
        "one item and none": ([None], []),
        "an item and its list": ([1], [[1]]),
        "nested to the left and right": ([[1], 2], [1, [2]]),
        "text split elsewhere": (("ab", "c"), ("a", "bc")),
        "text joined": (("a", "b"), ("ab",)),
        "text with a null": ("a", "a\0"),
        "composed text": ("\u00e4", "a\u0308"),
        "surrogates and what they encode": ("\ud83d\ude00", "\U0001f600"),
        "items in another order": ([1, 2], [2, 1]),
        "keys and values swapped": ({"a": "b"}, {"b": "a"}),
        "values swapped": ({"a": 1, "b": 2}, {"a": 2, "b": 1}),
        "keys of another type": ({1: "a"}, {"1": "a"}),
        "a key of True and of 1": ({True: "a"}, {1: "a"}),
        "a dict and its items": ({"a": 1}, [("a", 1)]),
        "a dict and its key": ({"a": None}, {"a"}),
        "an ordered dict and a dict": (collections.OrderedDict(a=1), {"a": 1}),
        "ordered dicts in another order": (
            collections.OrderedDict(a=1, b=2),
            collections.OrderedDict(b=2, a=1),
        ),
        "a counter and a dict": (collections.Counter("a"), {"a": 1}),
        "a defaultdict and a dict": (collections.defaultdict(int, a=1), {"a": 1}),
        "deques of another length": (collections.deque([1]), collections.deque([1], 5)),
        "bytes and bytearray": (b"a", bytearray(b"a")),
        "bytes and memoryview": (b"a", memoryview(b"a")),
        "arrays of another type": (array.array("i", [1]), array.array("h", [1])),
        "a range and its list": (range(3), [0, 1, 2]),
        "a slice and a range": (slice(0, 3, 1), range(0, 3, 1)),
        "a date and its midnight": (dt.date(2024, 1, 1), dt.datetime(2024, 1, 1)),
        "a date and its text": (dt.date(2024, 1, 1), "2024-01-01"),
        "naive and aware": (noon.replace(tzinfo=None), noon),
        "one instant in two zones": (noon, noon.astimezone(two)),
        "one offset under two names": (utc, dt.timezone(dt.timedelta(0), "Z")),
        "the two of a repeated hour": (noon.replace(fold=0), noon.replace(fold=1)),
        "a timedelta and its seconds": (dt.timedelta(seconds=1), 1.0),
        "a uuid and its text": (uuid.UUID(int=1), str(uuid.UUID(int=1))),
        "a path and its text": (pathlib.Path("a"), "a"),
        "paths before they are resolved": (pathlib.Path("a/../b"), pathlib.Path("b")),
        "an enum and its value": (Level.LOW, 1),
        "a text enum and its value": (Name.ANNA, "anna"),
        "members of an enum": (Colour.RED, Colour.BLUE),
        "dataclasses with the same fields": (Point(1, 2), Place(1, 2)),
        "a dataclass and its dict": (Point(1, 2), {"x": 1, "y": 2}),
        "named tuples with the same fields": (Pair(1, 2), OtherPair(1, 2)),
        "a named tuple and a tuple": (Pair(1, 2), (1, 2)),
        "an object and one of a subclass": (Plain(a=1), OtherPlain(a=1)),
        "an attribute of None and none": (Plain(a=None), Plain()),
        "an object and its key": (Keyed("a"), "a"),
        "a subclass of int": (MyInt(1), 1),
        "a subclass of str": (MyStr("a"), "a"),
        "a subclass of list": (MyList([1]), [1]),
        "a class and an object of it": (Plain, Plain()),
        "a type and its name": (int, "builtins:int"),
        "two lambdas on a line": (DOUBLE, TRIPLE),
        "closures over other values": (outer(1), outer(2)),
        "a function and its partial": (add, functools.partial(add)),
        "partials of other arguments": (functools.partial(add, 1), functools.partial(add, b=1)),
        "methods of other objects": (Plain().method, Plain(a=1).method),
        "a method and its function": (Plain().method, Plain.method),
        "exceptions of other types": (KeyError("x"), ValueError("x")),
        "patterns of other flags": (re.compile("a"), re.compile("a", re.I)),
        "a pattern and its text": (re.compile("a"), "a"),
        "addresses of two kinds": (ipaddress.ip_address("::1"), ipaddress.ip_address("0.0.0.1")),
        "a module and its name": (math, "math"),
        "a cycle and its first round": (_cycle_list(), [1, [1]]),
        "ellipsis and not implemented": (..., NotImplemented),
        "a type and its alias": (list, list[int]),
        "one list twice and a cycle": ([shared, shared], [shared, [shared]]),
    }


def _installed(*names: str) -> bool:
    return all(importlib.util.find_spec(name) is not None for name in names)


def table_values() -> dict[str, Any]:
    """The values of numpy, pandas, polars and pyarrow, as far as they are installed."""
    found: dict[str, Any] = {}
    if _installed("numpy"):
        import numpy as np

        found |= _numbered(
            "numpy",
            [
                np.arange(5, dtype="i8"),
                np.arange(6, dtype="f4").reshape(2, 3),
                np.arange(6, dtype="i2").reshape(2, 3).T,
                np.array([1.5, np.nan, -0.0]),
                np.array([1 + 2j]),
                np.array(["a", "bcd"]),
                np.array([b"a"]),
                np.array([True, False]),
                np.array([1, "x", None], dtype=object),
                np.array(["2024-01-01"], "M8[D]"),
                np.zeros(2, [("a", "i4"), ("b", "f8", (2,))]),
                np.zeros((0, 3)),
                np.array(5),
                np.ma.array([1, 2], mask=[False, True]),
                np.float64(1.5),
                np.int32(1),
                np.dtype("f8"),
                np.linspace(0, 1, 200_000),
            ],
        )
    if _installed("numpy", "pandas"):
        import pandas as pd

        found |= _numbered(
            "pandas",
            [
                pd.DataFrame({"a": [1, 2], "b": [0.5, None]}),
                pd.DataFrame({"s": ["x", None]}, index=["one", "two"]),
                pd.DataFrame(),
                pd.Series([1, 2], name="n"),
                pd.Series([1, None], dtype="Int64"),
                pd.Series(["a", "b", "a"], dtype="category"),
                pd.date_range("2024-01-01", periods=3, tz="UTC"),
                pd.MultiIndex.from_product([[1, 2], ["a"]]),
                pd.Timestamp("2024-01-01 00:00:00.000000001"),
                pd.NaT,
                pd.NA,
                pd.Series([[1], {"a": 2}]),
            ],
        )
    if _installed("numpy", "polars"):
        import polars as pl

        found |= _numbered(
            "polars",
            [
                pl.DataFrame({"a": [1, None], "b": ["x", None]}),
                pl.Series("f", [0.5, None, float("nan")]),
                pl.Series("d", [dt.date(2024, 1, 1), None]),
                pl.Series("l", [[1, 2], None, []]),
                pl.Series("s", [{"a": 1, "b": "x"}]),
                pl.Series("b", [True, None]),
                pl.DataFrame(),
            ],
        )
    if _installed("numpy", "pyarrow"):
        import pyarrow as pa

        found |= _numbered(
            "arrow",
            [
                pa.table({"a": [1, None], "b": ["x", None]}),
                pa.array([0.5, None]),
                pa.array(["a", "", None]),
                pa.array([[1, 2], None, []]),
                pa.array([{"a": 1, "b": "x"}, None]),
                pa.array(["a", "b", "a"]).dictionary_encode(),
                pa.array([True, None]),
                pa.array([dt.date(2024, 1, 1), None]),
                pa.record_batch({"a": [1]}),
                pa.scalar(5),
            ],
        )
    return found


def digests() -> dict[str, str]:
    """The digests of all values here, and of the sources of some functions."""
    found = {name: hexdigest(value) for name, value in {**values(), **table_values()}.items()}
    sources = (
        add,
        outer,
        calls_others,
        waits,
        cached,
        with_text,
        with_much,
        DOUBLE,
        TRIPLE,
        Recipe,
    )
    for place, fn in enumerate(sources):
        found[f"source {place:02}"] = source_digest(fn).hex()
    return found


def main(arguments: list[str]) -> None:
    """Print the digests, or write those of new names to the file."""
    if arguments != ["--write"]:
        json.dump(digests(), sys.stdout)
        return
    kept = json.loads(FILE.read_text()) if FILE.exists() else {}
    FILE.write_text(json.dumps({**digests(), **kept}, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    import golden_values  # as the tests import it, so that its classes have the same names

    golden_values.main(sys.argv[1:])
