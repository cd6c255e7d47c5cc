"""A clock that stands still until a test moves it."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable


class MovableClock:
    """A `clock.Clock` whose time passes only in `move`; from any thread.

    `start` is in seconds since the epoch, by default now. Engines can share one: each takes a
    `share`, which forgets its own timers only.
    """

    def __init__(self, start: float | None = None) -> None:
        self._now = time.time() if start is None else start
        self._timers: list[tuple[float, int, Callable[[], None], object]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._moving = threading.RLock()  # moves of two threads follow each other

    def time(self) -> float:
        """Seconds since the epoch."""
        return self._now

    def call_later(self, delay: float, callback: Callable[[], None]) -> None:
        """Have `callback` run by whoever moves the clock `delay` seconds on."""
        self.set_timer(delay, callback, None)

    def set_timer(self, delay: float, callback: Callable[[], None], owner: object) -> None:
        with self._changed:
            entry = (self._now + max(0.0, delay), next(self._order), callback, owner)
            heapq.heappush(self._timers, entry)
            self._changed.notify_all()

    def close(self) -> None:
        """Forget all timers; the clock can be used on."""
        self.forget(None)

    def forget(self, owner: object) -> None:
        """Forget this owner's timers; everyone's for None."""
        with self._changed:
            self._timers = [each for each in self._timers if owner not in (None, each[3])]
            heapq.heapify(self._timers)

    def share(self) -> ClockShare:
        """The clock for one engine."""
        return ClockShare(self)

    @property
    def timers(self) -> int:
        """How many timers are set."""
        return len(self._timers)

    @property
    def next_due(self) -> float | None:
        """When the next timer is due, in seconds since the epoch; None where none is set."""
        with self._changed:
            return self._timers[0][0] if self._timers else None

    def wait_for_timer(self, count: int = 1, timeout: float = 10.0) -> None:
        """Block until so many timers are set; `TimeoutError` after `timeout` real seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._timers) >= count, timeout):
                raise TimeoutError(
                    f"{len(self._timers)} timers are set, not {count}, after {timeout:g} seconds: "
                    "nothing waits for this clock."
                )

    def move(self, seconds: float) -> None:
        """Let time pass: timers that come due run here, in order, each at its own time."""
        self.move_to(self._now + seconds)

    def move_to(self, when: float) -> None:
        """Move to a time in seconds since the epoch; never backwards."""
        with self._moving:
            while (callback := self._next_until(when)) is not None:
                callback()
            self._now = max(self._now, when)

    def move_to_next(self, timeout: float = 10.0) -> float:
        """Wait until a timer is set, and let it come due; by how many seconds time moved on.

        The timers of one moment all run. `TimeoutError` if none is set in `timeout` real seconds.
        """
        self.wait_for_timer(1, timeout)
        with self._moving:
            before = self._now
            due = self.next_due
            if due is not None:
                self.move_to(due)
            return self._now - before

    def _next_until(self, when: float) -> Callable[[], None] | None:
        with self._changed:
            if not self._timers or self._timers[0][0] > when:
                return None
            due, _, callback, _ = heapq.heappop(self._timers)
            self._now = max(self._now, due)
            return callback


class ClockShare:
    """A movable clock for one engine, which closes it at its own end."""

    def __init__(self, clock: MovableClock) -> None:
        self._clock = clock

    def time(self) -> float:
        return self._clock.time()

    def call_later(self, delay: float, callback: Callable[[], None]) -> None:
        self._clock.set_timer(delay, callback, self)

    def close(self) -> None:
        self._clock.forget(self)
