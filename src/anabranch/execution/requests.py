"""What a call on a worker asks of the engine, and what the engine tells it.

Requests and notices travel pickled, on whatever channel a runner has. A request comes behind a
number in 8 bytes, apart so that one which cannot be read is answered too: by an `Answer` or a
`Refusal` of that number. Number 0 wants no answer. What the engine tells a worker meanwhile arrives
before the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from anabranch.events import ArtifactChanged, ArtifactMade
from anabranch.execution.portable import Packed
from anabranch.futures import TaskFuture
from anabranch.limits import Wanted


def numbered(number: int, request: bytes) -> bytes:
    """A pickled request behind its number."""
    return number.to_bytes(8, "big") + request


def number_of(data: bytes) -> tuple[int, bytes]:
    """The other end of `numbered`."""
    return int.from_bytes(data[:8], "big"), data[8:]


Place = tuple[str, Any]
"""A transaction: `("run", key)`, that of a run here; `("block", number)`, opened by the call;
`("parent", place)`, the one around another."""


# -- asked by a call ------------------------------------------------------------------------------


class Submit(NamedTuple):
    """New task runs for the flow's runner. `task` is pickled by itself, since it comes often.

    `tags` are those that they get beside the task's own, `around` those of the task run that submits;
    `within` is the transaction that they join.
    """

    task: bytes
    inputs: Sequence[tuple[Any, ...]]
    kwargs: Mapping[str, Any]
    kwargs_each: Sequence[Mapping[str, Any]] | None
    wait_for: Sequence[Any]
    mapped: bool
    tags: frozenset[str]
    around: frozenset[str]
    within: Place | None


class Carry(NamedTuple):
    """One task run that the worker carries itself; its arguments stay there.

    `task` is None for a run of the engine's own, which has a name only; `digest` is that of the
    arguments, where runs are recorded.
    """

    task: bytes | None
    name: str
    blockers: Sequence[tuple[TaskFuture[Any], bool]]
    tags: frozenset[str]
    around: frozenset[str]
    digest: bytes | None
    within: Place | None


class Began(NamedTuple):
    """An attempt of a carried run."""

    key: int
    attempt: int


class Ended(NamedTuple):
    """An attempt of a carried run; `final` where it cannot be repeated."""

    outcome: Packed
    name: str | None
    final: bool


class Watch(NamedTuple):
    """Tell when this settles."""

    future: TaskFuture[Any]


class Cancel(NamedTuple):
    """Answered by how many had not settled."""

    futures: Sequence[TaskFuture[Any]]


class Describe(NamedTuple):
    """Answered by a future's task run and phase."""

    future: TaskFuture[Any]


class Fetch(NamedTuple):
    """Answered by the value of a future, which stays on the cluster; stands for it until then."""

    future: TaskFuture[Any]


class AddCallback(NamedTuple):
    """Call `fn(future)` in the flow's process once it has settled."""

    future: TaskFuture[Any]
    fn: Callable[..., object]


class AskParameters(NamedTuple):
    """Answered by those of the flow run."""


class KeepArtifact(NamedTuple):
    """Record an artifact of the call."""

    event: ArtifactMade | ArtifactChanged


class TakeSlots(NamedTuple):
    """Take slots of limits for the call, within `timeout` seconds; `SlotsTaken` answers."""

    ticket: int
    wanted: Wanted
    timeout: float | None


class GiveSlots(NamedTuple):
    """Give them back, or wait for them no more."""

    ticket: int


class AskLimits(NamedTuple):
    """Answered by what a function of `store.limits` gives for the store of the run."""

    fn: Callable[..., Any]
    args: Sequence[Any]


class OpenBlock(NamedTuple):
    """Open a transaction in the flow's process, with these options, within another."""

    number: int
    options: Mapping[str, Any]
    tags: frozenset[str]
    around: frozenset[str]
    within: Place | None


class EndBlock(NamedTuple):
    """Wait for what was started in a block, then commit or undo it; answered once that is done.

    `raised` where the block raised, `cut` where what it started is not to be waited for.
    """

    number: int
    raised: bool
    cut: bool


class AskTransaction(NamedTuple):
    """Answered by what a method of a transaction gives; see `lent_transactions.py`."""

    place: Place
    method: str
    args: Sequence[Any]


# -- told by the engine ---------------------------------------------------------------------------


class Answer(NamedTuple):
    number: int
    value: Any


class Refusal(NamedTuple):
    number: int
    error: bytes


class Submitted(NamedTuple):
    """The answer to `Submit` and `Carry`: what the runs' names and ids are made of.

    `attempt` is that of a carried run which is launched with this.
    """

    prefix: int
    first_key: int
    first_index: int
    map_id: str | None
    attempt: int | None


class Launch(NamedTuple):
    """Run an attempt of a carried run."""

    key: int
    attempt: int


class SlotsTaken(NamedTuple):
    """The answer to `TakeSlots`; with an error where they were not."""

    ticket: int
    error: bytes | None


class Stop(NamedTuple):
    """End carried runs that have begun, drop those that have not."""

    keys: Sequence[int]


class Settled(NamedTuple):
    """A future that is watched, or a carried run, has settled."""

    outcome: Packed
