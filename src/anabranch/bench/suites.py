"""Measuring a suite inside a running flow: a task run for each case, on the flow's task runner."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from numbers import Integral, Real
from typing import Any

from anabranch.bench.definitions import Benchmark, Plan
from anabranch.bench.grids import Case, find_cases, value_text
from anabranch.bench.host_lock import host_lock
from anabranch.bench.hosts import Metadata, host_metadata
from anabranch.bench.measuring import Measurement, measure
from anabranch.bench.results import FAILED, MEASURED, TIMED_OUT, WRONG, CaseResult, ParamValue
from anabranch.bench.time_limits import call_in_time
from anabranch.context import current_context
from anabranch.errors import MissingFlowError, OptionError, RunTimedOut, WrongAnswerError
from anabranch.futures import TaskFuture, as_completed
from anabranch.tasks import task

LOOP_GRACE_SECONDS = 0.5
"""A loop ends its coroutines itself when their time is over; what blocks it is ended so much later."""


def run_suite(
    benchmarks: Iterable[Benchmark[..., Any]],
    wanted: Callable[[str], bool] | None = None,
    tell: Callable[[CaseResult], object] | None = None,
    fast: bool = False,
) -> list[CaseResult]:
    """Measure the cases whose names are `wanted`, or all, in a flow; their results in order.

    `tell` is called with each when it comes; `fast` takes few repeats of each, and less care. Whatever
    a benchmark does wrong is a result too. Raises `MissingFlowError` outside of a flow, and
    `OptionError` where two benchmarks have one name.
    """
    open_flow = current_context().open_flow
    if open_flow is None or open_flow.runner is None:
        raise MissingFlowError("A benchmark suite", "run")
    runner = Runner(open_flow.runner.capabilities.name)
    benchmarks = list(benchmarks)
    names = [each.plan.name for each in benchmarks]
    if len(set(names)) < len(names):
        raise OptionError("run_suite()", "benchmarks", names, "each name once; see `renamed`")
    results: dict[str, CaseResult] = {}
    futures: dict[TaskFuture[CaseResult], Case] = {}
    for benchmark in benchmarks:
        plan = benchmark.plan.fast() if fast else benchmark.plan
        cases = _cases_or_failure(benchmark)
        if isinstance(cases, CaseResult):
            results[cases.name] = cases
            if tell is not None:
                tell(cases)
            continue
        measure_case = run_case.with_options(name=plan.name)
        for case in cases:
            if wanted is None or wanted(case.name):
                results[case.name] = _result(plan, case, FAILED, "not measured")
                futures[measure_case.submit(plan, case, runner)] = case
    for future in as_completed(list(futures)):
        case = futures[future]
        results[case.name] = _settled(results[case.name], future)
        if tell is not None:
            tell(results[case.name])
    return list(results.values())


def _cases_or_failure(benchmark: Benchmark[..., Any]) -> list[Case] | CaseResult:
    try:
        return find_cases(benchmark)
    except Exception as error:
        plan = benchmark.plan
        return _result(plan, Case(plan.name, {}, 0), FAILED, f"its params: {error_line(error)}")


def _settled(result: CaseResult, future: TaskFuture[CaseResult]) -> CaseResult:
    """What the task run gave; where it died, that is the result."""
    error = future.exception()
    return future.result() if error is None else result._replace(error=error_line(error))


@dataclass(frozen=True)
class Runner:
    """The task runner's name, for the metadata. No part of what makes a case the same: a resume on
    another runner keeps what was measured."""

    name: str

    def __anabranch_key__(self) -> None:
        return None


@task(task_run_name="{case.name}")
def run_case(plan: Plan, case: Case, runner: Runner) -> CaseResult:
    """Measure one case, alone on its host where it has to be; the wait for that is not timed."""
    metadata: Metadata = {}
    with host_lock(plan.exclusive):
        try:
            metadata = host_metadata(runner.name)
            gc.collect()  # of what came before
            call = partial(measure, plan, case)
            seconds = plan.timeout_seconds + (LOOP_GRACE_SECONDS if plan.is_async else 0)
            measured = call_in_time(call, case.name, seconds)
        except WrongAnswerError as error:
            return _result(plan, case, WRONG, error.problem, metadata)
        except RunTimedOut:
            return _result(plan, case, TIMED_OUT, f"after {plan.timeout_seconds:g} s", metadata)
        except (Exception, SystemExit) as error:  # whatever a user's code may raise
            return _result(plan, case, FAILED, error_line(error, plan.fn.__module__), metadata)
    return _measured(plan, case, measured, metadata)


def _measured(plan: Plan, case: Case, measured: Measurement, metadata: Metadata) -> CaseResult:
    result = _result(plan, case, MEASURED, None, metadata)
    return result._replace(values=measured.values, loops=measured.loops, warmups=measured.warmups)


def _result(
    plan: Plan, case: Case, status: str, error: str | None, metadata: Metadata | None = None
) -> CaseResult:
    params = {name: _param_value(value) for name, value in case.params.items()}
    return CaseResult(case.name, plan.name, params, status, error, metadata=metadata or {})


def _param_value(value: Any) -> ParamValue:
    """A number as one, for the axes of plots; all else as text."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return value_text(value)
    return int(value) if isinstance(value, Integral) else float(value)


def error_line(error: BaseException, module: str = "") -> str:
    """An error on one line, with the last line of this module that led to it."""
    told = " ".join(f"{type(error).__name__}: {error}".split())
    frames = traceback.walk_tb(error.__traceback__)
    lines = [line for frame, line in frames if frame.f_globals.get("__name__") == module]
    return f"{told} ({module}:{lines[-1]})" if lines else told
