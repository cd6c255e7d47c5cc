"""A program as text, to be read by who looks for what went wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

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

ENDINGS = (
    "return total",
    "return futures",
    "return states",
    "return Completed(total)",
    "return Failed()",
    "raise Broken",
    "raise CancelledRun",
)
_INDENT = "    "


def listing(program: Program) -> str:
    """The program, one statement a line."""
    weather = "stormy" if program.stormy else "calm"
    return "\n".join((f"# seed {program.seed}, {weather}", *_flow(program.flow)))


def _flow(flow: FlowNode) -> Iterator[str]:
    runner = "own runner" if flow.own_runner else "the caller's runner"
    yield f"flow {flow.number} on {runner}{_options(flow, ('fails', 'retries', 'delay'))}:"
    yield from _body(flow.body)


def _body(body: Body) -> Iterator[str]:
    for statement in body.statements:
        for line in _statement(statement):
            yield _INDENT + line
    returned = " ".join(f"v{var}" for var in body.returned)
    yield f"{_INDENT}{ENDINGS[body.ending]} {returned}".rstrip()


def _statement(statement: Statement) -> Iterator[str]:
    if isinstance(statement, Submit):
        waits = _inputs(statement.wait_for, ", wait_for=")
        yield f"v{statement.var} = submit({_node(statement.node)}{_inputs(statement.inputs)}{waits})"
        yield from _nested(statement.node)
    elif isinstance(statement, Map):
        over = statement.over
        items = f"range({over})" if isinstance(over, int) else _input(over)
        waits = _inputs(statement.wait_for, ", wait_for=")
        yield f"v{statement.var} = map({_node(statement.node)}, over {items}{waits})"
        yield from _nested(statement.node)
    elif isinstance(statement, Call):
        yield f"total += call({_node(statement.node)}{_inputs(statement.inputs)})"
        yield from _nested(statement.node)
    elif isinstance(statement, Subflow):
        caught = ", caught" if statement.caught else ""
        inputs = _inputs(statement.inputs, "")
        yield f"total += subflow {statement.flow.number}({inputs}){caught}"
        yield from _flow(statement.flow)
    elif isinstance(statement, Result):
        yield f"total += v{statement.var}.result(){', caught' if statement.caught else ''}"
    elif isinstance(statement, Wait):
        yield f"v{statement.var}.wait({statement.timeout})"
    else:
        assert isinstance(statement, Cancel)  # the last there is
        yield f"v{statement.var}.cancel()"


def _nested(node: Node) -> Iterator[str]:
    if node.body is not None:
        yield from _body(node.body)


def _node(node: Node) -> str:
    names = tuple(each.name for each in fields(node) if each.name not in ("number", "body"))
    return f"{node.number}{_options(node, names)}"


def _options(node: Node | FlowNode, names: tuple[str, ...]) -> str:
    values = {name: getattr(node, name) for name in names}
    return "".join(
        f" {name}={value}" for name, value in values.items() if value is not None and value != 0
    )


def _inputs(inputs: tuple[Input, ...], before: str = ", ") -> str:
    return f"{before}[{', '.join(map(_input, inputs))}]" if inputs else ""


def _input(given: Input) -> str:
    return f"allow_failure(v{given.var})" if given.allowed else f"v{given.var}"
