"""The simplest runner: each call runs at once, in the thread that submits it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any, ClassVar

from anabranch.context import current_context
from anabranch.errors import Interrupted, Terminated
from anabranch.execution.calls import Call
from anabranch.execution.interrupts import run_interruptibly
from anabranch.futures import TaskFuture
from anabranch.task_runners.base import (
    Capabilities,
    Inbox,
    OpenRunnerBase,
    TaskRunner,
    only_options,
)
from anabranch.task_runners.thread_pool import not_begun
from anabranch.waiting import Waiter


class InlineTaskRunner(TaskRunner):
    """Runs calls one after the other, each when it is submitted: for debugging, and for tests.

    A retry that waits, and what waits for others, runs when the flow next waits for something.
    """

    scheme: ClassVar[str] = "inline"

    @classmethod
    def from_string(cls, target: str, options: Mapping[str, str]) -> InlineTaskRunner:
        only_options(cls.scheme, options, [])
        return cls()

    @contextmanager
    def open(self, inbox: Inbox, loop: Any) -> Generator[OpenInline]:
        yield OpenInline(inbox, loop)

    def __repr__(self) -> str:
        return "InlineTaskRunner()"


class OpenInline(OpenRunnerBase):
    """Calls of a thread that runs user code are run there; others wait for such a thread."""

    capabilities = Capabilities(
        name="inline", priority=False, stops_sync=True, stops_async=True, parallel=False
    )

    def __init__(self, inbox: Inbox, loop: Any) -> None:
        self._inbox = inbox
        self._loop = loop
        self._left: deque[Call] = deque()  # launched by threads that run no user code
        self._sleeping: list[Waiter] = []
        self._own = threading.local()
        self._running: dict[tuple[int, int], Any] = {}

    def launch(self, calls: Sequence[Call]) -> None:
        delivering: deque[Call] | None = getattr(self._own, "delivering", None)
        if delivering is not None:
            delivering.extend(calls)  # the loop below us runs them: no recursion along a chain
        elif current_context().engine is not None:
            self._run_all(deque(calls))
        else:
            self._left.extend(calls)
            for waiter in list(self._sleeping):
                waiter.wake()
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._run_left)

    def _run_all(self, calls: deque[Call]) -> None:
        while calls:
            call = calls.popleft()
            outcome = run_interruptibly(call, self._running, self._inbox)
            self._own.delivering = calls
            try:
                self._inbox.finished((outcome,))
            finally:
                self._own.delivering = None
            if isinstance(outcome.value, Interrupted | Terminated):
                self._inbox.finished([not_begun(each) for each in calls])
                raise outcome.value  # meant for the flow, whose thread this is

    def _run_left(self) -> None:
        while self._left:
            try:
                call = self._left.popleft()
            except IndexError:  # another thread was quicker
                return
            self._run_all(deque((call,)))

    def cancel(self, keys: Iterable[int]) -> None:
        keys = set(keys)
        waiting = [call for call in self._left if call.key in keys]
        for call in waiting:
            self._left.remove(call)
        self._inbox.finished([not_begun(call) for call in waiting])
        for (key, _), interruptible in list(self._running.items()):
            if key in keys:
                interruptible.interrupt()

    def wait(
        self, waiter: Waiter, futures: Sequence[TaskFuture[Any]], timeout: float | None
    ) -> bool:
        deadline = None if timeout is None else monotonic() + timeout
        self._sleeping.append(waiter)
        try:
            while True:
                self._run_left()
                if waiter.done:
                    return True
                if not waiter.block(None if deadline is None else deadline - monotonic()):
                    return waiter.done
        finally:
            self._sleeping.remove(waiter)

    def running(self) -> Iterable[tuple[int, int]]:
        return list(self._running)
