"""What an earlier process, or an earlier attempt, has recorded of a flow run: its calls, by what
makes them the same call.

Each is handed out once. Of equal calls, the first to come gets what the first then got.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
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


Row = tuple[Any, ...]
"""A recorded call as the store has it: of numbers and bytes alone, since there may be a million."""


class Calls:
    """The calls of one task or flow that one process has recorded. `make` makes a record of a row;
    rows are found by what stands for the inputs, those of equal calls in their order."""

    def __init__(self, make: Callable[[Row], RecordedCall]) -> None:
        self._make = make
        self._rows: dict[bytes, Row | deque[Row]] = {}

    def add(self, inputs: bytes, row: Row) -> None:
        before = self._rows.get(inputs)
        if before is None:
            self._rows[inputs] = row
        elif isinstance(before, deque):
            before.append(row)
        else:
            self._rows[inputs] = deque((before, row))

    def take(self, inputs: bytes) -> RecordedCall | None:
        """The next of these, which it is no more."""
        row = self._rows.get(inputs)
        if isinstance(row, deque):
            first = row.popleft()
            if not row:
                del self._rows[inputs]
            return self._make(first)
        self._rows.pop(inputs, None)
        return None if row is None else self._make(row)


class Recorded:
    """The calls of one flow run, by their task's or flow's key, and what became of them in the run
    that goes on."""

    def __init__(self, calls: Mapping[str, Sequence[Calls]]) -> None:
        self._calls = calls
        self._taking = threading.Lock()
        self.handed_back = 0
        self.changed: Counter[str] = Counter()
        self.by_order: Counter[str] = Counter()
        self.not_kept: Counter[str] = Counter()

    def take(self, key: str, inputs: bytes, source: bytes, by_order: bool) -> RecordedCall | None:
        """The next recorded call of these; one of another source counts as one that never ended."""
        with self._taking:
            taken = (calls.take(inputs) for calls in self._calls.get(key, ()))
            call = next((call for call in taken if call is not None), None)
            if call is None:
                return None
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
