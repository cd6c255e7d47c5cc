"""Calls on an event loop: the flow's own if the flow is async, else one of the engine's.

Sync tasks go to worker threads, under the same limit.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from time import time
from typing import Any, ClassVar

from anabranch.execution.calls import Call
from anabranch.execution.functions import ASYNC, ASYNC_GENERATOR
from anabranch.execution.run import failure, run_call_async
from anabranch.futures import TaskFuture
from anabranch.outcomes import Outcome
from anabranch.task_runners.base import (
    Capabilities,
    Inbox,
    OpenRunnerBase,
    TaskRunner,
    counted,
    only_options,
    whole_number,
)
from anabranch.task_runners.ready_queue import ReadyQueue
from anabranch.task_runners.thread_pool import ThreadPool, not_begun
from anabranch.waiting import Waiter

MOST_THREADS = 40
"""Threads for sync tasks, as many as anyio gives out by default."""
TURN = 500
"""Calls begun in one turn of the loop, so that other things on it get their turns too."""


class AsyncioTaskRunner(TaskRunner):
    """Runs at most `max_concurrency` calls at a time, async ones as tasks of an event loop.

    `resources` are amounts that tasks can ask for. An async call that waits for futures with
    `await` gives its place up meanwhile.
    """

    scheme: ClassVar[str] = "asyncio"

    def __init__(
        self, max_concurrency: int | None = None, resources: Mapping[str, float] | None = None
    ) -> None:
        self.max_concurrency = whole_number(self.scheme, "max_concurrency", max_concurrency, 1000)
        self.resources = counted(self.scheme, resources)

    @classmethod
    def from_string(cls, target: str, options: Mapping[str, str]) -> AsyncioTaskRunner:
        only_options(cls.scheme, options, ["max_concurrency"])
        return cls(options.get("max_concurrency"))  # pyright: ignore[reportArgumentType]  # checked there

    @contextmanager
    def open(self, inbox: Inbox, loop: Any) -> Generator[OpenAsyncio]:
        capabilities = Capabilities(
            name=self.scheme,
            priority=True,
            stops_sync=False,
            stops_async=True,
            parallel=False,
            resources=self.resources,
        )
        with _loop_of_our_own() if loop is None else _given(loop) as its_loop:
            runner = OpenAsyncio(inbox, its_loop, self.max_concurrency, capabilities)
            try:
                yield runner
            finally:
                runner.close()

    def __repr__(self) -> str:
        return f"AsyncioTaskRunner(max_concurrency={self.max_concurrency})"


@contextmanager
def _given(loop: asyncio.AbstractEventLoop) -> Generator[asyncio.AbstractEventLoop]:
    yield loop


@contextmanager
def _loop_of_our_own() -> Generator[asyncio.AbstractEventLoop]:
    """A loop that turns on a daemon thread while the block runs."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="anabranch-loop", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        if not thread.is_alive():
            loop.close()


class OpenAsyncio(OpenRunnerBase):
    """Launches and outcomes go through one callback a turn of the loop."""

    def __init__(
        self,
        inbox: Inbox,
        loop: asyncio.AbstractEventLoop,
        max_concurrency: int,
        capabilities: Capabilities,
    ) -> None:
        self.capabilities = capabilities
        self._inbox = inbox
        self._loop = loop
        self._limit = max_concurrency
        self._queue = ReadyQueue()
        self._tasks: dict[int, tuple[Call, asyncio.Task[None]]] = {}
        self._lent = 0
        self._outcomes: list[Outcome] = []
        self._turning = threading.Lock()
        self._turn_due = False
        self._closed = False
        self._threads = ThreadPool(inbox, min(max_concurrency, MOST_THREADS), capabilities)

    def launch(self, calls: Sequence[Call]) -> None:
        if calls[0].spec.kind in (ASYNC, ASYNC_GENERATOR) and calls[0].spec is calls[-1].spec:
            on_loop = calls
        else:
            on_loop = [each for each in calls if each.spec.kind in (ASYNC, ASYNC_GENERATOR)]
            sync = [each for each in calls if each.spec.kind not in (ASYNC, ASYNC_GENERATOR)]
            if sync:
                self._threads.launch(sync)
        if on_loop:
            self._queue.put(on_loop)
            self._have_turn()

    def _have_turn(self) -> None:
        """See to it that `_turn` runs on the loop, once however often this is asked."""
        with self._turning:
            if self._turn_due or self._closed:
                return
            self._turn_due = True
        self._loop.call_soon_threadsafe(self._turn)

    def _turn(self) -> None:
        self._turn_due = False
        if self._outcomes:
            outcomes, self._outcomes = self._outcomes, []
            self._inbox.finished(outcomes)
        create = self._loop.create_task
        begun = 0
        while len(self._tasks) - self._lent < self._limit and begun < TURN:
            call = self._queue.take()
            if call is None:
                return
            begun += 1
            assert call.context is not None  # set by the engine
            task = create(self._run(call), context=call.context.copy())
            self._tasks[call[0]] = call, task
            if call.spec.announces:
                self._inbox.started(call.key, call.attempt)
        if self._queue and begun == TURN:
            self._have_turn()

    async def _run(self, call: Call) -> None:
        outcome = await run_call_async(call)
        del self._tasks[call[0]]
        self._outcomes.append(outcome)
        if not self._turn_due:
            self._turn_due = True
            self._loop.call_soon(self._turn)

    def cancel(self, keys: Iterable[int]) -> None:
        keys = list(keys)
        self._threads.cancel(keys)
        waiting = self._queue.take_back_all(keys)
        if waiting:
            self._inbox.finished([not_begun(call) for call in waiting])
        self._loop.call_soon_threadsafe(self._cancel_running, keys)

    def _cancel_running(self, keys: Sequence[int]) -> None:
        for key in keys:
            if key in self._tasks:
                call, task = self._tasks[key]
                task.cancel()
                task.add_done_callback(partial(self._ended_unstarted, call))

    def _ended_unstarted(self, call: Call, task: asyncio.Task[None]) -> None:
        """A task cancelled before its first step never came to tell its outcome."""
        if task.cancelled() and self._tasks.pop(call.key, None) is not None:
            self._outcomes.append(failure(call, asyncio.CancelledError(), time(), 0.0))
            self._have_turn()

    def wait(
        self, waiter: Waiter, futures: Sequence[TaskFuture[Any]], timeout: float | None
    ) -> bool:
        return self._threads.wait(waiter, futures, timeout)

    def run_awaited(self, key: int) -> None:
        self._threads.run_awaited(key)

    @contextmanager
    def lend(self) -> Generator[None]:
        if asyncio._get_running_loop() is not self._loop:  # pyright: ignore[reportAttributeAccessIssue]  # the only way to ask without an exception
            with self._threads.lend():
                yield
            return
        task = asyncio.current_task()
        if task is None or not any(task is each for _, each in self._tasks.values()):
            yield
            return
        self._lent += 1
        self._have_turn()
        try:
            yield
        finally:
            self._lent -= 1

    def running(self) -> Iterable[tuple[int, int]]:
        on_loop = [(call.key, call.attempt) for call, _ in list(self._tasks.values())]
        return [*on_loop, *self._threads.running()]

    def runs_on(self, loop: Any) -> bool:
        return loop is self._loop

    def abandoned(self) -> list[str]:
        return self._threads.abandoned()

    def close(self) -> None:
        with self._turning:
            self._closed = True
        self._threads.close()
