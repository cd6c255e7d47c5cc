"""Which calls travel to a worker together: small ones in groups that are worth their trip, long ones
alone.

The first calls of a task go alone, and the rest wait until one of them has told how long it takes.
Groups shrink toward the end, so that no worker sits idle while another has many calls left.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from anabranch.execution.cluster_calls import Sent

MOST_CALLS = 500
MOST_BYTES = 1 << 20
"""Of arguments; all of them stay in memory until the last call of a group has ended."""
MOST_SECONDS = 0.05
LEAST_SECONDS = 0.002
"""Of work in a group; less is not worth a trip."""
CALL_SECONDS = 15e-6
"""What a call costs its worker beside the function."""
SHARES = 3
"""A slot's share of what is left is cut into so many groups."""
PROBES = 2
"""Calls a slot that go alone while nothing is known of a task."""
FIRST_WINDOW = 4
WIDEST_WINDOW = 200
"""Groups a slot that are out: one more for each that came back, since sizes get better, and since
engines that adapt to the work they see must see it."""
KINDS = 1_000
SMOOTHING = 0.2

Wanted = Callable[[Sent], object]


class Grouping:
    """Holds calls until they go, by the token of their template; may be used from any thread."""

    def __init__(self) -> None:
        self._kinds: dict[str, _Kind] = {}
        self._changing = threading.Lock()

    def put(self, calls: Sequence[Sent], again: bool = False, alone: bool = False) -> None:
        """Calls that are to go; `again` are some that come before all others."""
        with self._changing:
            for sent in reversed(calls) if again else calls:
                kind = self._kind(sent.template.token)
                held = kind.alone if alone or _goes_alone(sent) else kind.held
                held.appendleft(sent) if again else held.append(sent)

    def take(self, slots: int | None, wanted: Wanted, most: int) -> list[list[Sent]]:
        """Groups that are to go now, about `most` calls at once; `slots` is how many calls the
        workers run at a time, None where they take no groups. Calls that are not `wanted` any more
        are dropped."""
        groups: list[list[Sent]] = []
        taken = 0
        with self._changing:
            for kind in self._kinds.values():
                for group in kind.take(slots, wanted):
                    groups.append(group)
                    taken += len(group)
                    if taken >= most:
                        return groups
        return groups

    def ended(self, token: str, seconds: float) -> None:
        """A call has taken so long."""
        with self._changing:
            kind = self._kind(token)
            mean = kind.mean
            kind.mean = seconds if mean is None else mean + SMOOTHING * (seconds - mean)

    def is_long(self, token: str) -> None:
        """A call runs that does not end: others need not wait for what it tells."""
        with self._changing:
            kind = self._kind(token)
            if kind.mean is None:
                kind.mean = MOST_SECONDS

    def is_large(self, token: str) -> None:
        """A result of this task stays on its worker: it has a trip of its own."""
        with self._changing:
            kind = self._kind(token)
            kind.single = True

    def came_back(self, token: str) -> None:
        """All calls of a group are over."""
        with self._changing:
            kind = self._kind(token)
            kind.out -= 1
            kind.back += 1

    def holds(self) -> bool:
        """Whether any calls are left to go."""
        return any(kind.held or kind.alone for kind in list(self._kinds.values()))

    def unmeasured(self, token: str) -> bool:
        """Whether calls wait for what the first of their task tells."""
        kind = self._kinds.get(token)
        return kind is not None and kind.mean is None and bool(kind.held)

    def _kind(self, token: str) -> _Kind:
        kind = self._kinds.get(token)
        if kind is None:
            kind = self._kinds[token] = _Kind()
            if len(self._kinds) > KINDS:
                idle = (each for each, known in self._kinds.items() if known.is_idle(kind))
                self._kinds.pop(next(idle, ""), None)
        return kind


class _Kind:
    """Calls of one task in one flow run. `out` groups have gone, of which `back` others are back;
    `mean` is the length of a call in seconds, recent ones counting most."""

    __slots__ = ("alone", "back", "held", "mean", "out", "single")

    def __init__(self) -> None:
        self.alone: deque[Sent] = deque()
        self.held: deque[Sent] = deque()
        self.mean: float | None = None
        self.out = 0
        self.back = 0
        self.single = False

    def is_idle(self, newest: _Kind) -> bool:
        return self is not newest and not (self.alone or self.held or self.out)

    def take(self, slots: int | None, wanted: Wanted) -> Iterator[list[Sent]]:
        while self.alone:
            yield from self._cut(self.alone, 1, wanted)
        while self.held and (size := self._size(slots)):
            yield from self._cut(self.held, size, wanted)

    def _size(self, slots: int | None) -> int:
        """Of the next group; 0 where it is not to go yet."""
        asked = self.held[0].call.scope.batch_size
        if slots is None or self.single:
            return 1
        if asked is not None:
            return asked
        slots = max(1, slots)
        if self.mean is None:
            return int(self.out < PROBES * slots)
        each = max(self.mean, CALL_SECONDS)
        most = min(MOST_CALLS, int(MOST_SECONDS / each))
        if most <= 1:
            return 1
        if self.out >= slots * min(WIDEST_WINDOW, FIRST_WINDOW + self.back // slots):
            return 0
        return max(1, min(most, max(len(self.held) // (slots * SHARES), int(LEAST_SECONDS / each))))

    def _cut(self, held: deque[Sent], size: int, wanted: Wanted) -> Iterator[list[Sent]]:
        """A group from the front, of calls that share all but their own arguments."""
        group: list[Sent] = []
        left = MOST_BYTES
        while held and len(group) < size:
            sent = held[0]
            if group and not (_alike(group[0], sent) and len(sent.data) <= left):
                break
            held.popleft()
            if wanted(sent):
                group.append(sent)
                left -= len(sent.data)
        if group:
            self.out += 1
            yield group


def _goes_alone(sent: Sent) -> bool:
    """Whether a call is never one of several: those of tasks have others waiting for them, and what
    stays on the cluster is brought to a worker before its call begins."""
    scope = sent.call.scope
    return bool(sent.values) or scope.parent_key is not None or scope.batch_size == 1


def _alike(one: Sent, other: Sent) -> bool:
    return (
        one.constants is other.constants
        and one.call.scope.batch_size == other.call.scope.batch_size
    )
