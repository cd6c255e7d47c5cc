"""What runs on Dask's workers."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from queue import SimpleQueue
from time import time
from typing import Any, cast

from distributed import Worker, get_worker, rejoin, secede
from distributed.threadpoolexecutor import thread_state, threads_lock
from distributed.worker_state_machine import SecedeEvent

from anabranch.execution import cluster_worker
from anabranch.execution.cluster_calls import Constants, Template

GATHER_SECONDS = 0.01
"""Ends of calls are told after so long, together, where more calls wait for their turn."""

_abandoned: set[int] = set()
"""Threads that are out of Dask's pool, and end with their call."""


class DaskUplink:
    """Dask's events: from worker to scheduler and on to the flow, in order with the ends of tasks."""

    def __init__(self, worker: Worker, topic: str) -> None:
        self._worker = worker
        self._topic = topic
        self._ends: SimpleQueue[bytes] = SimpleQueue()
        self._gathers = False

    def send(self, key: int, frame: bytes) -> None:
        self._tell([frame])

    def end(self, frame: bytes) -> None:
        """Tell the end of a call: with those of the next, where there are any."""
        self._ends.put(frame)
        if not self._gathers:
            self._gathers = True
            loop: Any = self._worker.loop
            loop.add_callback(self._gather)

    def _gather(self) -> None:
        """On the worker's loop: with no other call here to wait for, at once."""
        loop: Any = self._worker.loop
        loop.call_later(GATHER_SECONDS if self._worker.state.ready else 0.0, self._tell_ends)

    def _tell_ends(self) -> None:
        self._gathers = False
        frames = [self._ends.get_nowait() for _ in range(self._ends.qsize())]
        if frames:
            self._tell(frames)

    def _tell(self, frames: list[bytes]) -> None:
        self._worker.log_event(self._topic, {"anabranch": frames, "worker": self._worker.address})

    @contextmanager
    def lend(self) -> Generator[None]:
        if not getattr(thread_state, "proceed", False):  # no thread of Dask's pool, or it has left
            yield
            return
        secede()
        try:
            yield
        finally:
            rejoin()

    def abandon(self, thread: int) -> None:
        """As `distributed.secede` does it, from outside of the thread."""
        with self._worker.active_threads_lock:
            key = self._worker.active_threads.get(thread)
        pool: Any = self._worker.executors["default"]
        with threads_lock:
            its = [each for each in pool._threads if each.ident == thread]
            if key is None or not its:
                return
            _abandoned.add(thread)
            pool._threads.remove(its[0])
            pool._adjust_thread_count()
        seceded = SecedeEvent(key=key, compute_duration=0.0, stimulus_id=f"abandoned-{time()}")
        loop: Any = self._worker.loop
        loop.add_callback(self._worker.handle_stimulus, seceded)


def carry_out(
    template: Template, data: bytes, constants: Constants | None = None, *values: Any
) -> Any:
    """A task of Dask's: gives back the value where that stays here."""
    worker = get_worker()
    here = cluster_worker.worker_for(
        template, worker.address, lambda: DaskUplink(worker, template.reply_to)
    )
    ended = here.carry_out(template, data, constants, values)
    cast(DaskUplink, here.uplink).end(ended.frame)  # as made above
    if threading.get_ident() in _abandoned:
        _abandoned.remove(threading.get_ident())
        thread_state.proceed = False
    return ended.value
