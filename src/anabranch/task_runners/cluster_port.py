"""What a runner of clusters asks of an engine that distributes, and what both know of a call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from anabranch.execution.calls import Call
from anabranch.execution.cluster_calls import Sent


@dataclass(slots=True, eq=False)
class Group:
    """Calls that travel together; `left` are the keys of those that have not ended."""

    number: int
    size: int
    left: set[int]


@dataclass(slots=True, eq=False)
class Flying:
    """A call that is out. `kind` is the token of its template; `group` is known once it goes, and
    `handle`, the engine's own for its group and the value of that, a little later."""

    call: Call
    kind: str
    group: Group | None = None
    handle: Any = None
    worker: str | None = None
    began: float | None = None  # monotonic
    began_at: float = 0.0
    frames: int = 0
    restarts: int = 0
    waits: bool = False
    doomed_at: float | None = None
    abandoned: bool = False
    end: Any = None  # the message, where it overtook others of the call
    overtaken_at: float | None = None

    @property
    def is_grouped(self) -> bool:
        """Whether it travels with others."""
        return self.group is not None and self.group.size > 1


class Problem(NamedTuple):
    """Why a call cannot go on by what the engine says; `lost` where its worker died. `group` is the one
    in which it went, None where it cannot go again."""

    key: int
    attempt: int
    error: BaseException
    lost: bool
    group: Group | None = None


def members_by_group(flying: Iterable[Flying]) -> dict[int, list[Flying]]:
    """Those that travel with others, by the number of their group."""
    members: dict[int, list[Flying]] = {}
    for each in flying:
        if each.group is not None and each.is_grouped:
            members.setdefault(each.group.number, []).append(each)
    return members


class Cluster(Protocol):
    """What a runner asks of an engine that distributes; callable from any thread."""

    reply_to: Any
    """Where the engine's workers find this flow; travels with each template."""
    counts_frames: bool
    """Whether a call's end can overtake what was told before it."""

    def slots(self) -> int | None:
        """How many calls the workers run at a time; None where they take no groups."""
        ...

    def start(self, groups: Sequence[tuple[Group, Sequence[Sent]]]) -> Iterable[Any]:
        """Take these groups to workers; a handle for each, in this order."""
        ...

    def cancel(self, flying: Sequence[Flying]) -> None:
        """Let those not begin that have not begun."""
        ...

    def kill(self, flying: Flying) -> None:
        """End one that has begun and that its worker could not end, if the engine can."""
        ...

    def tell(self, worker: str, frame: bytes) -> None:
        """Have a worker take a frame, in order."""
        ...

    def fetch(self, handle: Any) -> Any:
        """The value behind a handle, here."""
        ...

    def waits(self, flying: Flying) -> None:
        """A call has begun to wait for others, or waits no more."""
        ...

    def ended(self, flying: Flying) -> None:
        """A call is out no more."""
        ...

    def is_gone(self, worker: str) -> None:
        """A call of this worker has begun elsewhere."""
        ...

    def look(self, flying: Iterable[Flying]) -> list[Problem]:
        """What has become of calls that are out; asked each `TICK_SECONDS`."""
        ...

    def close(self) -> None:
        """Let all go."""
        ...
