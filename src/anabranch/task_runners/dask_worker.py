"""What runs on Dask's workers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from queue import SimpleQueue
from time import time
from typing import Any, cast

from distributed import Worker, get_worker, rejoin, secede
from distributed.protocol import pickle as typed_pickle
from distributed.threadpoolexecutor import thread_state, threads_lock
from distributed.utils import sync
from distributed.worker_state_machine import SecedeEvent

from anabranch.execution import claims, cluster_worker
from anabranch.execution.cluster_calls import Constants, Template
from anabranch.execution.cluster_worker import ClusterWorker, Ended
from anabranch.execution.group_at_work import GATHER_SECONDS
from anabranch.execution.messages import framed

pickle: Any = typed_pickle  # its own types are partly unknown

_abandoned: set[int] = set()
"""Threads that are out of Dask's pool, and end with their call."""


class DaskUplink:
    """Dask's events: from worker to scheduler and on to the flow, in order with the ends of tasks."""

    def __init__(self, worker: Worker, topic: str) -> None:
        self._worker = worker
        self._topic = topic
        self._frames: SimpleQueue[bytes] = SimpleQueue()  # all in this order, from whatever thread
        self._gathers = False

    def send(self, key: int | None, frame: bytes) -> None:
        self._frames.put(frame)
        self._on_loop(self._tell)

    def end(self, frame: bytes) -> None:
        """Tell the end of a call: with those of the next, where there are any."""
        self._frames.put(frame)
        if not self._gathers:
            self._gathers = True
            self._on_loop(self._gather)

    def _on_loop(self, function: Callable[[], None]) -> None:
        loop: Any = self._worker.loop
        loop.add_callback(function)

    def _gather(self) -> None:
        """On the worker's loop: with no other call here to wait for, at once."""
        loop: Any = self._worker.loop
        loop.call_later(GATHER_SECONDS if self._worker.state.ready else 0.0, self._tell)

    def _tell(self) -> None:
        self._gathers = False
        frames = [self._frames.get_nowait() for _ in range(self._frames.qsize())]
        if frames:
            told = {"anabranch": frames, "worker": self._worker.address}
            self._worker.log_event(self._topic, told)

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

    def ends(self) -> bool:
        return False  # Dask lets its calls end, or ends them with the process


def carry_out(
    template: Template, data: bytes, constants: Constants | None = None, *values: Any
) -> Any:
    """A task of Dask's: gives back the value where that stays here."""
    here = _worker_for(template, get_worker())
    return _over(here, here.carry_out(template, data, constants, values))


def carry_out_group(
    template: Template, number: int, calls: list[bytes], constants: Constants | None = None
) -> Any:
    """A task of Dask's that is several: gives back the value of the last where that stays here."""
    worker, client = get_worker(), template.reply_to
    here = _worker_for(template, worker)
    granted = _at_scheduler(worker, claims.claim, client, number, worker.address)

    def settle(place: int) -> None:
        _at_scheduler(worker, claims.settle, client, number, place)

    return _over(here, here.carry_out_group(template, number, calls, constants, granted, settle))


def _worker_for(template: Template, worker: Worker) -> ClusterWorker:
    return cluster_worker.worker_for(
        template, worker.address, lambda: DaskUplink(worker, template.reply_to)
    )


def _at_scheduler(worker: Worker, function: Any, *args: Any) -> Any:
    """What the function gives in the scheduler's process."""

    async def ask() -> Any:
        scheduler: Any = worker.scheduler
        return await scheduler.run_function(
            function=pickle.dumps(function), args=pickle.dumps(args), kwargs=pickle.dumps({})
        )

    answer = sync(worker.loop, ask)
    if answer["status"] == "error":
        raise answer["exception"].data
    return answer["result"]


def _over(here: ClusterWorker, ended: Ended) -> Any:
    cast(DaskUplink, here.uplink).end(framed(ended.said))  # as made above
    if threading.get_ident() in _abandoned:
        _abandoned.remove(threading.get_ident())
        thread_state.proceed = False
    return ended.value
