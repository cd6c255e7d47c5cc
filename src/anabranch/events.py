"""What the engine tells of a run, and who listens.

Events travel in batches, in the order in which they happened. Only the engine makes them, and a
subscriber can slow nothing down: it runs on a thread of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from anabranch.futures import TaskFuture
from anabranch.outcomes import Outcome
from anabranch.runs import FlowRun
from anabranch.states import State


class TaskRunsSubmitted(NamedTuple):
    """New task runs of one submit or map, all of one task."""

    runs: Sequence[TaskFuture[Any]]
    at: float


class TaskRunChanged(NamedTuple):
    """A task run went into `phase` at `at`, seconds since the epoch.

    `outcome` is that of the attempt which ended, if one did.
    """

    run: TaskFuture[Any]
    phase: int
    at: float
    outcome: Outcome | None = None


class FlowRunChanged(NamedTuple):
    """A flow run went into `state`."""

    run: FlowRun
    state: State[Any]


Event = TaskRunsSubmitted | TaskRunChanged | FlowRunChanged


class Subscriber(Protocol):
    """Takes the events of one root flow run, in order.

    `phases` names the task-run phases that it wants to hear of, so that the others cost nothing;
    `submissions` says whether it wants new task runs told.
    """

    phases: frozenset[int]
    submissions: bool

    def receive(self, events: Sequence[Event]) -> None: ...

    def close(self) -> None:
        """No event follows."""
        ...
