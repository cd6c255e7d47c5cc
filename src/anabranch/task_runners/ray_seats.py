"""Who runs what tasks submit on Ray: seats, and the calls that wait for one.

A call that waits for others keeps its process, which is a seat for another call meanwhile. Where no
call waits, a sitter is asked of Ray: a task that is nothing but a seat. A call is bound to none of
them before it begins, so that whatever the cluster is busy with, what is waited for runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from anabranch.execution.calls import Call
from anabranch.execution.cluster_calls import Sent

Asks = frozenset[tuple[str, float]]
"""Amounts of Ray's resources: CPU, GPU, memory and those that are the user's."""

_NAMES = {"cpu": "CPU", "num_cpus": "CPU", "gpu": "GPU", "num_gpus": "GPU"}


def asks_of(resources: Mapping[str, float]) -> Asks:
    """What a task asks of Ray, by its `resources`; one CPU if these name none."""
    asks = {"CPU": 1.0}
    asks.update({_NAMES.get(name.lower(), name): amount for name, amount in resources.items()})
    return frozenset(asks.items())


def options_of(asks: Asks) -> dict[str, Any]:
    """The same as options of Ray's."""
    own = dict(asks)
    options: dict[str, Any] = {"num_cpus": own.pop("CPU", 0), "num_gpus": own.pop("GPU", 0)}
    if "memory" in own:
        options["memory"] = own.pop("memory")
    return {**options, "resources": own}


def covers(has: Asks, asks: Asks) -> bool:
    """Whether who holds the one can run what needs the other."""
    amounts = dict(has)
    return all(amounts.get(name, 0) >= amount for name, amount in asks)


Place = tuple[str, int]
"""Of a seat: `("call", key)` or `("sitter", number)`."""


@dataclass(slots=True, eq=False)
class Seat:
    """`run_id` is that of the call that waits, None for a sitter."""

    worker: str
    has: Asks
    run_id: str | None = None
    taken: int | None = None


@dataclass(slots=True)
class Queue:
    """Calls that wait for a seat, alike in what they ask; the oldest first."""

    held: dict[int, Sent] = field(default_factory=dict[int, Sent])
    children: dict[str, deque[int]] = field(default_factory=dict[str, deque[int]])

    def next_for(self, run_id: str | None) -> Sent:
        """Take one out, of this run's own if there is any."""
        children = self.children.get(run_id) if run_id is not None else None
        while children:
            key = children.popleft()
            if key in self.held:
                return self.held.pop(key)
        return self.held.pop(next(iter(self.held)))


class Seats:
    """Not thread-safe."""

    def __init__(self) -> None:
        self.seats: dict[Place, Seat] = {}
        self.queues: dict[Asks, Queue] = {}
        self._sitting: dict[int, tuple[Call, str, Place]] = {}  # who sits where, by key

    @property
    def unused(self) -> bool:
        """Whether no call has anything to do with seats."""
        return not (self.seats or self.queues or self._sitting)

    def hold(self, sent: Sent) -> None:
        """Have a call wait for a seat."""
        queue = self.queues.setdefault(asks_of(sent.call.spec.resources), Queue())
        queue.held[sent.call.key] = sent
        parent = sent.call.scope.parent_task_run_id
        if parent is not None:
            queue.children.setdefault(parent, deque()).append(sent.call.key)

    def offer(self, place: Place, seat: Seat) -> None:
        """A seat is free."""
        self.seats[place] = seat

    def withdraw(self, place: Place) -> None:
        """A seat is none any more; who sits there stays until its end."""
        self.seats.pop(place, None)

    def drop(self, key: int) -> None:
        """A call has ended, or is not to begin."""
        sat = self._sitting.pop(key, None)
        if sat is not None:
            seat = self.seats.get(sat[2])
            if seat is not None and seat.taken == key:
                seat.taken = None
        for queue in self.queues.values():
            queue.held.pop(key, None)

    def matched(self) -> list[tuple[Sent, Seat]]:
        """Calls that are given a seat by this."""
        pairs: list[tuple[Sent, Seat]] = []
        for place, seat in self.seats.items():
            if seat.taken is not None:
                continue
            for asks, queue in self.queues.items():
                if queue.held and covers(seat.has, asks):
                    sent = queue.next_for(seat.run_id)
                    seat.taken = sent.call.key
                    self._sitting[sent.call.key] = sent.call, seat.worker, place
                    pairs.append((sent, seat))
                    break
        self.queues = {asks: queue for asks, queue in self.queues.items() if queue.held}
        return pairs

    def on(self, worker: str) -> list[Call]:
        """The calls that sit on a worker."""
        return [call for call, where, _ in self._sitting.values() if where == worker]

    def worker_of(self, key: int) -> str | None:
        """Where a call sits, if it does."""
        sat = self._sitting.get(key)
        return None if sat is None else sat[1]

    def empty_sitters(self) -> list[int]:
        """The numbers of sitters that nobody needs, which are none any more."""
        empty = [
            place
            for place, seat in self.seats.items()
            if place[0] == "sitter" and seat.taken is None
        ]
        for place in empty:
            del self.seats[place]
        return [number for _, number in empty]
