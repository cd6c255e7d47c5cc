"""Users' own functions that the engine calls: hooks, done-callbacks, retry conditions.

They run on one thread of their own, in order, so that a slow one holds up neither the engine nor
a worker.
"""

from __future__ import annotations

import inspect
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextvars import Context, copy_context
from typing import Any

from anabranch.execution.calls import Call
from anabranch.execution.run import drive_alone, run_call
from anabranch.task_runners.base import Capabilities, Inbox, OpenRunnerBase

logger = logging.getLogger("anabranch.hooks")


class Callbacks:
    """A queue of functions and the daemon thread that works it off, started by the first."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._waiting = 0

    def put(self, work: Callable[[], object]) -> None:
        """Have `work()` done; it reports its own errors."""
        with self._starting:
            self._waiting += 1
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="anabranch-callbacks", daemon=True
                )
                self._thread.start()
        self._queue.put(work)

    def call(self, what: str, fn: Callable[..., Any], *args: Any) -> None:
        """Have a user's function called; what it raises is logged with its stack as `what`."""
        context = copy_context()
        self.put(lambda: call_reporting(what, context, fn, *args))

    def idle(self) -> bool:
        return self._waiting == 0

    def drain(self, seconds: float) -> bool:
        """Wait until all that was put is done, at most so long; whether it is."""
        if self._thread is threading.current_thread():
            return True
        done = threading.Event()
        if self.idle():
            return True
        self.put(done.set)
        return done.wait(seconds)

    def close(self) -> None:
        if self._thread is not None:
            self._queue.put(None)

    def join(self, seconds: float) -> None:
        """Wait for the thread's end, at most so long."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(seconds)

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            try:
                work()
            except BaseException:
                logger.exception("A callback of the engine failed")
            with self._starting:
                self._waiting -= 1


class Verdict:
    """What a user's own function says, under the name that errors give it; no, where it raises."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.wanted = False


class CallbackRunner(OpenRunnerBase):
    """Runs calls of the engine's own on the callbacks' thread."""

    capabilities = Capabilities(
        name="callbacks", priority=False, stops_sync=False, stops_async=False, parallel=False
    )

    def __init__(self, callbacks: Callbacks, inbox: Inbox) -> None:
        self._callbacks = callbacks
        self._inbox = inbox

    def launch(self, calls: Sequence[Call]) -> None:
        for call in calls:
            self._callbacks.put(lambda call=call: self._inbox.finished((run_call(call),)))

    def cancel(self, keys: Iterable[int]) -> None:
        """They are quick: the cancellation takes effect when they end."""

    def running(self) -> Iterable[tuple[int, int]]:
        return ()


def call_user(context: Context, fn: Callable[..., Any], *args: Any) -> Any:
    """Call a user's function, sync or async."""
    result = context.run(fn, *args)
    if inspect.isawaitable(result):
        return context.run(drive_alone, _awaited(result))
    return result


def call_reporting(what: str, context: Context, fn: Callable[..., Any], *args: Any) -> None:
    started = time.monotonic()
    try:
        call_user(context, fn, *args)
    except BaseException as error:
        name = getattr(fn, "__qualname__", repr(fn))
        logger.error(
            "%s %s raised %s after %.1f s; the run's state is not changed by it",
            what,
            name,
            type(error).__name__,
            time.monotonic() - started,
            exc_info=error,
        )


async def _awaited(awaitable: Any) -> Any:
    return await awaitable
