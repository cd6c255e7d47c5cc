"""Digests: golden values, near misses, properties, sources, and errors that show the way."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.util
import io
import json
import logging
import math
import os
import subprocess
import sys
import threading
import typing
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import golden_values
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imports import loads_none_of

from anabranch.errors import UnhashableInput
from anabranch.hashing import digest, hexdigest, source_digest
from anabranch.logging import prints_logged

HERE = Path(__file__).parent
GOLDEN: dict[str, str] = json.loads(golden_values.FILE.read_text())
NEAR = golden_values.near_misses()
OTHER_PYTHONS = ["3.12.1", "3.13.0"]


# golden values


def test_golden_values_here() -> None:
    found = golden_values.digests()
    assert len(found) >= 250
    assert {name: GOLDEN[name] for name in found} == found


def test_print_is_itself_where_prints_are_logged() -> None:
    plain = digest(print)
    with prints_logged():
        assert digest(print) == plain


def test_golden_values_differ_from_each_other() -> None:
    digests = [GOLDEN[name] for name in golden_values.values()]
    assert len(golden_values.values()) >= 200
    assert len(set(digests)) == len(digests)


def _digests_in(python: str, **environment: str) -> dict[str, str]:
    path = os.pathsep.join([str(HERE.parent / "src"), str(HERE)])
    done = subprocess.run(
        [python, "-m", "golden_values"],
        env={"PYTHONPATH": path, "HOME": os.environ["HOME"], **environment},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("seed", ["1", "4242"])
def test_golden_values_under_another_hash_seed(seed: str) -> None:
    found = _digests_in(sys.executable, PYTHONHASHSEED=seed)
    assert found == golden_values.digests()


@pytest.mark.parametrize("version", OTHER_PYTHONS)
def test_golden_values_in_another_python(version: str) -> None:
    python = Path.home() / ".pyenv/versions" / version / "bin/python"
    if not python.exists():
        pytest.skip(f"no Python {version} here")
    found = _digests_in(str(python))
    assert len(found) >= 210
    assert found == {name: GOLDEN[name] for name in found}


@pytest.mark.parametrize("name", NEAR)
def test_near_misses_differ(name: str) -> None:
    one, other = NEAR[name]
    assert digest(one) != digest(other)
    assert digest([one]) != digest([other])
    assert digest(one) == digest(one)


def test_there_are_fifty_near_misses() -> None:
    assert len(NEAR) >= 50


# properties

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=4)
    | st.binary(max_size=4)
    | st.complex_numbers()
)
KEYS = st.text(max_size=2) | st.integers(-2, 2) | st.booleans() | st.tuples(st.integers(0, 2))
NESTED = st.recursive(
    SCALARS | st.frozensets(KEYS, max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=3)
        | st.sets(KEYS, max_size=3)
    ),
    max_leaves=8,
)


def typed(value: Any) -> Any:
    """A value that equals another's only if both look the same: a model of the encoding."""
    match value:
        case float():
            return "float", "nan" if value != value else value.hex()
        case complex():
            return "complex", typed(value.real), typed(value.imag)
        case list() | tuple():
            return type(value).__name__, tuple(map(typed, value))
        case set() | frozenset():
            return type(value).__name__, frozenset(map(typed, value))
        case dict():
            return "dict", frozenset((typed(k), typed(v)) for k, v in value.items())
        case _:
            return type(value).__name__, value


@given(NESTED, NESTED)
def test_digests_are_equal_where_values_look_the_same(one: Any, other: Any) -> None:
    assert (digest(one) == digest(other)) == (typed(one) == typed(other))


# Values so small that two often are each other's next neighbours.
SMALL = st.recursive(
    st.sampled_from(["", "a", "aa", b"", b"a", 0, 1, True, 1.0, None]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.tuples(inner)
        | st.dictionaries(st.sampled_from(["", "a", 1]), inner, max_size=2)
        | st.frozensets(st.sampled_from(["", "a", 1]), max_size=2)
    ),
    max_leaves=4,
)


def test_small_values_never_share_an_encoding() -> None:
    found: dict[bytes, Any] = {}
    seen: set[Any] = set()

    @settings(max_examples=3000, database=None, deadline=None)
    @given(SMALL)
    def collect(value: Any) -> None:
        look = typed(value)
        assert found.setdefault(digest(value), look) == look
        seen.add(look)

    collect()
    assert len(seen) == len(found) > 300


@given(st.lists(NESTED, max_size=4))
def test_a_digest_does_not_depend_on_the_object(items: list[Any]) -> None:
    again = json.loads(json.dumps(len(items)))  # another object
    assert digest(items) == digest([*items]) and digest(tuple(items)) == digest((*items,))
    assert digest({"n": again, "items": items}) == digest({"items": items, "n": len(items)})


@given(
    st.dictionaries(KEYS, NESTED, max_size=5)
    | st.dictionaries(st.text(max_size=2), NESTED, min_size=2, max_size=5),
    st.randoms(use_true_random=False),
)
def test_insertion_order_does_not_count(made: dict[Any, Any], random: Any) -> None:
    items = list(made.items())
    random.shuffle(items)
    assert digest(dict(items)) == digest(made)


@given(st.lists(SCALARS, max_size=5))
def test_the_quick_way_is_no_other(items: list[Any]) -> None:
    assert digest(tuple(items)) == digest(tuple(items), lambda _: None)


def test_keys_that_are_equal_apart_from_their_ids() -> None:
    one, other = float("nan"), float("nan")
    assert digest({one: 1, other: 2}) == digest({other: 2, one: 1})
    assert digest({one: 1, other: 2}) != digest({one: 1, other: 1})


def test_large_values_are_the_same_as_in_one_piece() -> None:
    large = b"x" * 300_000
    assert digest([large, 1]) == digest([bytes(bytearray(large)), 1])
    assert digest([large, 1]) != digest([large[:-1] + b"y", 1])
    assert digest({(large,): 1}) != digest({(large[:-1],): 1})


def test_special_stands_in() -> None:
    class Future:
        pass

    future = Future()
    seen: list[Any] = []

    def special(value: Any) -> bytes | None:
        seen.append(value)
        return b"its key" if value is future else None

    found = digest({"a": [future, 1]}, special)
    assert found == digest({"a": [future, 1]}, special)
    assert found != digest({"a": [future, 1]}, lambda v: b"other" if v is future else None)
    assert found != digest({"a": [b"its key", 1]}, special)
    assert {"a": [future, 1]} in seen and future in seen and 1 not in seen


# objects


def test_models_of_pydantic_and_attrs() -> None:
    import pydantic

    class Model(pydantic.BaseModel):
        a: int
        b: list[int] = []
        _private: int = 1

    class Other(pydantic.BaseModel):
        a: int
        b: list[int] = []

    assert digest(Model(a=1)) == digest(Model(a=1, b=[]))
    assert len({digest(m) for m in (Model(a=1), Model(a=2), Other(a=1), Model(a=1, b=[1]))}) == 4
    changed = Model(a=1)
    changed._private = 2
    assert digest(changed) != digest(Model(a=1))


def test_cached_properties_of_models_do_not_count() -> None:
    import pydantic

    class Model(pydantic.BaseModel):
        a: int

        @functools.cached_property
        def lock(self) -> Any:
            return threading.Lock()

    used = Model(a=1)
    assert used.lock
    assert digest(used) == digest(Model(a=1))


def test_attrs_classes_by_their_fields() -> None:
    class Like:
        __attrs_attrs__ = (type("A", (), {"name": "x"}),)

        def __init__(self, x: int) -> None:
            self.x = x
            self.cached = object()

    assert digest(Like(1)) == digest(Like(1)) != digest(Like(2))


def test_private_slots_count() -> None:
    one, other = golden_values.Slotted(1), golden_values.Slotted(1)
    other._Slotted__hidden = 6  # type: ignore[attr-defined]
    assert digest(one) != digest(other)


def test_tasks_count_by_their_function() -> None:
    from anabranch import task

    assert digest(task(golden_values.add)) == digest(task(golden_values.add, retries=3))
    assert digest(task(golden_values.add)) != digest(task(golden_values.waits))


def test_subclasses_count_by_what_they_hold() -> None:
    class Odd(list):
        def __iter__(self) -> Any:
            return iter([object()])

        def __len__(self) -> int:
            return 7

    class Lower(dict):
        def __getitem__(self, key: Any) -> Any:
            raise KeyError(key)

        def items(self) -> Any:
            return []

    class Loud(str):
        def __str__(self) -> str:
            return "LOUD"

    for kind, one, other in ((Odd, [1], [2]), (Lower, {"a": 1}, {"a": 2}), (Loud, "a", "b")):
        assert digest(kind(one)) == digest(kind(one)) != digest(kind(other))


def test_attributes_of_named_tuples_count() -> None:
    class Named(golden_values.Pair):
        pass

    one, other = Named(1, 2), Named(1, 2)
    other.note = "x"
    assert digest(one) != digest(other)


def test_loggers_and_the_files_of_errors_count() -> None:
    assert digest(logging.getLogger("a")) == digest(logging.getLogger("a"))
    assert digest(logging.getLogger("a")) != digest(logging.getLogger("b"))
    assert digest(OSError(2, "no", "a")) != digest(OSError(2, "no", "b"))


def test_decorated_functions_count_with_what_is_around_them() -> None:
    def times(factor: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def decorate(fn: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(fn)
            def wrapper(*args: Any) -> Any:
                return fn(*args), factor

            return wrapper

        return decorate

    add, waits = golden_values.add, golden_values.waits
    assert digest(times(2)(add)) == digest(times(2)(add)) != digest(times(3)(add))
    assert digest(times(2)(add)) not in (digest(add), digest(times(2)(waits)))
    assert source_digest(times(2)(add)) == source_digest(times(2)(add))
    assert source_digest(times(2)(add)) != source_digest(times(3)(add))
    with pytest.raises(UnhashableInput, match=r"closure\['factor'\]"):
        digest(times(object())(add))
    assert source_digest(times(object())(add)) == source_digest(add)


def test_objects_count_by_the_state_that_their_class_gives() -> None:
    class Counter:
        def __init__(self, n: int) -> None:
            self.n = n
            self.lock = threading.Lock()

        def __getstate__(self) -> dict[str, int]:
            return {"n": self.n}

    assert digest(Counter(1)) == digest(Counter(1)) != digest(Counter(2))
    assert digest(io.BytesIO(b"a")) == digest(io.BytesIO(b"a")) != digest(io.BytesIO(b"b"))


def test_a_module_of_the_users_with_a_standard_name(tmp_path: Path) -> None:
    for body in ("1", "2"):
        (tmp_path / body).mkdir()
        (tmp_path / body / "queue.py").write_text(f"def f(): return {body}\n")
    code = "import queue; from anabranch.hashing import hexdigest; print(hexdigest(queue.f))"
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONPATH": os.pathsep.join([str(tmp_path / body), str(HERE.parent / "src")])},
            capture_output=True,
            check=True,
            timeout=30,
        ).stdout
        for body in ("1", "2")
    }
    assert len(found) == 2


def test_an_object_that_answers_everything() -> None:
    class Everything:
        def __getattr__(self, name: str) -> Any:
            return Everything()

        def __call__(self) -> None: ...

    with pytest.raises(UnhashableInput):
        digest(Everything())


# errors


@dataclasses.dataclass
class Network:
    weights: list[Any]


@pytest.mark.parametrize(
    ("value", "path", "kind"),
    [
        (threading.Lock(), "value", "_thread:lock"),
        ([1, [2, threading.Lock()]], "value[1][1]", "_thread:lock"),
        ({"a": {"b": object()}}, "value['a']['b']", "builtins:object"),
        ({(1,): object()}, "value[(1,)]", "builtins:object"),
        (Network([0, 1, 2, iter([])]), "value.weights[3]", "builtins:list_iterator"),
        ({1: {object(): 1}}, "value[1] (a key)", "builtins:object"),
        ({object()}, "value (an item)", "builtins:object"),
        ((n for n in ()), "value", "builtins:generator"),
        ([threading.local()], "value[0]", "_thread:_local"),
        ([hashlib.md5()], "value[0]", "_hashlib:HASH"),
        ([zip()], "value[0]", "builtins:zip"),
        (golden_values.Plain(a=[object()]), "value.a[0]", "builtins:object"),
    ],
)
def test_what_has_no_identity_is_named(value: Any, path: str, kind: str) -> None:
    with pytest.raises(UnhashableInput) as caught:
        digest(value)
    assert (caught.value.path, caught.value.type_name) == (path, kind)
    assert isinstance(caught.value, TypeError)


def test_the_error_shows_the_ways_out() -> None:
    with pytest.raises(UnhashableInput) as caught:
        digest(Network([0, 1, 2, object()]), argument="model")
    told = str(caught.value)
    assert "arguments['model'].weights[3], of type builtins:object" in told
    assert "INPUTS - 'model'" in told and "cache_key_fn" in told and "__anabranch_key__()" in told


def test_nesting_without_end() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(UnhashableInput, match="nested more than 200 levels deep"):
        digest(deep)
    while deep:  # so that nothing is left that takes a deep stack to free
        deep = deep[0]


def test_cycles_end() -> None:
    one: list[Any] = [1]
    one.append({"again": one})
    other: list[Any] = [1]
    other.append({"again": other})
    assert digest(one) == digest(other)
    other[0] = 2
    assert digest(one) != digest(other)


# sources


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Makes a module called `made` of a text; each has a file of its own."""
    count = iter(range(1000))

    def make(text: str) -> ModuleType:
        path = tmp_path / f"made_{next(count)}.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location("made", path)
        assert spec is not None and spec.loader is not None
        made = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "made", made)  # where inspect looks for classes
        spec.loader.exec_module(made)
        return made

    return make


BASE = """
def helper(n):
    return n + 1

def decorate(**options):
    return lambda fn: fn

@decorate(retries=1)
def f(a, b=2):
    return helper(a) * b
"""

SAME = {
    "comments": BASE.replace("return helper", "# why\n\n    return helper"),
    "indentation": BASE.replace("    return", "  return"),
    "brackets": BASE.replace("helper(a) * b", "(\n        helper(a)\n        * b\n    )"),
    "a docstring": BASE.replace("b=2):\n", 'b=2):\n    """Documented."""\n'),
    "other decorators": BASE.replace("retries=1", "retries=5"),
    "none": BASE.replace("@decorate(retries=1)\n", ""),
    "other functions": BASE + "\ndef more():\n    return 5\n",
    "further down": "x = 1\n\n\n" + BASE,
}
CHANGED = {
    "the body": BASE.replace("* b", "+ b"),
    "a default": BASE.replace("b=2", "b=3"),
    "a parameter": BASE.replace("(a, b=2)", "(a, *, b=2)"),
    "async": BASE.replace("def f", "async def f"),
    "a function that it names": BASE.replace("n + 1", "n + 2"),
    "an annotation": BASE.replace("b=2", "b: int = 2"),
}


@pytest.mark.parametrize("name", SAME)
def test_what_does_not_change_a_source(name: str, module: Callable[[str], ModuleType]) -> None:
    assert source_digest(module(SAME[name]).f) == source_digest(module(BASE).f)


@pytest.mark.parametrize("name", CHANGED)
def test_what_changes_a_source(name: str, module: Callable[[str], ModuleType]) -> None:
    assert source_digest(module(CHANGED[name]).f) != source_digest(module(BASE).f)


def test_functions_are_followed_round_in_circles(module: Callable[[str], ModuleType]) -> None:
    text = "def f(): return g()\ndef g(): return h()\ndef h(): return f() + 1\n"
    one, other = module(text), module(text.replace("+ 1", "+ 2"))
    assert source_digest(one.f) != source_digest(other.f)
    assert source_digest(one.f) == source_digest(module(text).f)


def test_names_in_inner_functions_are_followed(module: Callable[[str], ModuleType]) -> None:
    text = (
        "def g(): return 1\ndef f():\n    def inner(): return [g() for _ in ()]\n    return inner\n"
    )
    assert source_digest(module(text).f) != source_digest(module(text.replace("1", "2", 1)).f)


def test_closures_count_by_value() -> None:
    outer = golden_values.outer
    assert source_digest(outer(1)) == source_digest(outer(1)) != source_digest(outer(2))

    lock = threading.Lock()

    def locked() -> Any:
        return lock

    with pytest.raises(UnhashableInput, match=r"locked\.closure\['lock'\]"):
        source_digest(locked)


def test_a_function_that_closes_over_itself() -> None:
    def count(n: int) -> int:
        return count(n - 1) if n else 0

    assert source_digest(count) == source_digest(count)


def test_a_default_that_has_no_identity_counts_by_its_source(
    module: Callable[[str], ModuleType],
) -> None:
    text = "MISSING = object()\ndef f(a=MISSING): return a\n"
    assert source_digest(module(text).f) == source_digest(module(text).f)
    assert source_digest(module(text).f) != source_digest(
        module(text.replace("a=MISSING", "a=(MISSING)[0:0] if 0 else MISSING")).f
    )


def test_a_default_counts_by_its_value(module: Callable[[str], ModuleType]) -> None:
    text = "SIZE = 1\ndef f(a=SIZE): return a\n"
    assert source_digest(module(text).f) != source_digest(module(text.replace("1", "2")).f)


@pytest.mark.parametrize("kind", ["method", "classmethod", "staticmethod", "class", "object"])
def test_sources_of_classes_and_methods(kind: str, module: Callable[[str], ModuleType]) -> None:
    text = (
        "class Base:\n    def base(self): return 1\n"
        "class C(Base):\n"
        "    def method(self): return 1\n"
        "    @classmethod\n    def classmethod(cls): return 1\n"
        "    @staticmethod\n    def staticmethod(): return 1\n"
        "    def __call__(self): return 1\n"
    )

    def digest_in(text: str) -> bytes:
        made = module(text)
        if kind == "class":
            return source_digest(made.C)
        return source_digest(made.C() if kind == "object" else getattr(made.C, kind))

    def changed(line: str) -> str:
        return text.replace(f"{line}: return 1", f"{line}: return 2")

    line = {
        "method": "method(self)",
        "classmethod": "classmethod(cls)",
        "staticmethod": "staticmethod()",
        "class": "base(self)",
        "object": "__call__(self)",
    }[kind]
    assert digest_in(text) == digest_in(text)
    assert digest_in(text) != digest_in(changed(line))


def test_code_without_source() -> None:
    def made(text: str) -> Any:
        space: dict[str, Any] = {"__name__": "made"}
        exec(text, space)
        return space["f"]

    with pytest.raises(UnhashableInput, match="its source cannot be read"):
        source_digest(made("def f(): return 1"))
    one = source_digest(made("def f(): return 1"), bytecode=True)
    assert one == source_digest(made("def f(): return 1"), bytecode=True)
    assert one != source_digest(made("def f(): return 2"), bytecode=True)
    named = "def g(): return {}\ndef f(): return g()"
    assert source_digest(made(named.format(1)), bytecode=True) != source_digest(
        made(named.format(2)), bytecode=True
    )


def test_lambdas_on_one_line_are_told_apart() -> None:
    first, second, third = (lambda: 1), (lambda: 2), (lambda: lambda: 1)
    found = {source_digest(fn) for fn in (first, second, third, third())}
    assert len(found) == 3  # the innermost says what the first says


def test_builtins_have_a_source_digest_by_name() -> None:
    assert source_digest(len) == source_digest(len) != source_digest(print)


# tables

np = pytest.importorskip("numpy")
pd = pytest.importorskip("pandas")
pl = pytest.importorskip("polars")
pa = pytest.importorskip("pyarrow")

EQUAL_TABLES: dict[str, tuple[Any, Any]] = {
    "strides": (np.arange(6).reshape(2, 3).T, np.arange(6).reshape(2, 3).T.copy()),
    "byte order": (np.array([1, 2], ">i4"), np.array([1, 2], "<i4")),
    "sign of nan": (np.array([np.nan]), -np.array([np.nan])),
    "every nth": (np.arange(300_000.0)[::2], np.arange(0, 300_000.0, 2)),
    "what a mask hides": (np.ma.array([1, 2], mask=[0, 1]), np.ma.array([1, 3], mask=[0, 1])),
    "padding": (
        np.frombuffer(
            b"\1\0\0\0\7\7\7\7", np.dtype({"names": ["a"], "formats": ["i4"], "itemsize": 8})
        ),
        np.frombuffer(
            b"\1\0\0\0\0\0\0\0", np.dtype({"names": ["a"], "formats": ["i4"], "itemsize": 8})
        ),
    ),
    "blocks": (
        pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]}),
        pd.DataFrame(np.array([[1.0, 3.0], [2.0, 4.0]]), columns=["a", "b"]),
    ),
    "a range as an index": (pd.Series([1, 2], index=[0, 1]), pd.Series([1, 2])),
    "what is under a null": (
        pd.array([1, None], dtype="Int64"),
        pd.arrays.IntegerArray(np.array([1, 7]), np.array([False, True])),
    ),
    "unused levels": (
        pd.MultiIndex.from_tuples([(1, "a"), (2, "b")])[:1],
        pd.MultiIndex.from_tuples([(1, "a")]),
    ),
    "polars chunks": (
        pl.concat(
            [pl.DataFrame({"a": [1], "s": ["x"]}), pl.DataFrame({"a": [2], "s": ["y"]})],
            rechunk=False,
        ),
        pl.DataFrame({"a": [1, 2], "s": ["x", "y"]}),
    ),
    "arrow chunks": (
        pa.chunked_array([["a"], ["b", None], []], pa.string()),
        pa.array(["a", "b", None]),
    ),
    "arrow slices": (pa.array(["zz", "a", None, "b"])[1:], pa.array(["a", None, "b"])),
    "arrow bits": (pa.array([True, False, None])[1:], pa.array([False, None])),
    "arrow lists": (pa.array([[9], [1, 2], None, []])[1:], pa.array([[1, 2], None, []])),
    "arrow structs": (
        pa.array([{"a": 1, "b": "x"}, None, {"a": None, "b": "y"}])[1:],
        pa.array([None, {"a": None, "b": "y"}], pa.struct({"a": pa.int64(), "b": pa.string()})),
    ),
    "arrow dictionaries": (
        pa.array(["a", "b", "a"]).dictionary_encode()[1:],
        pa.array(["b", "a"]).dictionary_encode(),
    ),
}
OTHER_TABLES: dict[str, tuple[Any, Any]] = {
    "shape": (np.zeros((2, 3)), np.zeros((3, 2))),
    "dtype": (np.zeros(2, "i4"), np.zeros(2, "i8")),
    "dtype of nothing": (np.zeros(0, "i4"), np.zeros(0, "f4")),
    "unit": (np.array([1], "M8[s]"), np.array([1], "M8[ms]")),
    "zeros": (np.array([0.0]), np.array([-0.0])),
    "scalar and array": (np.float64(1), np.array(1.0)),
    "scalar and float": (np.float64(1), 1.0),
    "array and list": (np.array([1]), [1]),
    "objects": (np.array([1, "1"], object), np.array([1, 1], object)),
    "field names": (np.zeros(1, [("a", "i4")]), np.zeros(1, [("b", "i4")])),
    "mask": (np.ma.array([1, 2], mask=[0, 1]), np.ma.array([1, 2], mask=[1, 0])),
    "subclass": (np.array([1]).view(np.recarray), np.array([1])),
    "column names": (pd.DataFrame({"a": [1]}), pd.DataFrame({"b": [1]})),
    "column order": (pd.DataFrame({"a": [1], "b": [1]}), pd.DataFrame({"b": [1], "a": [1]})),
    "index": (pd.Series([1], index=[0]), pd.Series([1], index=[1])),
    "index name": (pd.Index([1], name="a"), pd.Index([1])),
    "null and zero": (pd.array([None], dtype="Int64"), pd.array([0], dtype="Int64")),
    "categories": (
        pd.Series(["a"], dtype=pd.CategoricalDtype(["a"])),
        pd.Series(["a"], dtype=pd.CategoricalDtype(["a", "b"])),
    ),
    "ordered categories": (
        pd.Series(["a"], dtype=pd.CategoricalDtype(["a"])),
        pd.Series(["a"], dtype=pd.CategoricalDtype(["a"], ordered=True)),
    ),
    "time zones": (
        pd.Timestamp("2024-01-01 12:00", tz="UTC"),
        pd.Timestamp("2024-01-01 13:00", tz="Europe/Berlin"),
    ),
    "nanoseconds": (pd.Timestamp("2024-01-01"), pd.Timestamp("2024-01-01 00:00:00.000000001")),
    "frames of two libraries": (pd.DataFrame({"a": [1]}), pl.DataFrame({"a": [1]})),
    "polars nulls": (pl.Series([0, None]), pl.Series([None, 0])),
    "polars text": (pl.Series(["ab", "c"]), pl.Series(["a", "bc"])),
    "polars structs": (pl.Series([{"a": 1}]), pl.Series([{"b": 1}])),
    "polars times": (
        pl.Series([1], dtype=pl.Int64).cast(pl.Datetime("us")),
        pl.Series([1], dtype=pl.Int64).cast(pl.Datetime("ms")),
    ),
    "arrow text": (pa.array(["ab", "c"]), pa.array(["a", "bc"])),
    "arrow nulls": (pa.array(["", None]), pa.array([None, ""])),
    "arrow lists": (pa.array([[1], [2]]), pa.array([[1, 2], []])),
    "arrow types": (pa.array([1], pa.int8()), pa.array([1], pa.int16())),
    "arrow tables": (pa.table({"a": [1]}), pa.table({"b": [1]})),
}


@pytest.mark.parametrize("name", EQUAL_TABLES)
def test_tables_that_are_equal(name: str) -> None:
    one, other = EQUAL_TABLES[name]
    assert digest(one) == digest(other)


@pytest.mark.parametrize("name", OTHER_TABLES)
def test_tables_that_differ(name: str) -> None:
    one, other = OTHER_TABLES[name]
    assert digest(one) != digest(other)
    assert digest(one) == digest(one)


def test_long_doubles_are_refused() -> None:
    with pytest.raises(UnhashableInput, match="others on other machines"):
        digest([np.zeros(2, np.longdouble)])


def test_objects_in_a_table_are_named() -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": [1, object()]})
    with pytest.raises(UnhashableInput) as caught:
        digest(frame)
    assert caught.value.path.startswith("value['b']")
    assert caught.value.path.endswith("[1]")


def test_hashing_loads_no_library() -> None:
    first_use = "from anabranch.hashing import digest; digest([1, {'a': 2}])"
    loads_none_of(first_use, "numpy", "pandas", "polars", "pyarrow", "pydantic", "asyncio")


def test_aliases_that_are_equal() -> None:
    assert digest(typing.Optional[int]) == digest(int | None)  # noqa: UP045
    assert digest(typing.List[int]) == digest(list[int])  # noqa: UP006


def test_hexdigest() -> None:
    assert hexdigest(math.pi) == digest(math.pi).hex()
    assert len(hexdigest(1)) == 32
