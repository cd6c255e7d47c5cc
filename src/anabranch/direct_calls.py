"""Direct calls in whatever context they are made: inside a flow, or on their own."""

# pyright: reportPrivateUsage=false
# The engine's rooms share the slots of the run record, which are private to users.

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from anabranch.clock import SystemClock
from anabranch.context import EngineContext, RunContext
from anabranch.engine import direct
from anabranch.engine.direct import Arguments
from anabranch.engine.engine import Engine
from anabranch.engine.submission import OpenFlow
from anabranch.errors import UnsupportedEventLoopError
from anabranch.execution.calls import TaskSpec
from anabranch.recording import recording_engine
from anabranch.settings import load_settings


@contextmanager
def _engine_for(context: RunContext, spec: TaskSpec) -> Generator[tuple[Engine, RunContext]]:
    """The flow's engine; for a task called on its own, one that lives as long as the call."""
    if context.engine is not None:
        yield context.engine, context
        return
    clock = context.clock or SystemClock()
    settings = load_settings()
    with ExitStack() as lifetimes:
        if spec.persistence is not None:  # its result outlives the call, so it is recorded
            subscribers = list(context.subscribers)
            recorded = recording_engine(clock, subscribers, settings, context)
            engine = lifetimes.enter_context(recorded)
        else:
            engine = Engine(clock, context.subscribers, settings.cancel_grace)
            lifetimes.callback(engine.close)
        yield engine, EngineContext(engine, OpenFlow(None, None, None), context.tags)


def call(context: RunContext, spec: TaskSpec, arguments: Arguments, return_state: bool) -> Any:
    """Run a sync task in this thread; its value, or its state."""
    if context.engine is not None:  # the usual case, which has to be quick
        run = direct.call(context.engine, context, spec, arguments)
        return run.state if return_state else run._settled_result()
    with _engine_for(context, spec) as (engine, its_context):
        run = direct.call(engine, its_context, spec, arguments)
    return run.state if return_state else run.result()


async def call_async(
    context: RunContext, spec: TaskSpec, arguments: Arguments, return_state: bool
) -> Any:
    """Run an async task on this loop; its value, or its state."""
    refuse_other_loops()
    with _engine_for(context, spec) as (engine, its_context):
        run = await direct.call_async(engine, its_context, spec, arguments)
    return run.state if return_state else run.result()


def iterate(context: RunContext, spec: TaskSpec, arguments: Arguments) -> Iterator[Any]:
    with _engine_for(context, spec) as (engine, its_context):
        yield from direct.iterate(engine, its_context, spec, arguments)


async def iterate_async(
    context: RunContext, spec: TaskSpec, arguments: Arguments
) -> AsyncIterator[Any]:
    refuse_other_loops()
    with _engine_for(context, spec) as (engine, its_context):
        async for item in direct.iterate_async(engine, its_context, spec, arguments):
            yield item


def refuse_other_loops() -> None:
    """Raise `UnsupportedEventLoopError` on a loop that is not asyncio's."""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
        raise UnsupportedEventLoopError("trio")
