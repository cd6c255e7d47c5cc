"""Runs that have settled, on their way to the writer: as values, so that nothing else of them stays.

Whoever settles a run puts it in here. Most have given a plain value at their first attempt: of those
only the numbers are noted, and the run itself may go, with all that it refers to. That keeps few
objects alive for the garbage collector to look at again and again.
"""

# pyright: reportPrivateUsage=false
# The record of a run is read here, whose slots are private to users.

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from anabranch.futures import TaskFuture
from anabranch.outcomes import COMPLETED, JSON
from anabranch.results.kept import keep_inline
from anabranch.store.rows import COMPLETED_CHILD, COMPLETED_RUN

LARGEST = 1 << 63
_SCALARS = frozenset({type(None), bool, int, float, str})
Run = TaskFuture[Any]


class Alike:
    """Plain runs of one task in one flow run: `values` holds for each, one after the other, what
    `insert` takes of its own; yet with the key in place of the row's id, and that of the parent."""

    def __init__(self, shared: Any) -> None:
        self.shared = shared
        self.last = shared
        self._has_parent = shared.scope.parent_key is not None
        self.insert = COMPLETED_CHILD if self._has_parent else COMPLETED_RUN
        self.values: list[Any] = []

    def takes(self, shared: Any) -> bool:
        """Whether runs of this submission are alike too."""
        scope = shared.scope
        return (
            shared.spec is self.shared.spec
            and scope.flow_run is self.shared.scope.flow_run
            and (scope.parent_key is not None) == self._has_parent
        )


class SettledRuns:
    """What has settled since the writer last looked: `alike` plain ones, `others` as they are, and
    in strict durability all `runs`, which wait to be told."""

    def __init__(self) -> None:
        self.alike: dict[tuple[int, int, bool], Alike] = {}
        self.others: list[Run] = []
        self.runs: list[Run] = []
        self.count = 0

    def alike_for(self, shared: Any) -> Alike:
        """Where plain runs of this submission go."""
        scope = shared.scope
        place = (id(shared.spec), id(scope.flow_run), scope.parent_key is None)
        alike = self.alike.get(place)
        if alike is None:
            alike = self.alike[place] = Alike(shared)
        return alike


class Basket:
    """Takes settled runs from many threads, and gives them to the writer."""

    def __init__(self, inline_limit: int, strict: bool) -> None:
        self._limit = inline_limit
        self._strict = strict
        self._taking = threading.Lock()
        self._settled = SettledRuns()
        self._last: Alike | None = None

    def emptied(self) -> SettledRuns:
        with self._taking:
            settled, self._settled = self._settled, SettledRuns()
            self._last = None
            return settled

    def put(self, runs: Sequence[Run]) -> bool:
        """The hot path. Whether the basket was empty before."""
        shared: Any = None
        parent: int | None = None
        offset = 0
        with self._taking:
            settled, alike = self._settled, self._last
            add: Callable[[Sequence[Any]], object] = (
                _nowhere if alike is None else alike.values.extend
            )
            for run in runs:
                if run._shared is not shared:
                    shared = run._shared
                    if alike is None or (alike.last is not shared and not alike.takes(shared)):
                        alike = self._last = settled.alike_for(shared)
                        add = alike.values.extend
                    alike.last = shared
                    parent, offset = shared.scope.parent_key, shared.offset
                outcome = run._outcome
                assert outcome is not None  # it has settled
                key, attempt, phase, value, started, seconds, _, state_name, _, _, kept = outcome
                links = run._links
                if (
                    phase == COMPLETED
                    and attempt == 1
                    and kept is None
                    and state_name is None
                    and (links is None or (links.name is None and links.recalled is None))
                ):
                    if type(value) is int and -LARGEST < value < LARGEST:
                        data: bytes | str | None = str(value)
                    else:
                        data = self._plain(value)
                    if data is not None:
                        inputs: bytes | str | None = run._digest
                        if inputs is not None and inputs.isascii():
                            inputs = inputs.decode()
                        add((key, key + offset, started, started + seconds, inputs, data))
                        if parent is not None:
                            add((parent,))
                        continue
                settled.others.append(run)
            if self._strict:
                settled.runs += runs
            was_empty = not settled.count
            settled.count += len(runs)
            return was_empty

    def _plain(self, value: Any) -> bytes | str | None:
        """The value as JSON, where it is a plain one that fits."""
        if value is None:
            return "null"
        if type(value) not in _SCALARS:
            return None
        kept = keep_inline(value, self._limit)
        data = kept.data if kept.form == JSON else None
        return data.decode() if data is not None and data.isascii() else data


def _nowhere(_: object) -> None:
    """Before the first run."""
