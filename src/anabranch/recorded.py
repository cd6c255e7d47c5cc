"""What an earlier process, or an earlier attempt, has recorded of a flow run: its calls, by what
makes them the same call.

Each is handed out once. Of equal calls, the first to come gets what the first then got.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple


class RecordedCall(NamedTuple):
    """A task run, or a subflow's run, as it was recorded. Times are seconds since the epoch.

    `source` stands for the function as it was; `completed` where it has a result, which `value`
    gives: it raises `ResultNotKeptError` where that is not there.
    """

    row: int
    id: str
    name: str | None
    source: bytes
    completed: bool
    started: float
    seconds: float
    attempt: int
    state_name: str | None
    value: Callable[[], Any]
    within: Callable[[], Recorded] | None = None
    """What it recorded itself, where it is a flow run."""


CallKey = tuple[str, bytes]
"""The key of a task or flow, and what stands for the inputs."""


class Recorded:
    """The calls of one flow run, and what became of them in the run that goes on."""

    def __init__(self, calls: Iterable[tuple[CallKey, RecordedCall]]) -> None:
        self._calls: dict[CallKey, deque[RecordedCall]] = {}
        for key, call in calls:
            self._calls.setdefault(key, deque()).append(call)
        self._taking = threading.Lock()
        self.handed_back = 0
        self.changed: Counter[str] = Counter()
        self.by_order: Counter[str] = Counter()
        self.not_kept: Counter[str] = Counter()

    def take(self, key: str, inputs: bytes, source: bytes, by_order: bool) -> RecordedCall | None:
        """The next recorded call of these; one of another source counts as one that never ended."""
        with self._taking:
            calls = self._calls.get((key, inputs))
            if not calls:
                return None
            call = calls.popleft()
            if not calls:
                del self._calls[key, inputs]
            if call.completed and call.source != source:
                self.changed[key] += 1
                return call._replace(completed=False)
            if call.completed:
                self.handed_back += 1
                self.by_order[key] += by_order
            return call

    def lacks_value(self, key: str) -> None:
        """A completed call whose value is not there."""
        with self._taking:
            self.not_kept[key] += 1

    def told(self) -> list[str]:
        """For people: what is not as it was."""
        lines = [f"{self.handed_back:,} completed calls are handed back as they were recorded"]
        lines += [
            f"the source of {key} has changed: {count:,} completed runs of it run again"
            for key, count in self.changed.items()
        ]
        lines += [
            f"the inputs of {key} cannot be told apart: {count:,} of its runs were matched by the "
            "order of the calls"
            for key, count in self.by_order.items()
            if count
        ]
        lines += [
            f"{count:,} results of {key} were not kept: they are computed again where something "
            "needs them"
            for key, count in self.not_kept.items()
        ]
        return lines
