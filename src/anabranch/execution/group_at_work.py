"""A group of calls on one thread of a worker: what waits behind the one that runs, and what ended ones
have said."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from time import monotonic

from anabranch.execution import messages
from anabranch.execution.cluster_calls import split
from anabranch.execution.messages import Message, framed

GATHER_SECONDS = 0.01
"""Ends of calls are told after so long, together, where more calls wait for their turn."""


class GroupAtWork:
    """`tell` sends a frame, in order; `said` is what is left to be told. `changing` is the lock of the
    worker that it is at work for, some of whose threads ask for what has not begun."""

    def __init__(
        self,
        number: int,
        calls: Sequence[bytes],
        tell: Callable[[bytes], object],
        changing: threading.RLock,
    ) -> None:
        self.said: list[Message] = []
        self.has_told = False
        self._number = number
        self._calls = deque(calls)
        self._tell = tell
        self._told = monotonic()
        self._changing = changing

    def next(self) -> bytes | None:
        """The call whose turn it is."""
        with self._changing:
            return self._calls.popleft() if self._calls else None

    def has_ended(self, said: Sequence[Message]) -> None:
        """A call has, with these words."""
        with self._changing:
            self.said += said
            if monotonic() - self._told > GATHER_SECONDS:
                self._tell_ends()

    def give_back(self) -> None:
        """Others are to run what has not begun; the ends of what has are told."""
        with self._changing:
            if self._calls:
                self.said.append(returned(self._number, self._calls, False))
                self._calls.clear()
            if self.said:
                self._tell_ends()

    def drop(self) -> None:
        """Nobody wants what has not begun."""
        self._calls.clear()

    def _tell_ends(self) -> None:
        self._told = monotonic()
        self.has_told = True
        said, self.said = self.said, []
        self._tell(framed(said))


def returned(group: int, calls: Iterable[bytes], alone: bool) -> Message:
    """Gives calls of a group back; `alone` where one of them may have ended a worker."""
    heads = [split(data)[0] for data in calls]
    return messages.RETURNED, [(head.key, head.attempt) for head in heads], alone, group
