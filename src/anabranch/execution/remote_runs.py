"""What a worker has for runs and flow runs of the flow's process, and for those that it carries itself."""

# pyright: reportPrivateUsage=false
# This stands for the engine's rooms, which share the slots of the run record.

from __future__ import annotations

from contextvars import Context
from typing import TYPE_CHECKING, Any

from anabranch.dependencies import resolve
from anabranch.execution.calls import Call, Scope, TaskSpec
from anabranch.execution.names import default_name
from anabranch.futures import TaskFuture
from anabranch.outcomes import Outcome
from anabranch.runs import FlowRun, TaskRun, run_id

if TYPE_CHECKING:
    from anabranch.execution.remote_engine import RemoteEngine

Run = TaskFuture[Any]


class Mirror:
    """What futures of one submission share on a worker; see `futures.Shared`."""

    __slots__ = ("first_index", "first_key", "home", "name", "prefix", "runner")

    def __init__(
        self,
        home: RemoteEngine,
        prefix: int,
        runner: Any,
        name: str | None = None,
        first_key: int = 0,
        first_index: int = 0,
    ) -> None:
        self.home = home
        self.prefix = prefix
        self.runner = runner
        self.name = name  # of the task, where the runs' names are made of that
        self.first_key = first_key
        self.first_index = first_index

    def id_of(self, future: Run) -> str:
        return run_id(self.prefix, future._key)

    def name_of(self, future: Run) -> str:
        if self.name is not None:
            return default_name(self.name, self.first_index + future._key - self.first_key)
        return self.home.describe(future)[0].name

    def task_run(self, future: Run) -> TaskRun:
        return self.home.describe(future)[0]


class Elsewhere:
    """Stands for the runner of a run that some other worker carries."""

    capabilities: Any = None

    def runs_on(self, loop: Any) -> bool:
        return False


ELSEWHERE = Elsewhere()


class FlowStandIn:
    """What tasks on a worker know the flow run by; see `engine.submission.OpenFlow`."""

    parent = None
    runner = ELSEWHERE

    def __init__(self, flow_run: FlowRun | None, log_prints: bool) -> None:
        self.flow_run = flow_run
        self.log_prints = log_prints
        self.name = "no flow" if flow_run is None else flow_run.name


class Carried:
    """A run that this worker carries itself: what it is called with, and how it last ended."""

    __slots__ = ("args", "context", "future", "kwargs", "outcome", "runner", "scope", "spec")

    def __init__(self, spec: TaskSpec, runner: Any, args: Any, kwargs: Any, context: Context):
        self.spec = spec
        self.runner = runner
        self.args = args
        self.kwargs = kwargs
        self.context = context
        self.future: Run | None = None
        self.scope: Scope | None = None
        self.outcome: Outcome | None = None

    def call(self, attempt: int) -> Call:
        """The call of an attempt, its futures replaced; raises what that raises."""
        assert self.future is not None and self.scope is not None  # known since it was taken
        args, kwargs = resolve(self.args), resolve(self.kwargs)
        key = self.future._key
        name = self.spec.name_for(args, kwargs)
        return Call(key, attempt, self.spec, self.scope, args, kwargs, name, self.context)
