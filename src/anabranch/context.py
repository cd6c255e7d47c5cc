"""The one ambient thing: which run the current code belongs to."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from copy import copy
from typing import Any

from anabranch.runs import FlowRun, TaskRun, run_id


class RunContext:
    """Where code runs; outside of any run, only which tags it gives to what it starts, and in which
    transaction that is."""

    __slots__ = ("tags", "transaction")

    def __init__(self, tags: frozenset[str] = frozenset()) -> None:
        self.tags = tags
        self.transaction: Any = None
        """The `transactions.Transaction` that runs which start here join."""

    @property
    def engine(self) -> Any:
        """What tasks and flows that are called here ask to run them; None outside of any run."""
        return None

    @property
    def open_flow(self) -> Any:
        """What that engine knows the flow run by."""
        return None

    @property
    def clock(self) -> Any:
        """The `clock.Clock` of an engine that starts here; None for the machine's own."""
        return None

    @property
    def subscribers(self) -> tuple[Any, ...]:
        """Who hears of the events of an engine that starts here, beside those of its own."""
        return ()

    @property
    def flow_run(self) -> FlowRun | None:
        return None

    @property
    def task_run(self) -> TaskRun | None:
        return None

    @property
    def task(self) -> Any:
        """The task that runs, or the flow that was submitted as one; None outside of both, and on
        a worker."""
        return None

    @property
    def task_run_id(self) -> str | None:
        """The id alone, without making the record."""
        return None

    @property
    def task_run_key(self) -> int | None:
        """The number of the task run in its engine."""
        return None

    @property
    def log_prints(self) -> bool:
        return False

    @property
    def keep(self) -> Any:
        """What is left of a result for a later process is made by this; None where nothing is."""
        return None

    @property
    def resumed(self) -> Any:
        """The `resuming.Resumed` run that goes on here; None where a new one begins."""
        return None

    @classmethod
    def get(cls) -> Any:
        """The current context if it is one of this class, else None."""
        context = current.get(None)
        return context if isinstance(context, cls) else None


class EngineContext(RunContext):
    """With an engine: inside a flow, or around a task that was called outside of any."""

    __slots__ = ("_engine", "_open_flow")

    def __init__(self, engine: Any, open_flow: Any, tags: frozenset[str]) -> None:
        super().__init__(tags)
        self._engine = engine
        self._open_flow = open_flow

    @property
    def engine(self) -> Any:
        return self._engine

    @property
    def open_flow(self) -> Any:
        return self._open_flow


class FlowRunContext(EngineContext):
    """Inside a flow's function."""

    __slots__ = ("_flow_run", "_log_prints")

    def __init__(self, engine: Any, open_flow: Any, flow_run: FlowRun, log_prints: bool) -> None:
        super().__init__(engine, open_flow, flow_run.tags)
        self._flow_run = flow_run
        self._log_prints = log_prints

    @property
    def flow_run(self) -> FlowRun:
        return self._flow_run

    @property
    def log_prints(self) -> bool:
        return self._log_prints


class TaskRunContext(RunContext):
    """Inside a task's function, for one attempt; `call` is an `execution.calls.Call`."""

    __slots__ = ("call",)

    def __init__(self, call: Any) -> None:
        self.call = call
        around = call.scope.transaction
        self.transaction = None if around is None else around.share_of(call.key)

    def __getattr__(self, name: str) -> Any:
        """The tags are worked out by who asks for them first."""
        if name != "tags":
            return object.__getattribute__(self, name)  # raises once more what it has raised
        self.tags = self.call.scope.tags
        return self.tags

    @property
    def engine(self) -> Any:
        return self.call.scope.engine

    @property
    def open_flow(self) -> Any:
        return self.call.scope.open_flow

    @property
    def flow_run(self) -> FlowRun | None:
        return self.call.scope.flow_run

    @property
    def task_run(self) -> TaskRun:
        return self.call.task_run()

    @property
    def task(self) -> Any:
        return self.call.spec.task

    @property
    def task_run_id(self) -> str:
        return run_id(self.call.scope.prefix, self.call.key)

    @property
    def task_run_key(self) -> int:
        return self.call.key

    @property
    def log_prints(self) -> bool:
        return self.call.scope.log_prints

    @property
    def keep(self) -> Any:
        return self.call.scope.keep

    @property
    def parameters(self) -> dict[str, Any]:
        """The call's arguments by name, defaults included."""
        return self.call.named_arguments()


current: ContextVar[RunContext] = ContextVar("anabranch_run")
_NOWHERE = RunContext()


def current_context() -> RunContext:
    """The context of the calling code; that of no run where there is none."""
    return current.get(_NOWHERE)


@contextmanager
def tags(*names: str) -> Generator[frozenset[str]]:
    """Give these tags to each run that starts inside the block."""
    context = copy(current_context())
    context.tags = context.tags | frozenset(names)
    token = current.set(context)
    try:
        yield context.tags
    finally:
        current.reset(token)
