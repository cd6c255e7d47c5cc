"""The worker's side: run one call, and give back how it ended.

A task's failure is a value here. Only what must not be swallowed (an interrupt of the thread that
runs the flow itself) is noted for the caller.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from time import perf_counter, time
from typing import Any

from anabranch.context import TaskRunContext, current
from anabranch.errors import CancelledRun, Interrupted, Terminated
from anabranch.execution.calls import Call
from anabranch.execution.functions import ASYNC, ASYNC_GENERATOR, GENERATOR, SYNC
from anabranch.futures import FutureList, TaskFuture
from anabranch.outcomes import CANCELLED, COMPLETED, CRASHED, FAILED, Outcome
from anabranch.records import made_of
from anabranch.states import State, StateType

Drive = Callable[[Coroutine[Any, Any, Any]], Any]

_STATE_PHASES = {
    StateType.COMPLETED: COMPLETED,
    StateType.FAILED: FAILED,
    StateType.CRASHED: CRASHED,
    StateType.CANCELLED: CANCELLED,
}


def run_call(call: Call, drive: Drive | None = None) -> Outcome:
    """Run a call to its end on this thread; `drive` runs a coroutine where the task is async."""
    context = call.context
    return (copy_context() if context is None else context.copy()).run(_run, call, drive)


def _run(call: Call, drive: Drive | None) -> Outcome:
    key, attempt, spec, _, args, kwargs, _, _ = call
    current.set(TaskRunContext(call))
    started = time()
    clock = perf_counter()
    try:
        value = spec.fn(*args, **kwargs)
        if spec.kind != SYNC:
            value = _to_end(spec.kind, value, drive)
        if type(value) not in _PLAIN or spec.persistence is not None:
            return _other(call, value, started, clock)
    except BaseException as error:
        return failure(call, error, started, perf_counter() - clock)
    seconds = perf_counter() - clock
    return made_of(
        Outcome,
        (key, attempt, COMPLETED, value, started, seconds, None, None, False, None, None),
    )


async def run_call_async(call: Call) -> Outcome:
    """The same on a running loop, for an async task; the caller gives it a context of its own."""
    current.set(TaskRunContext(call))
    spec = call.spec
    started = time()
    clock = perf_counter()
    try:
        value: Any = spec.fn(*call.args, **call.kwargs)
        value = await (collected(value) if spec.kind == ASYNC_GENERATOR else value)
        if type(value) not in _PLAIN or spec.persistence is not None:
            if type(value) in (TaskFuture, FutureList):
                value = await value
            return _other(call, value, started, clock)
    except BaseException as error:
        return failure(call, error, started, perf_counter() - clock)
    return Outcome(call.key, call.attempt, COMPLETED, value, started, perf_counter() - clock)


def _to_end(kind: int, value: Any, drive: Drive | None) -> Any:
    if kind == GENERATOR:
        return list(value)
    coroutine = value if kind == ASYNC else collected(value)
    return (drive or drive_alone)(coroutine)


async def collected(generator: Any) -> list[Any]:
    """The items of an async generator."""
    return [item async for item in generator]


def drive_alone(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine on a loop of its own, in another thread where this one has a running loop."""
    import asyncio  # 25 ms that a process without async tasks need not spend

    if asyncio._get_running_loop() is None:  # the only way to ask without an exception
        return asyncio.run(coroutine)
    context = copy_context()
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((True, context.run(asyncio.run, coroutine)))
        except BaseException as error:
            outcome.append((False, error))

    thread = threading.Thread(target=run, name="anabranch-inline-loop", daemon=True)
    thread.start()
    thread.join()
    completed, value = outcome[0]
    if completed:
        return value
    raise value


def _other(call: Call, value: Any, started: float, clock: float) -> Outcome:
    """A task that returned a state ends in it; one that returned futures, with their results.

    What can change is kept here and now, as the task has left it.
    """
    if type(value) in (TaskFuture, FutureList):
        value = value.result()
    seconds = perf_counter() - clock
    if not isinstance(value, State):
        value, kept = call.kept(value)
        return Outcome(
            call.key,
            call.attempt,
            COMPLETED,
            value,
            started,
            seconds,
            None,
            None,
            False,
            None,
            kept,
        )
    state: State[Any] = value  # pyright: ignore[reportUnknownVariableType]  # a state of any result
    phase = _STATE_PHASES.get(state.type, FAILED)
    data, kept = state.data, None
    if phase == COMPLETED and call.scope.keep is not None:
        data, kept = call.kept(state.result())
    return Outcome(
        call.key,
        call.attempt,
        phase,
        data,
        started,
        seconds,
        state.message,
        state.name,
        kept=kept,
    )


_CANCELS = (CancelledRun, Interrupted, Terminated)
_PLAIN = frozenset({type(None), bool, int, float, str, bytes})


def failure(call: Call, error: BaseException, started: float, seconds: float) -> Outcome:
    """The outcome of an attempt that raised; our own frames are taken off its traceback."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_frame.f_globals.get("__name__") == __name__:
        traceback = traceback.tb_next
    error.__traceback__ = traceback
    phase = FAILED if isinstance(error, Exception) else CRASHED
    if type(error).__name__ == "CancelledError" or isinstance(error, _CANCELS):
        phase = CANCELLED
    message = None
    if phase == CRASHED:
        message = f"The task raised {type(error).__name__}, which ends a process: {error}"
    return Outcome(
        call.key, call.attempt, phase, error, started, seconds, message, traceback=traceback
    )
