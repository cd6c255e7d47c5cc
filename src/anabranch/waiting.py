"""How one thread waits for futures that others settle."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anabranch.futures import TaskFuture


SLICE = 0.25
"""Seconds that a thread sleeps at a time where something may have to end it: the main one, which
gets signals, and those in which an exception may be raised."""

_this_thread = threading.local()


@contextmanager
def short_sleeps() -> Generator[None]:
    """In this thread, sleep in slices, so that an exception raised in it is seen meanwhile."""
    before = getattr(_this_thread, "short_sleeps", False)
    _this_thread.short_sleeps = True
    try:
        yield
    finally:
        _this_thread.short_sleeps = before


class Waiter:
    """Wakes its thread when `needed` futures have settled; `arrived` holds them in that order.

    It is called with each settled future, from any thread; `wake()` wakes the thread without one,
    for a runner that has work for it.
    """

    __slots__ = ("_lock", "arrived", "needed")

    def __init__(self, needed: int = 1) -> None:
        self.needed = needed
        self.arrived: deque[TaskFuture[Any]] = deque()
        self._lock = threading.Lock()
        self._lock.acquire()

    def __call__(self, future: TaskFuture[Any]) -> None:
        self.arrived.append(future)
        if len(self.arrived) >= self.needed:
            self.wake()

    @property
    def done(self) -> bool:
        return len(self.arrived) >= self.needed

    def wake(self) -> None:
        try:
            self._lock.release()
        except RuntimeError:  # woken already, and not yet asleep again
            pass

    def block(self, timeout: float | None = None) -> bool:
        """Sleep until woken, at most `timeout` seconds; whether it was woken.

        The main thread sleeps in slices: Python notes a signal that comes just before the sleep,
        or to another thread, but does not wake the main thread for its handler.
        """
        in_main = threading.get_ident() == threading.main_thread().ident
        if not in_main and not getattr(_this_thread, "short_sleeps", False):
            return self._lock.acquire(timeout=-1 if timeout is None else max(timeout, 0))
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = SLICE if deadline is None else deadline - time.monotonic()
            if self._lock.acquire(timeout=max(0, min(left, SLICE))):
                return True
            if left <= SLICE and deadline is not None:
                return False

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until done, at most `timeout` seconds; whether it is."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while len(self.arrived) < self.needed:
            if not self.block(None if deadline is None else deadline - time.monotonic()):
                return self.done
        return True
