"""The `@benchmark` decorator, and the plan of measuring that it makes."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, ParamSpec, TypedDict, TypeVar, Unpack, overload

from anabranch.errors import OptionError
from anabranch.execution.functions import ASYNC, SYNC, function_kind

P = ParamSpec("P")
R = TypeVar("R", covariant=True)

Values = Iterable[Any] | Callable[[], Iterable[Any]]
Params = Mapping[str, Values] | Iterable[Mapping[str, Any]] | Callable[[], Any]

MOST_REPEATS = 5_000
"""More values are too large for a result that the store keeps without being asked (64 KiB)."""
FAST_REPEATS = 3
FAST_SECONDS = 0.2


class BenchmarkOptions(TypedDict, total=False):
    """The options of `@benchmark`; times are in seconds."""

    params: Params | None
    setup: Callable[..., Any] | None
    setup_each: bool
    check: Callable[..., Any] | None
    warmup: int
    min_repeats: int
    max_repeats: int
    confidence: float
    time_limit: float
    timeout_seconds: float
    seed: int
    exclusive: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """How the cases of one benchmark are measured, as it travels to workers. See `benchmark`."""

    name: str
    fn: Callable[..., Any]
    setup: Callable[..., Any] | None = None
    setup_each: bool = False
    check: Callable[..., Any] | None = None
    warmup: int = 1
    min_repeats: int = 5
    max_repeats: int = 100
    confidence: float = 0.02
    time_limit: float = 5.0
    timeout_seconds: float = 60.0
    seed: int = 0
    exclusive: bool = True

    @property
    def is_async(self) -> bool:
        return function_kind(self.fn) == ASYNC

    def fast(self) -> Plan:
        """The same with few repeats, which say less."""
        return replace(
            self,
            min_repeats=min(self.min_repeats, FAST_REPEATS),
            time_limit=min(self.time_limit, FAST_SECONDS),
        )


class Benchmark(Generic[P, R]):
    """A function to be measured, with its parameters. Made by `@benchmark`; `fn` is the plain
    function, and a call of the benchmark is one of it."""

    def __init__(self, fn: Callable[P, R], **options: Unpack[BenchmarkOptions]) -> None:
        functools.update_wrapper(self, fn)
        self.fn = fn
        name = getattr(fn, "__name__", type(fn).__name__)
        given: dict[str, Any] = {**options}
        self.params: Params | None = given.pop("params", None)
        self.plan = Plan(name, fn, **given)
        _check_plan(self.plan)
        params: Any = self.params
        if params is None or isinstance(params, Mapping):
            check_names(self.plan, params or ())  # pyright: ignore[reportUnknownArgumentType]  # a user's own

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.fn(*args, **kwargs)

    def renamed(self, name: str) -> Benchmark[P, R]:
        """The same under another name."""
        other = copy.copy(self)
        other.plan = replace(self.plan, name=name)
        return other

    def __repr__(self) -> str:
        return f"<Benchmark {self.plan.name}>"


@overload
def benchmark(fn: Callable[P, R], /) -> Benchmark[P, R]: ...
@overload
def benchmark(
    **options: Unpack[BenchmarkOptions],
) -> Callable[[Callable[P, R]], Benchmark[P, R]]: ...
def benchmark(fn: Any = None, /, **options: Unpack[BenchmarkOptions]) -> Any:
    """Make a benchmark of a function, sync or async.

    Options, all of them optional, times in seconds:
    `params`, a dict whose values are lists, generators, or functions without arguments that give
    one: each combination is a case; or what gives a dict for each case;
    `setup`, called before with the params that it names, and `seed` and `rng` (a `random.Random`) of
    the case: its value goes to the function's first parameter that is none of `params`;
    `setup_each=True` calls it before each repeat, for functions that change their input;
    `check`, called with the result and the params that it names: a falsy answer, or an error, is a
    wrong answer; `warmup`, how many calls come before all else; `min_repeats` and `max_repeats`;
    `confidence`: measuring ends when half the 95 % confidence interval of the mean is below this
    share of it, or after `time_limit`; `timeout_seconds` for a whole case; `seed`;
    `exclusive=False` lets other cases run on the same host meanwhile.

    Quick functions are called in a loop, so that a sample takes a millisecond at least; not with
    `setup_each`. Raises `OptionError`.
    """
    if fn is None:
        return lambda fn: Benchmark(fn, **options)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType, reportUnknownVariableType]  # typed by the overloads
    return Benchmark(fn, **options)


def check_names(plan: Plan, given: Iterable[str]) -> None:
    """Raise `OptionError` unless a case with these params can be called."""
    owner, names = f"Benchmark {plan.name!r}", list(given)
    free = free_parameters(plan.fn, names)
    if plan.setup is not None and not free:
        expected = "left out where all of the function's parameters are params"
        raise OptionError(owner, "setup", plan.setup, expected)
    left = [each.name for each in free[plan.setup is not None :] if each.default is each.empty]
    if left:
        expected = f"also {', '.join(map(repr, left))}, which the function needs"
        raise OptionError(owner, "params", names, expected)
    for name in names:
        beside = [fn for fn in (plan.setup, plan.check) if fn is not None]
        if name not in _parameters(plan.fn) and not any(_takes(fn, name) for fn in beside):
            expected = f"names that the function, its setup or its check takes, unlike {name!r}"
            raise OptionError(owner, "params", names, expected)


def free_parameters(fn: Callable[..., Any], names: Iterable[str]) -> list[inspect.Parameter]:
    """Those of the function that are none of these names; the first is that of the setup's value."""
    names = set(names)
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    known = _parameters(fn).values()
    return [each for each in known if each.name not in names and each.kind not in several]


def _takes(fn: Callable[..., Any], name: str) -> bool:
    known = _parameters(fn)
    return name in known or any(each.kind is each.VAR_KEYWORD for each in known.values())


def _parameters(fn: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(fn).parameters


def _check_plan(plan: Plan) -> None:
    owner = f"Benchmark {plan.name!r}"
    if function_kind(plan.fn) not in (SYNC, ASYNC):
        raise OptionError(owner, "the function", plan.fn, "a function that is no generator")
    for name in ("setup", "check"):
        value = getattr(plan, name)
        if value is not None and not callable(value):
            raise OptionError(owner, name, value, "a function")
        if value is not None and function_kind(value) != SYNC and not plan.is_async:
            raise OptionError(
                owner, name, value, "an async function only where the benchmark is one"
            )
    for name in ("setup_each", "exclusive"):
        value = getattr(plan, name)
        if not isinstance(value, bool):
            raise OptionError(owner, name, value, "True or False")
    if plan.setup_each and plan.setup is None:
        raise OptionError(owner, "setup_each", True, "given with a setup")
    for name, least, most in (
        ("warmup", 0, 1_000_000),
        ("min_repeats", 2, MOST_REPEATS),
        ("max_repeats", plan.min_repeats, MOST_REPEATS),
        ("seed", 0, 1 << 64),
    ):
        value = getattr(plan, name)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise OptionError(owner, name, value, f"a whole number from {least} to {most}")
    for name, limit, expected in (
        ("confidence", 1.0, "a share of the mean, more than 0 and less than 1"),
        ("time_limit", 1e9, "seconds, more than 0"),
        ("timeout_seconds", 1e6, "seconds, more than 0 and less than 12 days"),
    ):
        value = getattr(plan, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < limit:
            raise OptionError(owner, name, value, expected)
