"""What a program comes to, said directly: no engine, no order, no time.

Defined for programs of a world without storms, where nothing is cancelled or too late.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from anabranch.testing.simulation import programs
from anabranch.testing.simulation.interpreter import FAILURE_COUNTS, counted
from anabranch.testing.simulation.programs import (
    Body,
    Call,
    FlowNode,
    Input,
    Map,
    Node,
    Result,
    Statement,
    Subflow,
    Submit,
    Wait,
)


class Raised(Exception):
    """The program raises an exception of this class."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        super().__init__(kind)


@dataclass(frozen=True, slots=True)
class Settled:
    """How a task run ended: with a value, or with an exception of the class `error`."""

    value: Any = None
    error: str | None = None


NOT_STARTED = Settled(error="UpstreamTaskError")

Variable = Settled | list[Settled]
"""A map whose items never came is a single one that failed."""


@dataclass(frozen=True, slots=True)
class FinalState:
    """The type of a flow's state, and its value or the class of its exception."""

    type: str
    value: Any


def flow_state(node: FlowNode, values: Sequence[Any] = ()) -> FinalState:
    """The state of a flow run, its retries included."""
    if node.fails > node.retries:
        return FinalState("FAILED", "Broken")
    try:
        value = _body(node.body)
    except Raised as raised:
        if raised.kind == "CancelledRun":
            return FinalState("CANCELLED", "CancelledRun")
        return FinalState("FAILED", raised.kind)
    if type(value) is int:
        value += node.number + counted(values)
    if isinstance(value, FinalState):
        return value
    return FinalState("COMPLETED", value)


def _task(node: Node, values: Sequence[Any]) -> Settled:
    """A task run whose inputs are there."""
    retries = 0 if node.asks is False else node.retries
    if node.fails > retries:
        return Settled(error="Broken")
    if node.count is not None:
        return Settled(list(range(node.count)))
    value: Any = 0
    if node.body is not None:
        try:
            value = _body(node.body, in_task=True)
        except Raised as raised:
            return Settled(error=raised.kind)
        if isinstance(value, FinalState):
            failed = value.type == "FAILED"
            return Settled(error="FailedRun") if failed else Settled(value.value)
    return Settled(value + node.number + counted(values) if type(value) is int else value)


def _body(body: Body, in_task: bool = False) -> Any:
    scope: dict[int, Variable] = {}
    total = sum(_do(statement, scope) for statement in body.statements)
    made = [scope[var] for var in body.returned]
    ending = body.ending
    if ending == programs.FUTURES and in_task:
        return FinalState("COMPLETED", _result(made[0]))
    if ending in (programs.FUTURES, programs.STATES):
        return _returned(made, states=ending == programs.STATES)
    if ending == programs.COMPLETED_STATE:
        return FinalState("COMPLETED", total)
    if ending == programs.FAILED_STATE:
        return FinalState("FAILED", "FailedRun")
    if ending == programs.BROKEN:
        raise Raised("Broken")
    if ending == programs.CANCELLED_RUN:
        raise Raised("CancelledRun")
    return total


def _returned(made: list[Variable], states: bool) -> Any:
    """A flow that returns futures, or their states, fails with the first that did not complete."""
    flat = [each for one in made for each in (one if isinstance(one, list) else [one])]
    if states:
        for each in made:
            if isinstance(each, Missing):
                raise Raised("UpstreamTaskError")  # there are no states to return
    bad = [each for each in flat if each.error]
    if bad:
        return FinalState("FAILED", bad[0].error)
    values = [_values(each) for each in made]
    return FinalState("COMPLETED", values[0] if len(values) == 1 and not states else values)


def _values(made: Variable) -> Any:
    return [each.value for each in made] if isinstance(made, list) else made.value


class Missing(Settled):
    """A map whose items never came."""


def _do(statement: Statement, scope: dict[int, Variable]) -> int:
    if isinstance(statement, Submit):
        inputs = (*statement.inputs, *statement.wait_for)
        ready = all(_allows(scope[each.var], each.allowed) for each in inputs)
        values = [_input(scope, each) for each in statement.inputs]
        scope[statement.var] = _task(statement.node, values) if ready else NOT_STARTED
    elif isinstance(statement, Map):
        scope[statement.var] = _map(statement, scope)
    elif isinstance(statement, Call):
        if not all(_allows(scope[each.var], each.allowed) for each in statement.inputs):
            raise Raised("UpstreamTaskError")
        values = [_input(scope, each) for each in statement.inputs]
        return counted(_result(_task(statement.node, values)))
    elif isinstance(statement, Result):
        try:
            return counted(_result(scope[statement.var]))
        except Raised:
            if statement.caught:
                return FAILURE_COUNTS
            raise
    elif isinstance(statement, Subflow):
        return _subflow(statement, scope)
    else:
        assert isinstance(statement, Wait)  # nothing is cancelled here
    return 0


def _map(statement: Map, scope: dict[int, Variable]) -> Variable:
    over = statement.over
    open_ = all(_allows(scope[each.var], each.allowed) for each in statement.wait_for)
    if isinstance(over, int):
        items = [Settled(n) for n in range(over)]
        allowed = False
    else:
        source, allowed = scope[over.var], over.allowed
        if isinstance(source, Settled):
            if source.error:
                return Missing(error="UpstreamTaskError")
            items = [Settled(n) for n in source.value]
        else:
            items = source
    made: list[Settled] = []
    for item in items:
        ready = open_ and (allowed or not item.error)
        value = FAILURE_COUNTS if item.error else item.value
        made.append(_task(statement.node, [value]) if ready else NOT_STARTED)
    return made


def _subflow(statement: Subflow, scope: dict[int, Variable]) -> int:
    try:
        if not all(_allows(scope[each.var], each.allowed) for each in statement.inputs):
            raise Raised("UpstreamTaskError")
        values = [_input(scope, each) for each in statement.inputs]
        state = flow_state(statement.flow, values)
        if state.type != "COMPLETED":
            raise Raised(state.value)
        return counted(state.value)
    except Raised:
        if statement.caught:
            return FAILURE_COUNTS
        raise


def _allows(made: Variable, allowed: bool) -> bool:
    """Whether what depends on this may run."""
    if isinstance(made, Missing):
        return False
    flat = made if isinstance(made, list) else [made]
    return allowed or not any(each.error for each in flat)


def _input(scope: dict[int, Variable], given: Input) -> Any:
    made = scope[given.var]
    flat = made if isinstance(made, list) else [made]
    return [FAILURE_COUNTS if each.error else each.value for each in flat]


def _result(made: Variable) -> Any:
    flat = made if isinstance(made, list) else [made]
    for each in flat:
        if each.error:
            raise Raised(each.error)
    return _values(made)
