"""The states of flow runs and task runs, as their users see them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from anabranch.errors import CancelledRun, CrashedRun, FailedRun, PendingRun
from anabranch.outcomes import Away

R = TypeVar("R")


class StateType(StrEnum):
    """The types of a state; its name says more within one type."""

    SCHEDULED = "SCHEDULED"
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    CANCELLING = "CANCELLING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CRASHED = "CRASHED"
    CANCELLED = "CANCELLED"


FINAL_TYPES = frozenset(
    {StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED}
)


class StateDetails(BaseModel):
    """What a state knows beside its type: whose it is, and why."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    flow_run_id: str | None = None
    task_run_id: str | None = None
    scheduled_time: dt.datetime | None = None
    upstream_run_name: str | None = None


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


class State(BaseModel, Generic[R]):
    """One state of a run; frozen. `data` holds the value or the exception, if there is one."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True, defer_build=True)

    type: StateType
    name: str
    message: str | None = None
    timestamp: dt.datetime = Field(default_factory=_now)
    state_details: StateDetails = Field(default_factory=StateDetails)
    data: Any = Field(default=None, repr=False)

    def is_scheduled(self) -> bool:
        return self.type is StateType.SCHEDULED

    def is_pending(self) -> bool:
        return self.type is StateType.PENDING

    def is_running(self) -> bool:
        return self.type is StateType.RUNNING

    def is_paused(self) -> bool:
        return self.type is StateType.PAUSED

    def is_cancelling(self) -> bool:
        return self.type is StateType.CANCELLING

    def is_completed(self) -> bool:
        return self.type is StateType.COMPLETED

    def is_failed(self) -> bool:
        return self.type is StateType.FAILED

    def is_crashed(self) -> bool:
        return self.type is StateType.CRASHED

    def is_cancelled(self) -> bool:
        return self.type is StateType.CANCELLED

    def is_final(self) -> bool:
        """Whether the type is one that a run ends in."""
        return self.type in FINAL_TYPES

    def result(self, raise_on_failure: bool = True) -> R:
        """The value of a completed run, read again where it is not held in memory; the exception of
        another is raised, or returned.

        Raises `PendingRun` where the run has not ended.
        """
        if self.type is StateType.COMPLETED:
            return self.data.load() if type(self.data) is Away else self.data
        if self.type not in FINAL_TYPES and not isinstance(self.data, BaseException):
            raise PendingRun(self.state_details.task_run_id or "the run", self.name)
        error = self.exception()
        if raise_on_failure:
            raise error
        return error  # type: ignore[return-value]  # asked for: the exception instead of the value

    async def aresult(self, raise_on_failure: bool = True) -> R:
        """The async twin of `result`."""
        return self.result(raise_on_failure)

    def exception(self) -> BaseException:
        """The exception of a state that did not complete, made where it holds none."""
        data = self.data
        if isinstance(data, BaseException):
            return data
        message = self.message or self.name
        if isinstance(data, Sequence) and not isinstance(data, str):
            for item in data:  # pyright: ignore[reportUnknownVariableType]  # a user's own list
                if isinstance(item, State) and not item.is_completed():
                    return item.exception()
        if self.type is StateType.CANCELLED:
            return CancelledRun(message)
        if self.type is StateType.CRASHED:
            return CrashedRun(message)
        return FailedRun(message)

    def __str__(self) -> str:
        return f"{self.name}({self.message!r})" if self.message else f"{self.name}()"


class StateGroup:
    """Counts over many states, by type."""

    def __init__(self, states: Iterable[State[Any]]) -> None:
        self.states = list(states)
        self.type_counts = dict.fromkeys(StateType, 0)
        for state in self.states:
            self.type_counts[state.type] += 1
        self.total_count = len(self.states)
        self.not_final_count = sum(not state.is_final() for state in self.states)

    def all_final(self) -> bool:
        return self.not_final_count == 0

    def all_completed(self) -> bool:
        return self.type_counts[StateType.COMPLETED] == self.total_count

    def any_failed(self) -> bool:
        return self.type_counts[StateType.FAILED] > 0

    def any_cancelled(self) -> bool:
        return self.type_counts[StateType.CANCELLED] > 0

    def fail_count(self) -> int:
        return self.type_counts[StateType.FAILED]

    def counts_message(self) -> str:
        """Such as `"1200 total: 1198 COMPLETED, 2 FAILED"`."""
        counts = ", ".join(f"{n} {kind.value}" for kind, n in self.type_counts.items() if n)
        return f"{self.total_count} total: {counts}" if counts else "0 total"


def known_state(kind: StateType, name: str, **fields: Any) -> State[Any]:
    """A state whose fields are known to fit: not checked, and so without the 25 ms that pydantic
    takes to build its first validator."""
    made: Any = State.model_construct(type=kind, name=name, **fields)  # pyright: ignore[reportUnknownVariableType]  # of any result
    return made


def _state(kind: StateType, name: str, fields: dict[str, Any]) -> State[Any]:
    fields.setdefault("name", name)
    return State(type=kind, **fields)


def Scheduled(**fields: Any) -> State[Any]:
    return _state(StateType.SCHEDULED, "Scheduled", fields)


def Late(**fields: Any) -> State[Any]:
    return _state(StateType.SCHEDULED, "Late", fields)


def AwaitingRetry(**fields: Any) -> State[Any]:
    return _state(StateType.SCHEDULED, "AwaitingRetry", fields)


def AwaitingConcurrencySlot(**fields: Any) -> State[Any]:
    return _state(StateType.SCHEDULED, "AwaitingConcurrencySlot", fields)


def Pending(**fields: Any) -> State[Any]:
    return _state(StateType.PENDING, "Pending", fields)


def NotReady(**fields: Any) -> State[Any]:
    return _state(StateType.PENDING, "NotReady", fields)


def Running(**fields: Any) -> State[Any]:
    return _state(StateType.RUNNING, "Running", fields)


def Retrying(**fields: Any) -> State[Any]:
    return _state(StateType.RUNNING, "Retrying", fields)


def Paused(**fields: Any) -> State[Any]:
    return _state(StateType.PAUSED, "Paused", fields)


def Suspended(**fields: Any) -> State[Any]:
    return _state(StateType.PAUSED, "Suspended", fields)


def Cancelling(**fields: Any) -> State[Any]:
    return _state(StateType.CANCELLING, "Cancelling", fields)


def Completed(**fields: Any) -> State[Any]:
    return _state(StateType.COMPLETED, "Completed", fields)


def Cached(**fields: Any) -> State[Any]:
    return _state(StateType.COMPLETED, "Cached", fields)


def RolledBack(**fields: Any) -> State[Any]:
    return _state(StateType.COMPLETED, "RolledBack", fields)


def Failed(**fields: Any) -> State[Any]:
    return _state(StateType.FAILED, "Failed", fields)


def TimedOut(**fields: Any) -> State[Any]:
    return _state(StateType.FAILED, "TimedOut", fields)


def Crashed(**fields: Any) -> State[Any]:
    return _state(StateType.CRASHED, "Crashed", fields)


def Cancelled(**fields: Any) -> State[Any]:
    return _state(StateType.CANCELLED, "Cancelled", fields)
