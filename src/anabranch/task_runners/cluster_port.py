"""What a runner of clusters asks of an engine that distributes, and what both know of a call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from anabranch.execution.calls import Call
from anabranch.execution.cluster_calls import Sent


@dataclass(slots=True, eq=False)
class Flying:
    """A call that is out. `handle` is the engine's own for it and its value."""

    call: Call
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


class Problem(NamedTuple):
    """Why a call cannot go on by what the engine says; `lost` where its worker died."""

    key: int
    attempt: int
    error: BaseException
    lost: bool


class Cluster(Protocol):
    """What a runner asks of an engine that distributes; callable from any thread."""

    reply_to: Any
    """Where the engine's workers find this flow; travels with each template."""
    counts_frames: bool
    """Whether a call's end can overtake what was told before it."""

    def start(self, calls: Sequence[Sent]) -> Iterable[Any]:
        """Take these calls to workers; a handle for each, in this order."""
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
