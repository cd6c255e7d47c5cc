"""What the runs of one submit or map share: the task, where they belong, how they are named."""

# pyright: reportPrivateUsage=false
# The engine's rooms share the slots of the run record, which are private to users.

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextvars import Context, copy_context
from itertools import count
from operator import is_
from typing import Any

from anabranch.context import RunContext
from anabranch.engine.admission import Admission
from anabranch.engine.tracker import Group, Tally
from anabranch.execution.calls import (
    Call,
    CallsOfRuns,
    Scope,
    TaskSpec,
    make_task_run,
)
from anabranch.futures import Home, TaskFuture
from anabranch.identities import BY_ORDER, in_order
from anabranch.outcomes import RETRY_WAIT, SETTLED
from anabranch.recorded import Recorded
from anabranch.records import made_of
from anabranch.runs import FlowRun, TaskRun, run_id
from anabranch.task_runners.base import OpenRunner


class OpenFlow:
    """A flow run while it runs: its task runs, counted, and the runner that carries them.

    That of a task called outside of any flow has neither a flow run nor a runner.
    """

    __slots__ = (
        "accepted",
        "admission",
        "flow_run",
        "group",
        "log_prints",
        "ordered",
        "parent",
        "recorded",
        "runner",
        "yielded",
    )

    def __init__(
        self,
        flow_run: FlowRun | None,
        runner: OpenRunner | None,
        parent: OpenFlow | None,
        log_prints: bool = False,
    ) -> None:
        self.flow_run = flow_run
        self.runner = runner
        self.parent = parent
        self.log_prints = log_prints
        self.recorded: Recorded | None = None  # what need not run again
        self.ordered: dict[str, Iterator[int]] = defaultdict(count)
        self.yielded = False  # whether a consumer has had items of its generator
        self.group = Group(None if parent is None else parent.group)
        self.accepted: set[TaskSpec] = set()  # those whose options this runner can do
        self.admission = _admission(runner, parent)

    def begin_attempt(self, recorded: Recorded) -> None:
        """The function runs again, with what it has recorded so far."""
        self.recorded = recorded
        self.ordered.clear()

    def identity(self, key: str, digest: bytes) -> bytes:
        """The digest of a call's inputs; where only their order tells a task's calls apart, with
        the call's place in it."""
        return in_order(next(self.ordered[key])) if digest == BY_ORDER else digest

    @property
    def name(self) -> str:
        return "no flow" if self.flow_run is None else self.flow_run.name


def _admission(runner: OpenRunner | None, parent: OpenFlow | None) -> Admission | None:
    if runner is None:
        return None
    if parent is not None and parent.runner is runner:
        return parent.admission
    resources = runner.capabilities.resources
    return None if resources is None else Admission(resources)


def _hold_the_same(context: Context, other: Context) -> bool:
    """Whether all context variables have the very same values."""
    return (
        len(context) == len(other)
        and all(map(is_, context.values(), other.values()))
        and all(map(is_, context, other))
    )


class Submission:
    """Shared by its futures; see `futures.Shared`.

    `kwargs` are those of each run, unless `kwargs_each` has them run by run. `wait_for` is what to
    search again before each launch, since it holds lists whose futures were not known yet. `limits`
    are the names of those by tag that the runs have to keep.
    """

    __slots__ = (
        "admission",
        "context",
        "digest",
        "from_where",
        "group",
        "home",
        "kwargs",
        "kwargs_each",
        "limits",
        "offset",
        "recorded",
        "runner",
        "scope",
        "spec",
        "special",
        "tally",
        "visible",
        "wait_for",
    )

    def __init__(
        self,
        home: Home,
        spec: TaskSpec,
        scope: Scope,
        from_where: RunContext,
        runner: OpenRunner,
        kwargs: Mapping[str, Any],
        kwargs_each: Sequence[Mapping[str, Any]] | None,
        context: Context,
        tally: Tally,
        visible: bool,
        limits: tuple[str, ...] = (),
    ) -> None:
        self.home = home
        self.spec = spec
        self.limits = limits
        self.special = spec.special or bool(limits)  # whether a completed run owes more
        self.scope = scope
        self.offset = 0  # from a call's key to its number
        self.from_where = from_where
        open_flow: OpenFlow = scope.open_flow
        self.group = open_flow.group
        self.admission = open_flow.admission
        self.recorded = open_flow.recorded if visible else None
        self.runner = runner
        self.kwargs = kwargs
        self.kwargs_each = kwargs_each
        self.context = context
        self.tally = tally
        self.visible = visible
        self.wait_for: tuple[Any, ...] = ()
        self.digest: bytes | None = None  # of the inputs of a single call, where they are elsewhere

    def begin_with(self, key: int, index: int, mapped: bool = False) -> None:
        """The key and the number of the first call; a map has an id, that of its first run."""
        scope = self.scope
        scope.first_key = key
        scope.first_index = index
        if mapped:
            scope.map_id = run_id(scope.prefix, key)
        self.offset = index - key

    def is_like(self, spec: TaskSpec, runner: OpenRunner, from_where: RunContext) -> bool:
        """Whether this can be that of one more single call too, as in a loop of calls: few objects
        stay then of each. The number of the call, and the context that it runs in, have to fit too."""
        scope = self.scope
        return (
            self.spec is spec
            and self.from_where is from_where
            and self.runner is runner
            and not scope.tags  # whose limits may change
            and self.recorded is scope.open_flow.recorded
        )

    def has_context(self) -> bool:
        """Whether a call that is made now is to run in the context of this."""
        return _hold_the_same(copy_context(), self.context)

    def kwargs_of(self, run: TaskFuture[Any]) -> Mapping[str, Any]:
        if self.kwargs_each is None:
            return self.kwargs
        return self.kwargs_each[run._key - self.scope.first_key]

    def id_of(self, future: TaskFuture[Any]) -> str:
        links = future._links
        if links is not None and links.recalled is not None:
            return links.recalled.task_run_id
        return run_id(self.scope.prefix, future._key)

    def name_of(self, future: TaskFuture[Any]) -> str:
        links = future._links
        if links is not None and links.name is not None:
            return links.name
        return self.scope.default_name(self.spec.name, future._key)

    def task_run(self, future: TaskFuture[Any]) -> TaskRun:
        times: dict[str, Any] = {}
        outcome = future._outcome
        if outcome is not None and future._phase >= SETTLED:
            times["start_time"] = dt.datetime.fromtimestamp(outcome.started, dt.UTC)
            times["seconds"] = outcome.seconds
        count = future._attempt - (future._phase == RETRY_WAIT)
        return make_task_run(
            self.spec, self.scope, future._key, self.name_of(future), count, **times
        )

    def calls(self, runs: Sequence[TaskFuture[Any]]) -> Sequence[Call]:
        """Those of new runs whose inputs are plain."""
        first, last = runs[0]._key, runs[-1]._key
        together = last - first + 1 == len(runs)
        keys = range(first, last + 1) if together else [run._key for run in runs]
        return CallsOfRuns(runs, keys)

    def call(self, run: TaskFuture[Any]) -> Call:
        """The call that a runner gets for a run whose inputs are plain."""
        return made_of(
            Call,
            (
                run._key,
                run._attempt,
                self.spec,
                self.scope,
                run._inputs,
                self.kwargs if self.kwargs_each is None else self.kwargs_of(run),
                None,
                self.context,
            ),
        )

    def call_here(self, run: TaskFuture[Any]) -> Call:
        """The same for one that runs in the calling thread, and in its context."""
        spec, scope = self.spec, self.scope
        return made_of(
            Call, (run._key, run._attempt, spec, scope, run._inputs, self.kwargs, None, None)
        )
