"""Carries events from the engine to those who listen, on a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from anabranch.events import Event, Subscriber

logger = logging.getLogger("anabranch.events")

HIGH_WATER = 50_000


class Publisher:
    """Queues events in order; one daemon thread, started by the first, hands them on in batches.

    Whoever emits while `HIGH_WATER` events wait is held up until half are gone, so that memory
    stays bounded however slow a subscriber is.
    """

    def __init__(self, subscribers: Sequence[Subscriber]) -> None:
        self._subscribers = subscribers
        self.phases = frozenset(phase for each in subscribers for phase in each.phases)
        self.submissions = any(each.submissions for each in subscribers)
        self._events: list[Event] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._busy = False

    def emit(self, events: Iterable[Event]) -> None:
        """Queue events; quick, so that it can be called where their order is fixed."""
        if not self._subscribers:
            return
        with self._changed:
            asleep = not self._events
            self._events.extend(events)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="anabranch-events", daemon=True
                )
                self._thread.start()
            elif asleep:
                self._changed.notify_all()

    def back_pressure(self) -> None:
        """Hold the calling thread while too many events wait."""
        if len(self._events) > HIGH_WATER and threading.current_thread() is not self._thread:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closed or len(self._events) < HIGH_WATER // 2, timeout=60
                )

    def flush(self, seconds: float = 10.0) -> bool:
        """Wait until all that was emitted has been received, at most so long."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._events and not self._busy, seconds)

    def close(self) -> None:
        """Hand on what is left, then tell the subscribers that nothing follows."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(10)
        for subscriber in self._subscribers:
            _guarded(subscriber.close)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._events or self._closed)
                if not self._events:
                    return
                batch, self._events = self._events, []
                self._busy = True
            for subscriber in self._subscribers:
                _guarded(partial(subscriber.receive, batch))


def _guarded(call: Callable[[], object]) -> None:
    try:
        call()
    except Exception:
        logger.exception("A subscriber failed; the run goes on without what it should have done")
