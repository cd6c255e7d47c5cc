"""Carries events from the engine to those who listen, on a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from anabranch.events import Event, Listener

logger = logging.getLogger("anabranch.events")

HIGH_WATER = 50_000


class Publisher:
    """Queues events in order; one daemon thread, started by the first, hands them on in batches.

    Once it has an event it waits `gather` seconds for more. Where `beat` is given, it is called
    whenever nothing has come for `beat_seconds`. Whoever emits while `HIGH_WATER` runs wait is held
    up until half are gone, so that memory stays bounded however slow a listener is.
    """

    def __init__(
        self,
        listeners: Sequence[Listener],
        gather: float = 0.0,
        beat: Callable[[], None] | None = None,
        beat_seconds: float | None = None,
    ) -> None:
        self._listeners = listeners
        self._gather = gather
        self._beat = beat
        self._beat_seconds = beat_seconds
        self._events: deque[Event] = deque()
        self._emitted = 0  # runs that events told of, and those of them that were received
        self._received = 0
        self._asleep = False
        self._changed = threading.Condition()
        self._hurry = threading.Event()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._busy = False

    def emit(self, events: Iterable[Event], weight: int = 0) -> None:
        """Queue events that tell of `weight` task runs; quick, so that it can be called where their
        order is fixed. Only the holder of the engine's lock gives a weight."""
        if not self._listeners:
            return
        self._events.extend(events)
        if weight:
            self._emitted += weight
        if self._asleep or self._thread is None:
            self._wake()

    def weigh(self, weight: int) -> None:
        """So many runs more are told of by an event that was emitted; as with `emit`."""
        self._emitted += weight

    def _wake(self) -> None:
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="anabranch-events", daemon=True
                )
                self._thread.start()
            self._changed.notify_all()

    def back_pressure(self) -> None:
        """Hold the calling thread while too many events wait."""
        if self._emitted - self._received <= HIGH_WATER:
            return
        if threading.current_thread() is not self._thread:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closed or self._emitted - self._received < HIGH_WATER // 2,
                    timeout=60,
                )

    def flush(self, seconds: float = 10.0) -> bool:
        """Wait until all that was emitted has been received, at most so long."""
        self._hurry.set()
        with self._changed:
            return self._changed.wait_for(lambda: not self._events and not self._busy, seconds)

    def close(self, seconds: float = 10.0) -> None:
        """Hand on what is left, then tell the listeners that nothing follows."""
        with self._changed:
            self._closed = True
            self._hurry.set()
            self._changed.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(seconds)
        for listener in self._listeners:
            _guarded(listener.close)

    def _run(self) -> None:
        beat_at = time.monotonic() + (self._beat_seconds or 0)
        while self._wait(beat_at) or not self._closed:
            self._busy = True
            if self._gather and self._events and not self._hurry.wait(self._gather):
                pass  # more came meanwhile
            self._hurry.clear()
            self._hand_on()
            if self._beat is not None and time.monotonic() >= beat_at:
                _guarded(self._beat)
                beat_at = time.monotonic() + (self._beat_seconds or 0)
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _hand_on(self) -> None:
        """All that has come; nothing here keeps it while the next is waited for."""
        weight, batch = self._emitted, self._taken()
        if batch:
            for listener in self._listeners:
                _guarded(partial(listener.receive, batch))
            self._received = weight

    def _wait(self, beat_at: float) -> bool:
        """Sleep until there is something to do; whether events are there."""
        with self._changed:
            self._asleep = True
            left = None if self._beat_seconds is None else max(0.0, beat_at - time.monotonic())
            self._changed.wait_for(lambda: self._events or self._closed, left)
            self._asleep = False
            return bool(self._events)

    def _taken(self) -> list[Event]:
        batch: list[Event] = []
        events = self._events
        while events:
            batch.append(events.popleft())
        return batch


def _guarded(call: Callable[[], object]) -> None:
    try:
        call()
    except Exception:
        logger.exception("A listener failed; the run goes on without what it should have done")
