"""What runs on Dask's workers."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

from distributed import Worker, get_worker, rejoin, secede
from distributed.threadpoolexecutor import thread_state

from anabranch.execution import cluster_worker
from anabranch.execution.cluster_calls import Constants, Template
from anabranch.waiting import Waiter


class DaskUplink:
    """Dask's events: from worker to scheduler and on to the flow, in order with the ends of tasks."""

    def __init__(self, worker: Worker, topic: str) -> None:
        self._worker = worker
        self._topic = topic

    def send(self, key: int, frame: bytes) -> None:
        self._worker.log_event(self._topic, {"anabranch": frame, "worker": self._worker.address})

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

    def wait(self, waiter: Waiter, timeout: float | None) -> bool:
        return waiter.wait(timeout)


def carry_out(
    template: Template, data: bytes, constants: Constants | None, values: Sequence[Any]
) -> Any:
    """A task of Dask's: gives back the value where that stays here."""
    worker = get_worker()
    here = cluster_worker.worker_for(
        template, worker.address, lambda: DaskUplink(worker, template.reply_to)
    )
    ended = here.carry_out(template, data, constants, values)
    here.uplink.send(0, ended.frame)
    return ended.value
