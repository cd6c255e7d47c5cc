"""Calls that wait for a worker: first in, first out within a priority; any can be taken back."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

from anabranch.execution.calls import Call, CallsOfRuns, call_of

Entry = Any
"""A call, or a run whose call is made when it is taken: most that wait never exist as objects."""


class ReadyQueue:
    """Takes groups, gives single calls, higher priorities first.

    Each operation on an `OrderedDict` of integers is atomic under CPython's lock, so `take`,
    `take_back` and `put` need no lock of their own.
    """

    def __init__(self) -> None:
        self._plain: OrderedDict[int, Entry] = OrderedDict()
        self._by_priority: dict[int, OrderedDict[int, Entry]] = {0: self._plain}
        self._order: list[int] = [0]

    def __bool__(self) -> bool:
        return bool(self._plain) or (len(self._order) > 1 and any(self._by_priority.values()))

    def __len__(self) -> int:
        return sum(map(len, self._by_priority.values()))

    def put(self, calls: Sequence[Call]) -> None:
        """Add calls of one submission or of several."""
        if not calls:
            return
        if len(calls) == 1 and not calls[0].spec.priority:
            self._plain[calls[0].key] = calls[0]
            return
        if isinstance(calls, CallsOfRuns) and not calls[0].spec.priority:
            self._plain.update(zip(calls.keys, calls.runs, strict=True))
            return
        if len(self._order) == 1 and not any(call.spec.priority for call in calls):
            self._plain.update((call[0], call) for call in calls)
            return
        for call in calls:
            priority = call.spec.priority
            if priority not in self._by_priority:
                self._by_priority = {**self._by_priority, priority: OrderedDict()}
                self._order = sorted(self._by_priority, reverse=True)
            self._by_priority[priority][call.key] = call

    def take(self) -> Call | None:
        """The next call, or None."""
        if len(self._order) == 1:  # the hot path
            try:
                entry = self._plain.popitem(last=False)[1]
            except KeyError:
                return None
            return entry if type(entry) is Call else call_of(entry)
        for priority in self._order:
            queue = self._by_priority[priority]
            while queue:
                try:
                    return _made(queue.popitem(last=False)[1])
                except KeyError:  # another worker was quicker
                    continue
        return None

    def first(self) -> Call | None:
        """The next call, which stays; for a queue that one thread takes from."""
        queues = (self._by_priority[priority] for priority in self._order)
        return next((_made(next(iter(queue.values()))) for queue in queues if queue), None)

    def take_back(self, key: int) -> Call | None:
        """This call, if it is still here."""
        for queue in self._by_priority.values():
            entry = queue.pop(key, None)
            if entry is not None:
                return _made(entry)
        return None

    def take_back_all(self, keys: Iterable[int]) -> list[Call]:
        """Those of these calls that are still here."""
        found = (self.take_back(key) for key in keys)
        return [call for call in found if call is not None]


def _made(entry: Entry) -> Call:
    return entry if type(entry) is Call else call_of(entry)
