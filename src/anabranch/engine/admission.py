"""Counted resources of a runner in this process, such as one GPU: who may start, who waits."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Mapping
from typing import Any

from anabranch.futures import TaskFuture


class Admission:
    """Lets runs in while what their tasks ask for is free; the others in order of priority."""

    def __init__(self, resources: Mapping[str, float]) -> None:
        self._free = dict(resources)
        self._queue: list[tuple[int, int, TaskFuture[Any]]] = []
        self._order = itertools.count()

    def enter(self, run: TaskFuture[Any]) -> bool:
        """Take what the run needs; False, and a place in the queue, where it is not free."""
        spec = _spec(run)
        if self._take(spec.resources):
            return True
        heapq.heappush(self._queue, (-spec.priority, next(self._order), run))
        return False

    def leave(self, run: TaskFuture[Any]) -> list[TaskFuture[Any]]:
        """Give back what the run held; those who may start now."""
        for name, amount in _spec(run).resources.items():
            self._free[name] += amount
        admitted = [entry for entry in sorted(self._queue) if self._take(_spec(entry[2]).resources)]
        for entry in admitted:
            self._queue.remove(entry)
        heapq.heapify(self._queue)
        return [run for _, _, run in admitted]

    def give_up(self, run: TaskFuture[Any]) -> None:
        """Take a waiting run out of the queue."""
        self._queue = [entry for entry in self._queue if entry[2] is not run]
        heapq.heapify(self._queue)

    def _take(self, wanted: Mapping[str, float]) -> bool:
        if any(self._free[name] < amount for name, amount in wanted.items()):
            return False
        for name, amount in wanted.items():
            self._free[name] -= amount
        return True


def _spec(run: TaskFuture[Any]) -> Any:
    shared: Any = run._shared  # pyright: ignore[reportPrivateUsage]  # the engine's own record
    return shared.spec
