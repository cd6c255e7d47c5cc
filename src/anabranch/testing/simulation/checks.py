"""What must hold of every program once it has ended, and what the engine told meanwhile."""

# pyright: reportPrivateUsage=false
# The records of the engine's runs are private to users, and what is checked here.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

from anabranch.engine.engine import Engine
from anabranch.events import Event, FlowRunChanged, TaskRunChanged, TaskRunsSubmitted
from anabranch.futures import FutureList, TaskFuture
from anabranch.outcomes import (
    CANCELLED,
    COMPLETED,
    CRASHED,
    FAILED,
    NOT_READY,
    PHASE_STATES,
    SETTLED,
    TIMED_OUT,
)
from anabranch.testing.simulation import model
from anabranch.testing.simulation.interpreter import (
    FAILURE_COUNTS,
    Interpreter,
    Record,
    completed,
    counted,
)
from anabranch.testing.simulation.world import LATE, World

DEATHS_ALLOWED = 2
"""Workers that may die under one run before it counts as crashed: the tracker's number."""

Run = TaskFuture[Any]


class Recorder:
    """A subscriber to everything; notes at once what must not happen."""

    phases = frozenset(range(len(PHASE_STATES)))
    submissions = True

    def __init__(self) -> None:
        self.runs: dict[int, Run] = {}
        self.settled: dict[int, int] = {}
        self.losses: dict[int, int] = {}
        self.told: list[str] = []
        self.wrong: list[str] = []

    def receive(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, TaskRunsSubmitted):
                self.runs.update((run._key, run) for run in event.runs)
                self.told.append(f"submitted {len(event.runs)}")
            elif isinstance(event, TaskRunChanged):
                self._changed(event)
            elif isinstance(event, FlowRunChanged):
                self.told.append(f"flow {event.state.name}")

    def close(self) -> None:
        """Nothing is held back."""

    def _changed(self, event: TaskRunChanged) -> None:
        key, phase = event.run._key, event.phase
        self.told.append(f"{key} {PHASE_STATES[phase][1]} at {event.at:g}")
        if key in self.settled:
            before = PHASE_STATES[self.settled[key]][1]
            self.wrong.append(f"{event.run.name} was {before}, then {PHASE_STATES[phase][1]}")
        if phase >= SETTLED:
            self.settled[key] = phase
        if event.outcome is not None and event.outcome.lost:
            self.losses[key] = self.losses.get(key, 0) + 1


def all_wrong(
    interpreter: Interpreter, world: World, engine: Engine, recorder: Recorder, state: Any
) -> list[str]:
    """What does not hold, in words; empty where all does."""
    wrong = [*world.wrong, *recorder.wrong]
    if world.stuck is not None:
        wrong.append(f"it hangs: {world.stuck}")
        return wrong
    wrong += _unsettled(engine, recorder)
    wrong += _miscounted(engine, recorder)
    for record in interpreter.records:
        for run, its in _runs_of(record):
            told = _wrong_with(run, its, record, interpreter, world, recorder)
            wrong += [f"{run.name}, node {record.node.number}: {each}" for each in told]
    if not interpreter.program.stormy:
        expected = model.flow_state(interpreter.program.flow)
        found = _final(state)
        if found != expected:
            wrong.append(f"the flow ended as {found}; the model says {expected}")
    wrong += _changed_by_late_news(world, recorder)
    return wrong


def _final(state: Any) -> model.FinalState:
    value = state.data
    if not state.is_completed():
        value = type(state.exception()).__name__
    return model.FinalState(state.type.value, value)


def _unsettled(engine: Engine, recorder: Recorder) -> Iterator[str]:
    if engine._tracker.live:
        yield f"the flow ended before {[run.name for run in engine._tracker.live.values()]}"
    for run in recorder.runs.values():
        if run._phase < SETTLED:
            yield f"{run.name} was left {PHASE_STATES[run._phase][1]}"
        elif recorder.settled.get(run._key) != run._phase:
            yield f"{run.name} is {PHASE_STATES[run._phase][1]}, which was not told"


def _miscounted(engine: Engine, recorder: Recorder) -> Iterator[str]:
    counts = [0] * len(PHASE_STATES)
    for run in recorder.runs.values():
        counts[run._phase] += 1
    for name, tally in engine.intake.tallies.items():
        if tally.counts != counts:
            yield f"the tally of {name} has {tally.counts}, and there are {counts}"


def _runs_of(record: Record) -> Iterator[tuple[Run, list[tuple[Any, bool]]]]:
    """The runs of a submit or map, each with what it depends on; none of a map without items."""
    if isinstance(record.made, TaskFuture):
        yield record.made, record.blockers
        return
    if not record.made.is_known():
        return
    over: Any = record.over
    sources: list[Any] = [] if over is None or isinstance(over, int | TaskFuture) else list(over)
    for number, run in enumerate(record.made):
        own = [(sources[number], record.over_allowed)] if sources else []
        yield run, record.blockers + own


def _wrong_with(
    run: Run,
    blockers: list[tuple[Any, bool]],
    record: Record,
    interpreter: Interpreter,
    world: World,
    recorder: Recorder,
) -> Iterator[str]:
    key, phase = run._key, run._phase
    node = record.node
    began = interpreter.began.get(key, 0)
    losses = recorder.losses.get(key, 0)
    used = run._attempt - losses  # attempts that count against its retries
    name = PHASE_STATES[phase][1]
    cancellable = record.cancel_asked or record.flow.may_cancel() or world.interrupted
    upstream_failed = any(not allowed and not completed(made) for made, allowed in blockers)
    if upstream_failed and began:
        yield "it began though what it depends on did not complete"
    if upstream_failed and phase not in (NOT_READY, CANCELLED):
        yield f"it is {name} though what it depends on did not complete"
    if phase == NOT_READY and not upstream_failed and not _missing(blockers):
        yield "it is NotReady though all that it depends on completed"
    if phase not in interpreter.to_cancel.get(key, (phase,)):
        yield f"it is {name}, and was to be cancelled"
    if phase == CANCELLED and not cancellable and node.body is None:
        yield "it is Cancelled, and nobody asked for that"
    if used > 1 + node.retries:
        yield f"attempt {run._attempt}, {losses} lost, with {node.retries} retries"
    if began > run._attempt:
        yield f"its function ran {began} times in {run._attempt} attempts"
    if phase == CRASHED and losses <= DEATHS_ALLOWED:
        yield f"it is Crashed after {losses} losses"
    if phase == TIMED_OUT and node.timeout is None:
        yield "it is TimedOut, and has no timeout"
    if phase in (FAILED, TIMED_OUT) and node.asks is not False and used != 1 + node.retries:
        yield f"it is {name} after {used} attempts, with {node.retries} retries"
    if phase == FAILED and node.body is None and not node.fails:
        yield f"it is Failed with {run._outcome}"
    if not world.stormy and not cancellable and node.body is None and not upstream_failed:
        retries = 0 if node.asks is False else node.retries
        expected = FAILED if node.fails > retries else COMPLETED
        if phase != expected:
            yield f"it is {name}, not {PHASE_STATES[expected][1]}"
    if phase == COMPLETED:
        yield from _wrong_value(run, record, interpreter)


def _missing(blockers: list[tuple[Any, bool]]) -> bool:
    return any(isinstance(made, FutureList) and not made.is_known() for made, _ in blockers)


def _wrong_value(run: Run, record: Record, interpreter: Interpreter) -> Iterator[str]:
    node, value = record.node, run.result()
    if value == LATE:
        yield "a late outcome became its value"
    elif node.count is not None:
        if value != list(range(node.count)):
            yield f"its value is {value!r}"
    elif node.body is not None:
        came_to = interpreter.came_to.get(run._key)
        if not came_to:
            yield "it completed, and its body never did"
    else:
        expected = node.number + sum(map(_worth, record.inputs)) + _item_of(run, record)
        if value != expected:
            yield f"its value is {value}, not {expected}"


def _worth(made: Any) -> int:
    """What a settled future, or a list, adds to a sum."""
    if isinstance(made, FutureList):
        return sum(_worth(each) for each in cast(Any, made))
    return counted(made.result()) if completed(made) else FAILURE_COUNTS


def _item_of(run: Run, record: Record) -> int:
    """What the item of a map's child adds."""
    if record.over is None:
        return 0
    made: list[Run] = list(cast(Any, record.made))
    over: Any = record.over
    number = made.index(run)
    return number if isinstance(over, int | TaskFuture) else _worth(over[number])


def _changed_by_late_news(world: World, recorder: Recorder) -> Iterator[str]:
    """All is told once more after the end, and changes nothing."""
    before = [(run, run._phase, run._outcome, run._attempt) for run in recorder.runs.values()]
    said = len(recorder.told)
    world.let_all_arrive()
    for run, phase, outcome, attempt in before:
        if (run._phase, run._outcome, run._attempt) != (phase, outcome, attempt):
            yield f"{run.name} was changed by what came after the end"
    for told in recorder.told[said:]:
        yield f"told after the end: {told}"
