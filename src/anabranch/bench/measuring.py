"""Measuring one case: its setup, its warm-up, and repeats until the mean is known well enough.

Only the function itself stands between the two looks at the clock.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Coroutine, Mapping
from contextlib import ExitStack
from functools import partial
from itertools import repeat
from math import ceil
from time import monotonic, perf_counter
from typing import Any, NamedTuple

from anabranch.bench.definitions import Plan, free_parameters
from anabranch.bench.grids import Case
from anabranch.bench.statistics import mean_of
from anabranch.errors import RunTimedOut, WrongAnswerError

SAMPLE_SECONDS = 0.001
"""A sample of a quick function takes so long at least."""
FASTEST_GROWTH = 10
"""Times as many calls from one sample of the calibration to the next."""
LEAST_SECONDS = 1e-9
"""What the clock may take for no time at all."""

Drive = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs a coroutine to its end."""


class Measurement(NamedTuple):
    """Seconds of one call in each repeat, each of which called the function `loops` times; before
    them the warm-ups, with loops of their own."""

    values: tuple[float, ...]
    loops: int
    warmups: tuple[tuple[int, float], ...]


def measure(plan: Plan, case: Case) -> Measurement:
    """Raises what the user's code raises, and `WrongAnswerError` where `check` is not content."""
    with ExitStack() as lifetimes:
        sampler = Sampler(plan, case, _drive(plan, case, lifetimes))
        loops, warmups = _warm_up(plan, sampler)
        values: list[float] = []
        began = monotonic()
        while not _is_enough(plan, values, monotonic() - began):
            values.append(sampler.seconds(loops))
    return Measurement(tuple(values), loops, tuple(warmups))


def _warm_up(plan: Plan, sampler: Sampler) -> tuple[int, list[tuple[int, float]]]:
    """Take the samples that are not counted, and find how many calls make one.

    The first call says nothing of that: it may load modules and fill caches.
    """
    loops, warmups = 1, list[tuple[int, float]]()
    for _ in range(plan.warmup):
        warmups.append((loops, sampler.seconds(loops)))
    while not plan.setup_each:
        seconds = sampler.seconds(loops)
        warmups.append((loops, seconds))
        if seconds * loops >= SAMPLE_SECONDS:
            break
        loops = max(loops + 1, min(ceil(1.2 * SAMPLE_SECONDS / seconds), FASTEST_GROWTH * loops))
    return loops, warmups


def _is_enough(plan: Plan, values: list[float], seconds: float) -> bool:
    if len(values) < plan.min_repeats:
        return False
    if len(values) >= plan.max_repeats or seconds >= plan.time_limit:
        return True
    mean = mean_of(values)
    return mean.half_width < plan.confidence * mean.value


class Sampler:
    """Takes samples of a case; each result is checked, outside of the clock."""

    def __init__(self, plan: Plan, case: Case, drive: Drive | None) -> None:
        self._plan = plan
        self._case = case
        self._drive = drive
        self._call = None if plan.setup_each else self._prepared()

    def seconds(self, loops: int) -> float:
        """Of one call, in so many one after the other."""
        call = self._call or self._prepared()
        if self._drive is None:
            seconds, result = _timed(call, loops)
        else:
            seconds, result = self._drive(_timed_async(call, loops))
        self._check(result)
        return max(seconds / loops, LEAST_SECONDS)

    def _prepared(self) -> Callable[[], Any]:
        """A call of the function with all its arguments, its setup made."""
        plan, params = self._plan, self._case.params
        signature = inspect.signature(plan.fn)
        given = {name: params[name] for name in signature.parameters if name in params}
        if plan.setup is not None:
            seed = self._case.seed
            known = {"seed": seed, "rng": random.Random(seed), **params}
            given[free_parameters(plan.fn, params)[0].name] = self._run(plan.setup, (), known)
        in_order = {name: given[name] for name in signature.parameters if name in given}
        bound = inspect.BoundArguments(signature, in_order)  # pyright: ignore[reportArgumentType]  # any dict that keeps its order
        return partial(plan.fn, *bound.args, **bound.kwargs) if given else plan.fn

    def _check(self, result: Any) -> None:
        check = self._plan.check
        if check is None:
            return
        try:
            right = self._run(check, (result,), self._case.params)
        except RunTimedOut:
            raise
        except Exception as error:
            raise WrongAnswerError(self._case.name, f"{type(error).__name__}: {error}") from error
        if not right:
            raise WrongAnswerError(self._case.name, f"the check gave {right!r}")

    def _run(self, fn: Callable[..., Any], args: tuple[Any, ...], known: Mapping[str, Any]) -> Any:
        """Call the setup or check with what it names of the known values."""
        parameters = list(inspect.signature(fn).parameters.values())[len(args) :]
        takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters)
        names = {each.name for each in parameters}
        wanted = {name: value for name, value in known.items() if takes_all or name in names}
        value = fn(*args, **wanted)
        if self._drive is not None and inspect.iscoroutine(value):
            return self._drive(value)
        return value


def _timed(call: Callable[[], Any], loops: int) -> tuple[float, Any]:
    """Seconds of all calls, and the last result."""
    result = None
    turns = repeat(None, loops)
    start = perf_counter()
    for _ in turns:
        result = call()
    return perf_counter() - start, result


async def _timed_async(call: Callable[[], Any], loops: int) -> tuple[float, Any]:
    result = None
    turns = repeat(None, loops)
    start = perf_counter()
    for _ in turns:
        result = await call()
    return perf_counter() - start, result


def _drive(plan: Plan, case: Case, lifetimes: ExitStack) -> Drive | None:
    """What runs the coroutines of an async benchmark: one loop for the whole case."""
    if not plan.is_async:
        return None
    import asyncio  # 25 ms that other benchmarks need not spend

    runner = lifetimes.enter_context(asyncio.Runner())
    deadline = monotonic() + plan.timeout_seconds

    async def in_time(coroutine: Coroutine[Any, Any, Any]) -> Any:
        """A loop that waits sleeps in C: only itself can end that."""
        limit = asyncio.timeout(deadline - monotonic())
        try:
            async with limit:
                return await coroutine
        except TimeoutError as error:
            if limit.expired():
                raise RunTimedOut(case.name, plan.timeout_seconds) from error
            raise

    return lambda coroutine: runner.run(in_time(coroutine))
