"""Runs a program on the engine, through the interface that users have, and keeps what it submitted."""

# pyright: reportPrivateUsage=false
# The keys and phases of runs are private to users, and what is checked here.

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from anabranch.annotations import allow_failure
from anabranch.context import current_context
from anabranch.errors import CancelledRun
from anabranch.flows import Flow
from anabranch.futures import FutureList, TaskFuture
from anabranch.outcomes import CANCELLED, COMPLETED, NOT_READY, SETTLED
from anabranch.states import Completed, Failed
from anabranch.tasks import Task
from anabranch.testing.simulation import programs
from anabranch.testing.simulation.programs import (
    Body,
    Call,
    Cancel,
    FlowNode,
    Input,
    Map,
    Node,
    Program,
    Result,
    Statement,
    Subflow,
    Submit,
    Wait,
)
from anabranch.testing.simulation.runner import SimulatedTaskRunner
from anabranch.testing.simulation.world import World

FAILURE_COUNTS = 1000
"""What an exception adds where it is allowed or caught."""

Variable = TaskFuture[Any] | FutureList[Any]


class Broken(Exception):
    """What the program's own code raises."""


@dataclass(eq=False, slots=True)
class Running:
    """A flow that runs; `failed` once it has raised, from which on its runs may be cancelled."""

    around: Running | None
    failed: bool = False

    def may_cancel(self) -> bool:
        return self.failed or (self.around is not None and self.around.may_cancel())

    def is_below(self, other: Running) -> bool:
        return self is other or (self.around is not None and self.around.is_below(other))


@dataclass(eq=False, slots=True)
class Record:
    """A submit or a map: what came of it, what it waits for, and who asked for its end."""

    node: Node
    made: Variable
    blockers: list[tuple[Variable, bool]]
    inputs: list[Variable]
    flow: Running
    over: Variable | int | None = None
    over_allowed: bool = False
    cancel_asked: bool = False


@dataclass(eq=False, slots=True)
class Scope:
    """The variables of a body that runs."""

    flow: Running
    records: dict[int, Record] = field(default_factory=dict[int, Record])

    def of(self, given: Input) -> Any:
        made = self.records[given.var].made
        return allow_failure(made) if given.allowed else made


class Interpreter:
    """One program in one world."""

    def __init__(self, program: Program, world: World) -> None:
        self.program = program
        self.world = world
        self.records: list[Record] = []
        self.record_of: dict[int, Record] = {}
        self.began: dict[int, int] = {}  # by key: how often the task's function was entered
        self.came_to: dict[int, list[Any]] = {}  # by key: what its body gave, run by run
        self.to_cancel: dict[int, frozenset[int]] = {}  # by key: the phases that are left to it
        self._tasks: dict[Any, Task[..., Any]] = {}
        self._nodes: dict[int, Node] = {}
        self._runner = SimulatedTaskRunner(world)
        self._flows: dict[Any, Running] = {}

    def run(self) -> Any:
        """Run the flow; its final state."""
        return self._flow(self.program.flow, None)(return_state=True)

    # -- tasks and flows of the engine --------------------------------------------------------------

    def _task(self, node: Node) -> Task[..., Any]:
        self._nodes[node.number] = node
        options = (node.retries, node.delay, node.asks, node.timeout, node.slot)
        if options not in self._tasks:
            asks = node.asks
            condition: Callable[..., bool] | None = None if asks is None else lambda *_: asks
            self._tasks[options] = Task(
                self._work,
                name="work",
                retries=node.retries,
                retry_delay_seconds=node.delay,
                retry_condition_fn=condition,
                timeout_seconds=node.timeout,
                resources={"slot": 1} if node.slot else None,
            )
        return self._tasks[options]

    def _flow(self, node: FlowNode, around: Running | None) -> Flow[..., Any]:
        return Flow(
            lambda *values: self._flow_body(node, around, values),
            name="flow",
            task_runner=self._runner if node.own_runner else None,
            validate_parameters=False,
            retries=node.retries,
            retry_delay_seconds=node.delay,
        )

    def _flow_body(self, node: FlowNode, around: Running | None, values: Sequence[Any]) -> Any:
        context: Any = current_context()
        runs = context.flow_run.run_count
        running = self._flows[context.open_flow] = Running(around)
        try:
            if runs <= node.fails:
                raise Broken(f"flow {node.number}")
            value = self._body(node.body, running)
            return value + node.number + counted(values) if type(value) is int else value
        except BaseException:
            running.failed = True
            self._cancel_below(running)
            self.world.interrupts_at = 0  # a second time it would leave at once, and join nobody
            raise

    def _cancel_below(self, running: Running) -> None:
        """What has not settled when its flow raises may only be cancelled, or never start."""
        for record in self.records:
            if record.flow.is_below(running):
                self._only(record.made, frozenset((CANCELLED, NOT_READY)))

    def _only(self, made: Variable, phases: frozenset[int]) -> None:
        runs = [made] if isinstance(made, TaskFuture) else made if made.is_known() else []
        for run in runs:
            if run._phase < SETTLED:
                self.to_cancel[run._key] = self.to_cancel.get(run._key, phases) & phases

    def _work(self, number: int, values: Any) -> Any:
        """The function of all tasks."""
        node = self._nodes[number]
        context: Any = current_context()
        key: int = context.call.key
        runs = self.began[key] = self.began.get(key, 0) + 1
        self._check_blockers(key)
        if runs <= node.fails:
            raise Broken(f"run {runs} of {number}")
        if node.count is not None:
            return list(range(node.count))
        value: Any = 0
        if node.body is not None:
            value = self._body(node.body, self._flows[context.open_flow])
            self.came_to.setdefault(key, []).append(value)
        return value + number + counted(values) if type(value) is int else value

    def _check_blockers(self, key: int) -> None:
        record = self.record_of.get(key)  # none yet for those of a map that was unknown
        if record is None:
            return
        for made, allowed in record.blockers:
            if not made.done():
                self.world.wrong.append(f"work of key {key} began before {made!r} had settled")
            elif not allowed and not completed(made):
                self.world.wrong.append(f"work of key {key} began though {made!r} had failed")

    # -- bodies -------------------------------------------------------------------------------------

    def _body(self, body: Body, flow: Running) -> Any:
        scope = Scope(flow)
        total = 0
        for statement in body.statements:
            total += self._do(statement, scope)
        made = [scope.records[var].made for var in body.returned]
        ending = body.ending
        if ending == programs.FUTURES:
            return made[0] if len(made) == 1 else made
        if ending == programs.STATES:
            return [states_of(each) for each in made]
        if ending == programs.COMPLETED_STATE:
            return Completed(data=total)
        if ending == programs.FAILED_STATE:
            return Failed(message="as asked")
        if ending == programs.BROKEN:
            raise Broken("at the end of a body")
        if ending == programs.CANCELLED_RUN:
            raise CancelledRun("at the end of a body")
        return total

    def _do(self, statement: Statement, scope: Scope) -> int:
        """Do what a statement says; what it adds to the body's total."""
        if isinstance(statement, Submit):
            self._submit(statement, scope)
        elif isinstance(statement, Map):
            self._map(statement, scope)
        elif isinstance(statement, Call):
            values = [scope.of(each) for each in statement.inputs]
            return counted(self._task(statement.node)(statement.node.number, values))
        elif isinstance(statement, Result):
            return self._result(scope.records[statement.var], statement.caught)
        elif isinstance(statement, Wait):
            scope.records[statement.var].made.wait(statement.timeout)
        elif isinstance(statement, Cancel):
            record = scope.records[statement.var]
            record.cancel_asked = True
            self._only(record.made, frozenset((CANCELLED,)))
            record.made.cancel()
        else:
            return self._subflow(statement, scope)
        return 0

    def _submit(self, statement: Submit, scope: Scope) -> None:
        node = statement.node
        task: Any = self._task(node)
        values = [scope.of(each) for each in statement.inputs]
        wait_for = [scope.of(each) for each in statement.wait_for]
        future = task.submit(node.number, values, wait_for=wait_for)
        blockers = self._blockers(scope, *statement.inputs, *statement.wait_for)
        inputs = [scope.records[each.var].made for each in statement.inputs]
        record = scope.records[statement.var] = Record(node, future, blockers, inputs, scope.flow)
        self._keep(record, [future])

    def _map(self, statement: Map, scope: Scope) -> None:
        node, over = statement.node, statement.over
        task: Any = self._task(node)
        items: Any = range(over) if isinstance(over, int) else scope.of(over)
        wait_for = [scope.of(each) for each in statement.wait_for]
        futures: FutureList[Any] = task.map(node.number, items, wait_for=wait_for)
        blockers = self._blockers(scope, *statement.wait_for)
        record = Record(node, futures, blockers, [], scope.flow)
        if isinstance(over, int):
            record.over = over
        else:
            record.over = scope.records[over.var].made
            record.over_allowed = over.allowed
        scope.records[statement.var] = record
        self._keep(record, futures if futures.is_known() else ())

    def _keep(self, record: Record, futures: Sequence[TaskFuture[Any]]) -> None:
        self.records.append(record)
        for future in futures:
            self.record_of[future._key] = record

    def _blockers(self, scope: Scope, *inputs: Input) -> list[tuple[Variable, bool]]:
        return [(scope.records[each.var].made, each.allowed) for each in inputs]

    def _result(self, record: Record, caught: bool) -> int:
        try:
            return counted(record.made.result())
        except Exception:
            if caught:
                return FAILURE_COUNTS
            raise

    def _subflow(self, statement: Subflow, scope: Scope) -> int:
        flow = self._flow(statement.flow, scope.flow)
        try:
            return counted(flow(*[scope.of(each) for each in statement.inputs]))
        except Exception:
            if statement.caught:
                return FAILURE_COUNTS
            raise


def counted(value: Any) -> int:
    """What a value adds to a sum."""
    if isinstance(value, BaseException):
        return FAILURE_COUNTS
    return sum(map(counted, value)) if type(value) in (list, tuple) else value


def completed(made: Variable) -> bool:
    """Whether a settled future, or all of a list, completed."""
    if isinstance(made, TaskFuture):
        return made._phase == COMPLETED
    return made.is_known() and all(future._phase == COMPLETED for future in made)


def states_of(made: Variable) -> Any:
    made.wait()
    return made.state if isinstance(made, TaskFuture) else made.states()
