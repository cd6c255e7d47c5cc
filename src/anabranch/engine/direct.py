"""Calling a task without submit: it runs in the caller's thread or loop, tracked like any other."""

# pyright: reportPrivateUsage=false
# The engine's rooms share the slots of the run record, which are private to users.

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextvars import Context, copy_context
from time import perf_counter, time
from typing import TYPE_CHECKING, Any

from anabranch.context import RunContext, TaskRunContext, current
from anabranch.engine.engine import Engine
from anabranch.errors import Interrupted, RunTimedOut, Terminated
from anabranch.execution.calls import Call, TaskSpec
from anabranch.execution.interrupts import Interrupt, Interruptible, run_interruptibly
from anabranch.execution.run import failure, run_call, run_call_async
from anabranch.futures import TaskFuture
from anabranch.outcomes import (
    CANCELLED,
    COMPLETED,
    NOT_KEPT,
    SETTLED,
    TIMED_OUT,
    Kept,
    Outcome,
)
from anabranch.task_runners.base import Capabilities, OpenRunnerBase
from anabranch.waiting import Waiter

if TYPE_CHECKING:
    import asyncio

Arguments = tuple[tuple[Any, ...], Mapping[str, Any], Iterable[Any]]
"""Positional arguments, keyword arguments, and what is waited for besides."""


class Mailbox(OpenRunnerBase):
    """The runner of one direct call at a time: hands its attempts to whoever made the call."""

    __slots__ = ("_engine", "calls", "running_now", "wake")

    capabilities = Capabilities(
        name="direct", priority=False, stops_sync=True, stops_async=True, parallel=False
    )

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.calls: deque[Call] = deque()
        self.running_now: dict[tuple[int, int], Any] = {}
        self.wake: Any = None

    def launch(self, calls: Sequence[Call]) -> None:
        self.calls.extend(calls)
        if self.wake is not None:
            self.wake(None)

    def cancel(self, keys: Iterable[int]) -> None:
        keys = set(keys)
        for (key, _), interruptible in list(self.running_now.items()):
            if key in keys:
                interruptible.interrupt()
        for call in [call for call in list(self.calls) if call.key in keys]:
            self.calls.remove(call)
            self._engine.finished([Outcome(call.key, call.attempt, CANCELLED, None, time(), 0.0)])

    def running(self) -> Iterable[tuple[int, int]]:
        return list(self.running_now)


def call(
    engine: Engine, context: RunContext, spec: TaskSpec, arguments: Arguments
) -> TaskFuture[Any]:
    """Run a sync task here, its retries included; gives back the settled run."""
    args, kwargs, wait_for = arguments
    mailbox = _free_mailbox(engine)
    attempt = None
    here = None if kwargs or wait_for else engine.submit_here(spec, args, context, mailbox)
    if here is not None:
        run, attempt = here
    else:
        run = _submitted(engine, context, spec, arguments, mailbox)
    while run._phase < SETTLED:
        if attempt is None:
            attempt = _next_attempt(engine, mailbox, run)
            if attempt is None:
                continue
            attempt = attempt._replace(context=None)  # this thread's own
        try:
            if spec.announces:
                outcome = run_interruptibly(attempt, mailbox.running_now, engine)
            else:
                outcome = run_call(attempt)
        except BaseException as error:  # it came just before the task's own code, or just after
            engine.finished((failure(attempt, error, time(), 0.0),))
            raise
        attempt = None
        engine.finished((outcome,))
        if outcome[2] != COMPLETED and isinstance(outcome.value, Interrupted | Terminated):
            raise outcome.value  # meant for the flow, whose thread this is
    engine.mailboxes.append(mailbox)  # the next call may go on with what this one has shared
    return run


async def call_async(
    engine: Engine, context: RunContext, spec: TaskSpec, arguments: Arguments
) -> TaskFuture[Any]:
    """The same for an async task, on the caller's loop."""
    import asyncio  # 25 ms that a process without a loop need not spend

    mailbox = _free_mailbox(engine)
    run = _submitted(engine, context, spec, arguments, mailbox)
    try:
        while run._phase < SETTLED:
            attempt = await _next_attempt_async(engine, mailbox, run)
            if attempt is not None:
                engine.finished((await _attempt_async(engine, mailbox, attempt),))
    except asyncio.CancelledError:
        engine.cancel((run,))
        raise
    return run


async def _attempt_async(engine: Engine, mailbox: Mailbox, attempt: Call) -> Outcome:
    """One attempt as an asyncio task of its own, so that its timeout ends it and nothing else."""
    import asyncio  # 25 ms that a process without a loop need not spend

    assert attempt.context is not None  # set by the engine
    task = asyncio.get_running_loop().create_task(
        run_call_async(attempt), context=attempt.context.copy()
    )
    place = (attempt.key, attempt.attempt)
    mailbox.running_now[place] = _TaskInterrupt(task)
    if attempt.spec.announces:
        engine.started(*place)
    try:
        return await task
    except asyncio.CancelledError as error:
        current_task = asyncio.current_task()
        if current_task is not None and current_task.cancelling():
            task.cancel()
            raise
        return failure(attempt, error, time(), 0.0)  # ended before its first step
    finally:
        del mailbox.running_now[place]


class _TaskInterrupt:
    def __init__(self, task: asyncio.Task[Any]) -> None:
        self._task = task
        self._loop = task.get_loop()

    def interrupt(self) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)


def iterate(
    engine: Engine, context: RunContext, spec: TaskSpec, arguments: Arguments
) -> Iterator[Any]:
    """Run a generator task lazily. It is tried again only while it has yielded nothing."""
    mailbox = _free_mailbox(engine)
    run = _submitted(engine, context, spec, arguments, mailbox)
    given: list[Any] | None = None
    while run._phase < SETTLED:
        attempt = _next_attempt(engine, mailbox, run)
        if attempt is None:
            continue
        given = []
        assert attempt.context is not None  # set by the engine
        inside = attempt.context.copy()
        inside.run(current.set, TaskRunContext(attempt))
        started, clock, yielded = time(), perf_counter(), False
        if spec.announces:
            engine.started(attempt.key, attempt.attempt)
        try:
            items = inside.run(spec.fn, *attempt.args, **attempt.kwargs)
            while True:
                try:
                    if spec.announces:
                        item = _next_in_time(mailbox, run, attempt, inside, items)
                    else:
                        item = inside.run(next, items)
                except StopIteration:
                    break
                yielded = True
                if spec.caching is not None:
                    given.append(item)
                yield item
            outcome = _given_out(attempt, given, started, perf_counter() - clock)
        except Interrupt:  # it has timed out, or was cancelled
            if yielded and run._phase < SETTLED:
                engine.finish_without_retry(_timed_out(run, spec.timeout or 0.0))
            continue
        except BaseException as error:
            outcome = failure(attempt, error, started, perf_counter() - clock)
            _finish(engine, outcome, yielded)
            if yielded or isinstance(error, GeneratorExit):
                raise
            continue
        engine.finished((outcome,))
    result = run._settled_result()
    if given is None:  # it was there already
        yield from result


def _next_in_time(
    mailbox: Mailbox, run: TaskFuture[Any], attempt: Call, inside: Context, items: Iterator[Any]
) -> Any:
    """The next item, unless the attempt's end is asked for first; then `Interrupt` is raised."""
    if run._phase >= SETTLED or run._attempt != attempt.attempt:
        raise Interrupt  # while the consumer had the last one
    place = (attempt.key, attempt.attempt)
    arrived = False
    with Interruptible() as interruptible:
        mailbox.running_now[place] = interruptible
        try:
            return inside.run(next, items)
        except Interrupt:
            arrived = True
            raise
        finally:
            interruptible.settle(arrived)
            del mailbox.running_now[place]


def _timed_out(run: TaskFuture[Any], seconds: float) -> Outcome:
    error = RunTimedOut(run.name, seconds)
    return Outcome(run._key, run._attempt, TIMED_OUT, error, time() - seconds, seconds)


async def iterate_async(
    engine: Engine, context: RunContext, spec: TaskSpec, arguments: Arguments
) -> AsyncIterator[Any]:
    """The same for an async generator, on the caller's loop."""
    import asyncio  # 25 ms that a process without a loop need not spend

    mailbox = _free_mailbox(engine)
    run = _submitted(engine, context, spec, arguments, mailbox)
    given: list[Any] | None = None
    while run._phase < SETTLED:
        attempt = await _next_attempt_async(engine, mailbox, run)
        if attempt is None:
            continue
        given = []
        started, clock, yielded = time(), perf_counter(), False
        if spec.announces:
            engine.started(attempt.key, attempt.attempt)
        inside = copy_context()
        inside.run(current.set, TaskRunContext(attempt))
        loop = asyncio.get_running_loop()
        items = inside.run(spec.fn, *attempt.args, **attempt.kwargs)
        try:
            while True:
                try:
                    item = await loop.create_task(_next_item(items), context=inside)
                except StopAsyncIteration:
                    break
                yielded = True
                if spec.caching is not None:
                    given.append(item)
                yield item
            outcome = _given_out(attempt, given, started, perf_counter() - clock)
        except BaseException as error:
            _finish(engine, failure(attempt, error, started, perf_counter() - clock), yielded)
            if yielded or not isinstance(error, Exception):
                raise
            continue
        engine.finished((outcome,))
    result = run._settled_result()
    if given is None:  # it was there already
        for item in result:
            yield item


def _given_out(attempt: Call, given: list[Any], started: float, seconds: float) -> Outcome:
    """A generator's end. Nothing is left of the items, so that it runs again if it is called; but
    of those that are cached."""
    key, number, keep = attempt.key, attempt.attempt, attempt.scope.keep
    if attempt.spec.caching is not None and keep is not None:
        kept = keep(given, attempt)
        return Outcome(key, number, COMPLETED, given, started, seconds, kept=kept)
    kept = Kept(NOT_KEPT, None, None, None, "its items were given out as they came")
    return Outcome(key, number, COMPLETED, None, started, seconds, kept=kept)


async def _next_item(items: Any) -> Any:
    return await anext(items)


def _finish(engine: Engine, outcome: Outcome, final: bool) -> None:
    """Tell of a generator's failure; `final` where what it yielded forbids another attempt."""
    if final:
        engine.finish_without_retry(outcome)
    else:
        engine.finished((outcome,))


def _free_mailbox(engine: Engine) -> Mailbox:
    try:
        return engine.mailboxes.pop()
    except IndexError:
        return Mailbox(engine)


def _submitted(
    engine: Engine, context: RunContext, spec: TaskSpec, arguments: Arguments, mailbox: Mailbox
) -> TaskFuture[Any]:
    args, kwargs, wait_for = arguments
    (run,) = engine.submit(
        spec, (args,), kwargs, wait_for=wait_for, runner=mailbox, context=context
    )
    return run


def _own_call(mailbox: Mailbox, run: TaskFuture[Any]) -> Call | None:
    """One for this run; one that came late for a run before is not wanted any more."""
    while mailbox.calls:
        found = mailbox.calls.popleft()
        if found.key == run._key:
            return found
    return None


def _next_attempt(engine: Engine, mailbox: Mailbox, run: TaskFuture[Any]) -> Call | None:
    """The attempt to run now; waits for one. None where the run may have settled meanwhile."""
    found = _own_call(mailbox, run)
    if found is not None:
        return found
    waiter = Waiter()
    mailbox.wake = waiter
    if engine.notify(run, waiter) and not mailbox.calls:
        try:
            engine.wait(waiter, (run,), None)
        except BaseException:  # nobody is left to run it
            engine.cancel((run,))
            raise
    mailbox.wake = None
    return _own_call(mailbox, run)


async def _next_attempt_async(
    engine: Engine, mailbox: Mailbox, run: TaskFuture[Any]
) -> Call | None:
    import asyncio  # as above

    found = _own_call(mailbox, run)
    if found is not None:
        return found
    loop = asyncio.get_running_loop()
    woken = asyncio.Event()

    def wake(_: object) -> None:
        loop.call_soon_threadsafe(woken.set)

    mailbox.wake = wake
    if engine.notify(run, wake) and not mailbox.calls:
        with engine.lending():
            await woken.wait()
    mailbox.wake = None
    return _own_call(mailbox, run)
