"""Time as the engine sees it, so that a test can move it."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """The wall clock for records, and timers on a clock that never jumps."""

    def time(self) -> float:
        """Seconds since the epoch."""
        ...

    def call_later(self, delay: float, callback: Callable[[], None]) -> None:
        """Run `callback` once `delay` seconds have passed; it must be quick and not raise."""
        ...

    def close(self) -> None:
        """Forget the timers that are still set."""
        ...


class SystemClock:
    """The machine's own clocks; one daemon thread, started by the first timer."""

    def __init__(self) -> None:
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def time(self) -> float:
        return time.time()

    def call_later(self, delay: float, callback: Callable[[], None]) -> None:
        with self._changed:
            if self._closed:
                return
            when = time.monotonic() + delay
            heapq.heappush(self._timers, (when, next(self._order), callback))
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="anabranch-clock", daemon=True
                )
                self._thread.start()
            elif self._timers[0][0] == when:
                self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._timers.clear()
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._closed:
                    left = self._timers[0][0] - time.monotonic() if self._timers else None
                    if left is not None and left <= 0:
                        break
                    self._changed.wait(left)
                if self._closed:
                    return
                callback = heapq.heappop(self._timers)[2]
            callback()
