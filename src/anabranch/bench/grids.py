"""The cases of a benchmark, one for each set of its params, found at run time."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, cast

from anabranch.bench.definitions import Benchmark, Params, check_names
from anabranch.errors import OptionError

LONGEST_VALUE = 40
"""Characters of a param's value in the name of a case."""


class Case(NamedTuple):
    """One set of params, such as `sorting[size=1000,kind=random]`, with a seed of its own."""

    name: str
    params: Mapping[str, Any]
    seed: int


def find_cases(benchmark: Benchmark[..., Any]) -> list[Case]:
    """The benchmark's cases, in order; raises `OptionError`, and what the user's own code raises."""
    plan = benchmark.plan
    cases: list[Case] = []
    names: dict[str, int] = {}
    for params in _sets(plan.name, benchmark.params):
        check_names(plan, params)
        told = ",".join(f"{name}={value_text(value)}" for name, value in params.items())
        name = f"{plan.name}[{told}]" if told else plan.name
        names[name] = names.get(name, 0) + 1
        if names[name] > 1:  # values that are told alike
            name = f"{name}#{names[name]}"
        cases.append(Case(name, params, _seed(plan.seed, name)))
    return cases


def value_text(value: Any) -> str:
    """A param's value in a name: short, on one line."""
    text = getattr(value, "__name__", None) or repr(value)
    text = " ".join((value if isinstance(value, str) else text).split())
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"


def _sets(name: str, params: Params | None) -> Iterator[dict[str, Any]]:
    if params is None:
        yield {}
        return
    found: Any = params() if callable(params) else params
    if isinstance(found, Mapping):
        lists: dict[str, Any] = dict(found)  # pyright: ignore[reportUnknownArgumentType]  # a user's own
        columns = [_values(name, key, values) for key, values in lists.items()]
        for row in itertools.product(*columns):
            yield dict(zip(lists, row, strict=True))
        return
    expected = "a dict of lists, or something that gives a dict for each case"
    if isinstance(found, str) or not isinstance(found, Iterable):
        raise OptionError(f"Benchmark {name!r}", "params", found, expected)
    for each in cast(Iterable[Any], found):
        if not isinstance(each, Mapping):
            raise OptionError(f"Benchmark {name!r}", "params", each, expected)
        yield dict(cast(Mapping[str, Any], each))


def _values(name: str, key: str, given: Any) -> list[Any]:
    values = given() if callable(given) else given
    if isinstance(values, str) or not isinstance(values, Iterable):
        expected = "a list or generator of values, or a function that gives one"
        raise OptionError(f"Benchmark {name!r}", f"params[{key!r}]", values, expected)
    return list(values)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]  # any values


def _seed(seed: int, name: str) -> int:
    """One for the case alone, the same in each process."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:4])
