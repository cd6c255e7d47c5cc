"""What the engine tells of a run, and who listens.

Events travel in batches, in the order in which they happened. Only the engine makes them, and those
who listen can slow nothing down: each runs on a thread of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from anabranch.futures import TaskFuture
from anabranch.outcomes import Kept, Outcome
from anabranch.recorded import Recorded
from anabranch.runs import FlowRun
from anabranch.states import State

Run = TaskFuture[Any]


class TaskRunsSubmitted(NamedTuple):
    """New task runs of one submit or map, all of one task.

    `linked` are those that wait for others, with what they wait for; `replaced` those that stand for
    a run of the same call in a process that died, with its place in the store.
    """

    runs: Sequence[Run]
    at: float
    linked: Sequence[tuple[Run, Mapping[Run, bool]]] = ()
    replaced: Sequence[tuple[Run, int]] = ()


class TaskRunChanged(NamedTuple):
    """A task run went into `phase` at `at`, seconds since the epoch.

    `outcome` is that of the attempt which ended, if one did.
    """

    run: Run
    phase: int
    at: float
    outcome: Outcome | None = None


class TaskRunsRolledBack(NamedTuple):
    """Completed task runs are being undone, since their transaction has failed."""

    runs: Sequence[Run]
    at: float


class FlowRunBegan(NamedTuple):
    """A flow run starts. `about` is what the store keeps of it besides."""

    run: FlowRun
    about: FlowRunAbout


class FlowRunAbout(NamedTuple):
    """What a later process needs to know of a flow run.

    `entrypoint` is where its flow is found, as `module:name` or `file:name`; `inputs` says what it
    was called with, for a resume of its parent. `parameters` are pickled, those of a root only;
    `not_resumable` says why they are not there. `row` is its place in the store where it goes on
    from there.
    """

    flow_key: str
    flow_source: bytes = b""
    entrypoint: str | None = None
    runner: str | None = None
    inputs: bytes | None = None
    parameters: bytes | None = None
    preview: str | None = None
    not_resumable: str | None = None
    row: int | None = None


class FlowRunChanged(NamedTuple):
    """A flow run went into `state`; `kept` is how its value is kept, once it has completed."""

    run: FlowRun
    state: State[Any]
    kept: Kept | None = None


class LogWritten(NamedTuple):
    """A log line of a run, or about one."""

    at: float
    level: int
    logger: str
    message: str
    flow_run_id: str | None
    task_run_id: str | None
    run_name: str | None


class ArtifactMade(NamedTuple):
    """An artifact was made; `data` is JSON."""

    id: str
    key: str | None
    type: str
    description: str | None
    data: str
    at: float
    flow_run_id: str | None
    task_run_id: str | None


class ArtifactChanged(NamedTuple):
    """A progress artifact says something else; a description of None stays as it was."""

    id: str
    description: str | None
    data: str
    at: float


Event = (
    TaskRunsSubmitted
    | TaskRunChanged
    | None  # for the recorder: there are runs that settled
    | TaskRunsRolledBack
    | FlowRunBegan
    | FlowRunChanged
    | LogWritten
    | ArtifactMade
    | ArtifactChanged
)


class Listener(Protocol):
    """Takes events, in order."""

    def receive(self, events: Sequence[Event]) -> None: ...

    def close(self) -> None:
        """No event follows."""
        ...


class Subscriber(Listener, Protocol):
    """Hears of task runs one by one, and of flow runs.

    `phases` names the task-run phases that it wants to hear of, so that the others cost nothing;
    `submissions` says whether it wants new task runs told.
    """

    phases: frozenset[int]
    submissions: bool


class Recorder(Listener, Protocol):
    """Hears of everything, and keeps it.

    With `strict`, no run settles before it is told to `settle` that the outcome was kept, or that
    it could not be.
    """

    strict: bool

    def settled(self, runs: Sequence[Run]) -> bool:
        """Runs that came to their outcomes; called with the engine's lock held. Whether those are the
        first since it last received anything."""
        ...

    beat_seconds: float
    """How often `beat` is wanted where nothing happens, in seconds."""

    def beat(self) -> None: ...

    def recorded(self, flow_run: FlowRun) -> Recorded:
        """What is recorded of a flow run by now, to be handed back."""
        ...
