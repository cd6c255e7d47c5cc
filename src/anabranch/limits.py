"""Named limits on how much runs at once, or how often: what is asked of them, and the port to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

TAG: Final = "tag:"
"""Begins the name of a limit on the task runs with a tag."""


class Limit(NamedTuple):
    """A limit as it stands. With `slots_per_second`, taken slots come back by themselves."""

    name: str
    slots: int
    slots_per_second: float | None
    in_use: float


class Wanted(NamedTuple):
    """So many slots of each of these limits, all or none.

    `names` are sorted. Limits that do not exist limit nothing, unless `strict`. With `rate` the slots
    are used up, and come back as `slots_per_second` says.
    """

    names: tuple[str, ...]
    occupy: int = 1
    strict: bool = False
    rate: bool = False


class Grant(NamedTuple):
    """Slots that were taken: who holds them in the store, and where they stand there.

    Those of a rate may be had only `after` so many seconds.
    """

    session: int = 0
    leases: tuple[int, ...] = ()
    after: float = 0.0


class Taken(NamedTuple):
    """What could be had of several equal requests, and after how many seconds to ask again for the
    rest, where that is known."""

    grants: Sequence[Grant]
    pause: float | None = None


class SlotStore(Protocol):
    """Where slots are counted for all processes; used by one thread. Raises `StoreError`s."""

    @property
    def is_holding(self) -> bool:
        """Whether `beat` is wanted, every few seconds."""
        ...

    def take(self, wanted: Wanted, count: int) -> Taken:
        """Up to `count` times what is wanted, without waiting.

        Raises `UnknownLimitError`, and `LimitTooSmallError` where it can never be had.
        """
        ...

    def give(self, grants: Sequence[Grant]) -> None: ...

    def spare(self, wanted: Wanted, count: int) -> None:
        """So many grants of a rate will not be used."""
        ...

    def beat(self) -> None:
        """Show that the holder lives."""
        ...

    def tag_limits(self) -> frozenset[str]:
        """The names of all limits by tag."""
        ...

    def close(self) -> None:
        """Give back what is still held."""
        ...
