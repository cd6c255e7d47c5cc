"""The two ways of waiting for what a flow run's steps ask: in the calling thread, or on its loop.

Both are generators: they give out the items of a generator flow as they come, where the caller
wants them so, and the run's final state at the end.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from anabranch.clock import SystemClock
from anabranch.context import RunContext, current_context
from anabranch.engine.engine import Engine
from anabranch.errors import Interrupted, Terminated
from anabranch.events import Subscriber
from anabranch.execution.interrupts import Interrupt, Interruptible
from anabranch.flow_runs import ConsumerLeft, RunFunction, Settle, Step, steps, still_ours
from anabranch.futures import FutureList
from anabranch.logging import set_up_logging
from anabranch.recording import recording_engine
from anabranch.settings import load_settings
from anabranch.signals import (
    exception_for,
    kept_awake,
    leave_as_told,
    raise_in_main,
    signals_told,
)
from anabranch.states import Cancelled, State
from anabranch.subscribers.log import LogSubscriber
from anabranch.subscribers.progress import progress_display
from anabranch.waiting import Waiter

if TYPE_CHECKING:
    import asyncio

    from anabranch.flows import Flow

    Driver = Generator[Any, None, State[Any]]


@contextmanager
def engine_for(context: RunContext, flow: Flow[..., Any]) -> Generator[Engine]:
    """The running flow's engine; a new one, closed at the end, for a root flow."""
    if context.engine is not None:
        context.engine.refuse_flow(flow.name)
        yield context.engine
        return
    with root_engine(context) as engine:
        yield engine


@contextmanager
def root_engine(context: RunContext) -> Generator[Engine]:
    """A new engine for what starts in this context, with all that tells of it."""
    settings = load_settings()
    set_up_logging(settings.logging_level)
    subscribers: list[Subscriber] = [LogSubscriber(), *context.subscribers]
    shows = settings.progress and sys.stderr.isatty()
    clock = context.clock or SystemClock()
    with (
        recording_engine(clock, subscribers, settings, context) as engine,
        progress_display(engine.progress, shows),
    ):
        yield engine


# -- in the calling thread --------------------------------------------------------------------------


def run_sync(flow: Flow[..., Any], call: tuple[Any, ...]) -> State[Any]:
    """Run a sync flow to its end; a generator's items are its result."""
    try:
        next(drive(flow, call, lazily=False))
    except StopIteration as stop:
        return stop.value
    raise AssertionError("a driver gives out items only where they are wanted")


def iterate_sync(flow: Flow[..., Any], call: tuple[Any, ...]) -> Generator[Any]:
    """Run a generator flow as its items are asked for; raises what ended it, if it failed."""
    state = yield from drive(flow, call, lazily=True)
    state.result()


def drive(flow: Flow[..., Any], call: tuple[Any, ...], lazily: bool) -> Driver:
    context = current_context()
    with engine_for(context, flow) as engine:
        course = steps(flow, engine, context, None, call)
        answer: Any = None
        error: BaseException | None = None
        with signals_told(context, raise_in_main) as told:
            engine.told = engine.told or told
            while True:
                try:
                    step = course.throw(error) if error is not None else course.send(answer)
                except StopIteration as stop:
                    state: State[Any] = stop.value
                    break
                except (Interrupted, Terminated) as early:  # before the function, or after it
                    state = Cancelled(message="Cancelled between two steps.", data=early)
                    break
                answer, error = None, None
                try:
                    if lazily and isinstance(step, RunFunction):
                        yield from _items(engine, step)
                    else:
                        answer = _do(engine, step)
                    if not told.again:
                        told.signal = None  # none came, or the function dealt with it itself
                except BaseException as raised:
                    error = raised
                    if told.signal is not None and not told.again:
                        error = exception_for(told.signal)  # the function may have replaced it
                        told.again = True
    state = still_ours(engine, state)  # the last that was written may have been refused
    if not isinstance(state.data, ConsumerLeft):
        leave_as_told(state, context)
    return state


def _do(engine: Engine, step: Step) -> Any:
    if isinstance(step, RunFunction):
        with in_time(engine, step.timeout) as run:
            return run(step.context.run, _to_end, step.fn, step.args, step.kwargs)
    if isinstance(step, Settle):
        return FutureList(step.futures).wait()
    waiter = Waiter()
    waits = step.start(partial(waiter, None))  # pyright: ignore[reportArgumentType]  # woken without a future
    if waits:
        engine.wait_in(step.open_flow, waiter)
    return waits


def _to_end(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """A generator's body runs inside the flow."""
    value = fn(*args, **kwargs)
    return list(value) if inspect.isgenerator(value) else value


def _items(engine: Engine, step: RunFunction) -> Generator[Any]:
    items = step.context.run(step.fn, *step.args, **step.kwargs)
    with in_time(engine, step.timeout) as run:
        while True:
            try:
                item = run(step.context.run, next, items)
            except StopIteration:
                return
            step.open_flow.yielded = True
            try:
                yield item
            except GeneratorExit:
                step.context.run(items.close)
                raise ConsumerLeft from None


@contextmanager
def in_time(engine: Engine, seconds: float | None) -> Generator[Callable[..., Any]]:
    """Gives what calls a function so that `Interrupt` ends it once `seconds` have passed since the
    block began; also where it is called after that."""
    if seconds is None:
        yield _call
        return
    late = False
    running: Interruptible | None = None

    def passes() -> None:
        nonlocal late
        late = True
        if running is not None:
            running.interrupt()

    def run(fn: Callable[..., Any], *args: Any) -> Any:
        nonlocal running
        arrived = False
        with Interruptible() as interruptible:
            running = interruptible
            try:
                if late:
                    raise Interrupt
                return fn(*args)
            except Interrupt:
                arrived = True
                raise
            finally:
                running = None
                interruptible.settle(arrived)

    engine.clock.call_later(seconds, passes)
    yield run


def _call(fn: Callable[..., Any], *args: Any) -> Any:
    return fn(*args)


# -- on the calling loop ----------------------------------------------------------------------------


class Ended(NamedTuple):
    """What an async driver gives out last, since it cannot return it."""

    state: State[Any]


async def run_async(flow: Flow[..., Any], call: tuple[Any, ...]) -> State[Any]:
    """Run an async flow to its end; a generator's items are its result."""
    async for ended in drive_async(flow, call, lazily=False):
        return ended.state
    raise AssertionError("a driver gives out the state at the end")


async def iterate_async(flow: Flow[..., Any], call: tuple[Any, ...]) -> AsyncGenerator[Any]:
    """Run an async generator flow as its items are asked for; raises what ended it, if it failed."""
    driver = drive_async(flow, call, lazily=True)
    try:
        async for item in driver:
            if type(item) is Ended:
                item.state.result()
                return
            yield item
    finally:
        await driver.aclose()


async def drive_async(
    flow: Flow[..., Any], call: tuple[Any, ...], lazily: bool
) -> AsyncGenerator[Any]:
    import asyncio  # 25 ms that a process without a loop need not spend

    context = current_context()
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None  # a coroutine runs in one
    with engine_for(context, flow) as engine:
        course = steps(flow, engine, context, loop, call)
        answer: Any = None
        error: BaseException | None = None

        def tell(number: int) -> None:
            if engine.interrupted:  # nothing came of the first: code here never lets the loop turn
                raise exception_for(number)
            engine.interrupted = True
            loop.call_soon_threadsafe(task.cancel)

        with kept_awake(loop), signals_told(context, tell) as told:
            engine.told = engine.told or told
            while True:
                try:
                    step = course.throw(error) if error is not None else course.send(answer)
                except StopIteration as stop:
                    state: State[Any] = stop.value
                    break
                answer, error = None, None
                try:
                    if lazily and isinstance(step, RunFunction):
                        async for item in _items_async(step):
                            step.open_flow.yielded = True
                            try:
                                yield item
                            except GeneratorExit:
                                raise ConsumerLeft from None
                    else:
                        answer = await _do_async(engine, step)
                    if not told.again:
                        told.signal = None  # none came, or the function dealt with it itself
                        engine.interrupted = False
                except BaseException as raised:
                    error = raised
                    if told.signal is not None and not told.again:
                        error = exception_for(told.signal)
                        told.again = True
                        try:
                            if not isinstance(raised, asyncio.CancelledError):
                                await asyncio.sleep(0)  # it is still on its way
                        except asyncio.CancelledError:
                            pass
                        task.uncancel()
    state = still_ours(engine, state)  # as in `drive`
    if isinstance(state.data, ConsumerLeft):
        return
    leave_as_told(state, context)
    if isinstance(state.data, asyncio.CancelledError):
        raise state.data
    yield Ended(state)


async def _do_async(engine: Engine, step: Step) -> Any:
    import asyncio  # as above

    if isinstance(step, RunFunction):
        return await _in_time(step, _awaited(step.fn, step.args, step.kwargs), step.timeout)
    if isinstance(step, Settle):
        for future in reversed(step.futures):
            if not future.done():
                await engine.wait_async(future)
        return None
    loop, woken = asyncio.get_running_loop(), asyncio.Event()
    waits = step.start(partial(_wake, loop, woken.set))
    if waits:
        await woken.wait()
    return waits


async def _items_async(step: RunFunction) -> AsyncGenerator[Any]:
    import asyncio  # as above

    loop = asyncio.get_running_loop()
    deadline = None if step.timeout is None else loop.time() + step.timeout
    items = step.context.run(step.fn, *step.args, **step.kwargs)
    try:
        while True:
            left = None if deadline is None else max(0.0, deadline - loop.time())
            try:
                item = await _in_time(step, _next_item(items), left)
            except StopAsyncIteration:
                return
            yield item
    finally:
        await items.aclose()


async def _in_time(step: RunFunction, coroutine: Any, seconds: float | None) -> Any:
    """What the coroutine gives, run in the flow's context; `Interrupt` once `seconds` have passed."""
    import asyncio  # as above

    task = asyncio.get_running_loop().create_task(coroutine, context=step.context)
    try:
        async with asyncio.timeout(seconds):
            return await task
    except TimeoutError as error:
        if task.cancelled():
            raise Interrupt from error
        raise


async def _next_item(items: Any) -> Any:
    return await anext(items)


def _wake(loop: asyncio.AbstractEventLoop, wake: Callable[[], object]) -> None:
    """Wake who waits on this loop, from another thread."""
    try:
        loop.call_soon_threadsafe(wake)
    except RuntimeError:  # the loop was closed meanwhile: nobody waits there
        pass


async def _awaited(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    result = fn(*args, **kwargs)
    return await result if inspect.isawaitable(result) else [item async for item in result]
