"""Random programs: what a flow and its tasks do, written down as data, drawn from a seed.

A body is a list of statements over variables; each variable is a future or the list of a map. The
interpreter runs them on the engine, the model says directly what they come to.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

LIST_LENGTH = 4
DEEPEST = 3
RUNS_WANTED = 80


@dataclass(frozen=True, slots=True)
class Node:
    """A call of a task: `number` plus the sum of its inputs, and of its body if it has one.

    Its first `fails` runs raise; `asks` is the answer of its retry condition. `count` makes it
    give a list of that length instead. Times are in seconds.
    """

    number: int
    fails: int = 0
    retries: int = 0
    delay: float = 0.0
    asks: bool | None = None
    timeout: float | None = None
    slot: bool = False
    count: int | None = None
    body: Body | None = None


@dataclass(frozen=True, slots=True)
class Input:
    """A variable as an argument; `allowed` wraps it in `allow_failure`."""

    var: int
    allowed: bool = False


@dataclass(frozen=True, slots=True)
class Submit:
    var: int
    node: Node
    inputs: tuple[Input, ...] = ()
    wait_for: tuple[Input, ...] = ()


@dataclass(frozen=True, slots=True)
class Map:
    """Over a list, over the items of a future, or over a range."""

    var: int
    node: Node
    over: Input | int
    wait_for: tuple[Input, ...] = ()


@dataclass(frozen=True, slots=True)
class Call:
    """A direct call, whose value counts."""

    node: Node
    inputs: tuple[Input, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """Block on a result, which counts; `caught` makes a failure count instead of raising it."""

    var: int
    caught: bool


@dataclass(frozen=True, slots=True)
class Wait:
    var: int
    timeout: float | None


@dataclass(frozen=True, slots=True)
class Cancel:
    var: int


@dataclass(frozen=True, slots=True)
class Subflow:
    """Call a flow, whose result counts; on a runner of its own, or on the caller's."""

    flow: FlowNode
    inputs: tuple[Input, ...]
    caught: bool


@dataclass(frozen=True, slots=True)
class FlowNode:
    """A flow: `number` plus what its body comes to; its first `fails` runs raise."""

    number: int
    body: Body
    own_runner: bool = True
    fails: int = 0
    retries: int = 0
    delay: float = 0.0


Statement = Submit | Map | Call | Result | Wait | Cancel | Subflow

TOTAL, FUTURES, STATES, COMPLETED_STATE, FAILED_STATE, BROKEN, CANCELLED_RUN = range(7)
"""How a body ends: with its total, futures, their states, a state of its own, or by raising."""


@dataclass(frozen=True, slots=True)
class Body:
    statements: tuple[Statement, ...]
    ending: int = TOTAL
    returned: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Program:
    """A flow, and whether the world is stormy: whether timeouts pass, and runs are cancelled."""

    seed: int
    stormy: bool
    flow: FlowNode


def random_program(seed: int) -> Program:
    """The program of a seed."""
    rng = Random(seed)
    return _Writer(rng, stormy=rng.random() < 0.5).program(seed)


class _Scope:
    """The variables of the body being written, by what they are."""

    def __init__(self) -> None:
        self.futures: list[int] = []
        self.counts: list[int] = []  # futures of lists
        self.lists: list[int] = []  # of maps whose items are known
        self.later: list[int] = []  # of maps whose items may not be known yet

    def every(self) -> list[int]:
        return self.futures + self.counts + self.lists + self.later


class _Writer:
    def __init__(self, rng: Random, stormy: bool) -> None:
        self.rng = rng
        self.stormy = stormy
        self.numbers = 0
        self.vars = 0
        self.left = RUNS_WANTED

    def program(self, seed: int) -> Program:
        return Program(seed, self.stormy, self.flow(0, own_runner=True))

    def flow(self, depth: int, own_runner: bool) -> FlowNode:
        rng = self.rng
        fails = rng.choice((0, 0, 0, 0, 1, 2))
        retries = rng.choice((0, 1, 2, 2)) if fails else rng.choice((0, 0, 0, 1))
        delay = rng.choice((0.0, 1.0, 3600.0))
        return FlowNode(
            self.number(), self.body(depth, in_task=False), own_runner, fails, retries, delay
        )

    def body(self, depth: int, in_task: bool) -> Body:
        rng, scope = self.rng, _Scope()
        count = rng.randint(1, 20 if depth == 0 else 5)
        written = [self.statement(depth, scope) for _ in range(count)]
        ending = TOTAL if rng.random() < 0.5 else rng.randint(TOTAL, CANCELLED_RUN)
        if in_task and ending in (STATES, CANCELLED_RUN):
            ending = TOTAL
        some = scope.every()
        if ending in (FUTURES, STATES) and not some:
            ending = TOTAL
        returned: tuple[int, ...] = ()
        if ending in (FUTURES, STATES):
            most = 1 if in_task else min(3, len(some))
            returned = tuple(rng.sample(some, rng.randint(1, most)))
        return Body(tuple(each for each in written if each is not None), ending, returned)

    def statement(self, depth: int, scope: _Scope) -> Statement | None:
        rng = self.rng
        draw = rng.random()
        if draw < 0.40 or not scope.every():
            return self.submit(depth, scope)
        if draw < 0.55:
            return self.map(depth, scope)
        if draw < 0.62:
            return Call(self.node(depth, direct=True), self.inputs(scope))
        if draw < 0.76:
            return Result(rng.choice(scope.every()), caught=rng.random() < 0.9)
        if draw < 0.82:
            return Wait(rng.choice(scope.every()), rng.choice((None, 0.5, 10.0)))
        if draw < 0.90:
            return Cancel(rng.choice(scope.every())) if self.stormy else None
        if depth < DEEPEST and self.left > 0:
            flow = self.flow(depth + 1, own_runner=rng.random() < 0.5)
            return Subflow(flow, self.inputs(scope), caught=rng.random() < 0.9)
        return None

    def submit(self, depth: int, scope: _Scope) -> Submit:
        node = self.node(depth)
        var = self.var()
        made = Submit(var, node, self.inputs(scope), self.inputs(scope, rarely=True))
        (scope.futures if node.count is None else scope.counts).append(var)
        return made

    def map(self, depth: int, scope: _Scope) -> Map:
        rng = self.rng
        over: Input | int
        draw = rng.random()
        known = scope.lists
        if scope.counts and draw < 0.4:
            over, known = Input(rng.choice(scope.counts)), scope.later
        elif scope.later and draw < 0.6:
            over, known = Input(rng.choice(scope.later)), scope.later
        elif scope.lists and draw < 0.8:
            over = Input(rng.choice(scope.lists), allowed=rng.random() < 0.3)
        else:
            over = rng.randint(0, LIST_LENGTH)
        var = self.var()
        made = Map(var, self.node(depth, mapped=True), over, self.inputs(scope, rarely=True))
        known.append(var)
        self.left -= 2
        return made

    def node(self, depth: int, mapped: bool = False, direct: bool = False) -> Node:
        rng = self.rng
        self.left -= 1
        fails = rng.choice((0, 0, 0, 0, 0, 0, 1, 1, 2, 3))
        retries = rng.choice((0, 1, 2, 3)) if fails else rng.choice((0, 0, 0, 2))
        delay = rng.choice((0.0, 0.0, 0.5, 5.0, 3600.0))
        asks = rng.choice((True, False)) if rng.random() < 0.1 else None
        number = self.number()
        if not mapped and not direct and rng.random() < 0.15:
            return Node(number, fails, retries, delay, asks, count=rng.randint(0, LIST_LENGTH))
        has_body = depth < DEEPEST and self.left > 0 and rng.random() < 0.2
        body = self.body(depth + 1, in_task=True) if has_body else None
        # Direct calls are ended by a signal, which is not the world's to send; and a world without
        # storms keeps each timeout, which it cannot for calls that wait for others.
        timed = not direct and rng.random() < 0.2 and (self.stormy or body is None)
        timeout = rng.choice((2.0, 8.0)) if timed else None
        # A direct call that waits to be tried again lies on the stack below others, and would keep
        # from them what it holds.
        slot = body is None and not direct and rng.random() < 0.2
        return Node(number, fails, retries, delay, asks, timeout, slot, None, body)

    def inputs(self, scope: _Scope, rarely: bool = False) -> tuple[Input, ...]:
        rng = self.rng
        if rng.random() < (0.85 if rarely else 0.35):
            return ()
        every = scope.every()
        chosen = rng.sample(every, min(len(every), rng.randint(1, 3)))
        later = scope.later
        return tuple(Input(var, rng.random() < 0.25 and var not in later) for var in chosen)

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    def var(self) -> int:
        self.vars += 1
        return self.vars
