"""Ending user code that runs in the flow's own thread: the only way to keep a timeout there.

In the main thread a signal handler raises, which also ends a sleep or a read. In another thread
the exception is raised at the next line of Python.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Generator, MutableMapping
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import Any, Protocol

from anabranch.execution.calls import Call
from anabranch.execution.run import failure, run_call
from anabranch.outcomes import Outcome
from anabranch.waiting import short_sleeps


class Interrupt(BaseException):
    """Raised inside a call that has passed its timeout or was cancelled."""


class StartListener(Protocol):
    def started(self, key: int, attempt: int) -> None: ...


_SIGNAL = getattr(signal, "SIGURG", None)  # ignored by default, so that a late one does no harm


class Interruptible:
    """The stretch of the current thread's work that `interrupt()` can end, from any thread."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._by_signal = _SIGNAL is not None and self._thread == threading.main_thread().ident
        self._changing = threading.Lock()
        self._active = False
        self._sent = False
        self._outer: Interruptible | None = None
        self._listens: AbstractContextManager[object] | None = None

    def __enter__(self) -> Interruptible:
        global _innermost
        if self._by_signal:
            self._outer, _innermost = _innermost, self
            self._listens = None if _handled else interrupts_handled()
        else:
            self._listens = short_sleeps()
        if self._listens is not None:
            self._listens.__enter__()
        self._active = True
        return self

    def interrupt(self) -> None:
        with self._changing:
            if not self._active or self._sent:
                return
            self._sent = True
            self._send()

    def insist(self) -> None:
        """Interrupt once more what goes on all the same: a callback of the garbage collector, such as
        Dask has, swallows whatever is raised in it."""
        with self._changing:
            if self._active and self._sent:
                self._send()

    def _send(self) -> None:
        if self._by_signal and _SIGNAL is not None:
            signal.pthread_kill(self._thread, _SIGNAL)
        else:
            raise_in_thread(self._thread, Interrupt)

    def settle(self, arrived: bool) -> None:
        """No interrupt after this; one that is under way is waited for, so that it hits nothing."""
        with self._changing:
            self._active = False
            awaited = self._sent and not arrived
        try:
            for _ in range(
                20 if awaited else 0
            ):  # user code may have swallowed it: no endless wait
                time.sleep(0.001)
        except Interrupt:
            pass

    def __exit__(self, *_: object) -> None:
        global _innermost
        if self._listens is not None:
            self._listens.__exit__(None, None, None)
        if self._by_signal:
            _innermost = self._outer

    def arrived(self) -> None:
        """The signal has."""
        if self._active or self._sent:
            raise Interrupt


_innermost: Interruptible | None = None  # of the main thread
_handled = False


@contextmanager
def interrupts_handled() -> Generator[None]:
    """In the main thread: have what ends its work there. Each `Interruptible` sees to it by itself;
    this is for a process that has many of them, where it costs more than all else of a short call."""
    global _handled
    if _SIGNAL is None or _handled:
        yield
        return
    before = signal.signal(_SIGNAL, _arrived)
    _handled = True
    try:
        yield
    finally:
        _handled = False
        signal.signal(_SIGNAL, before or signal.SIG_DFL)


def _arrived(number: int, frame: FrameType | None) -> None:
    if _innermost is not None:
        _innermost.arrived()


def raise_in_thread(thread: int, error: type[BaseException]) -> None:
    """Raise this at the next line of Python that the thread runs."""
    import ctypes  # slow to load, and rarely needed

    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error))


def run_interruptibly(
    call: Call, running: MutableMapping[tuple[int, int], Any], listener: StartListener
) -> Outcome:
    """Run a call in this thread so that its entry in `running` can interrupt it."""
    place = (call.key, call.attempt)
    if not call.spec.announces:
        running[place] = _NEVER
        try:
            return run_call(call)
        finally:
            del running[place]
    started = time.time()
    clock = time.perf_counter()
    with Interruptible() as interruptible:
        running[place] = interruptible
        try:
            listener.started(*place)
            outcome = run_call(call)
        except Interrupt as interrupt:  # it came after the task's own code had ended
            outcome = failure(call, interrupt, started, time.perf_counter() - clock)
        interruptible.settle(isinstance(outcome.value, Interrupt))
        del running[place]
    return outcome


class _Never:
    def interrupt(self) -> None:
        """A call without a timeout, in the thread of the flow itself: it ends by itself."""


_NEVER = _Never()
