"""The tracker against a small model: random orders of events, and what must hold after each."""

from __future__ import annotations

import types
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anabranch.engine.admission import Admission
from anabranch.engine.tracker import Commands, Group, Tally, Timer, Tracker
from anabranch.errors import CancelledRun, UpstreamTaskError
from anabranch.futures import TaskFuture
from anabranch.outcomes import (
    CANCELLED,
    CANCELLING,
    COMPLETED,
    CRASHED,
    FAILED,
    NOT_READY,
    QUEUED,
    RETRY_WAIT,
    RUNNING,
    SETTLED,
    SLOT_WAIT,
    TIMED_OUT,
    WAITING,
    Outcome,
)

FAST = settings(
    derandomize=True,
    deadline=None,
    max_examples=300,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def spec_of(resources: dict[str, float], timeout: float | None = None) -> Any:
    return types.SimpleNamespace(
        resources=resources, hooks={}, special=bool(resources), timeout=timeout, priority=0
    )


class Shared:
    """What a submission is to the tracker."""

    def __init__(self, group: Group, spec: Any, admission: Admission) -> None:
        self.group = group
        self.spec = spec
        self.admission = admission
        self.special = spec.special
        self.limits: tuple[str, ...] = ()
        self.tally = Tally("work")
        self.visible = True

    def name_of(self, future: Any) -> str:
        return f"run-{future._key}"

    def id_of(self, future: Any) -> str:
        return str(future._key)


class World:
    """A tracker, what it was told, and what it said, kept by the simplest means there are."""

    def __init__(self, slots: int = 2, worker_deaths_allowed: int = 2) -> None:
        self.tracker = Tracker(worker_deaths_allowed=worker_deaths_allowed)
        self.group = Group()
        self.admission = Admission({"slot": slots})
        self.slots = slots
        self.plain = Shared(self.group, spec_of({}), self.admission)
        self.heavy = Shared(self.group, spec_of({"slot": 1}), self.admission)
        self.timed = Shared(self.group, spec_of({}, timeout=1.0), self.admission)
        self.runs: list[Any] = []
        self.blockers: dict[Any, dict[Any, bool]] = {}
        self.open_attempts: list[tuple[Any, int]] = []  # launched, no outcome told yet
        self.old_outcomes: list[Outcome] = []
        self.timers: list[Timer] = []
        self.settled_as: dict[Any, tuple[int, Outcome]] = {}
        self.launches: dict[Any, int] = {}
        self.wakes: dict[Any, int] = {}
        self.now = 0.0

    # -- events

    def submit(self, shared: Shared, blockers: dict[Any, bool], awaited: bool = False) -> Any:
        run: Any = TaskFuture(shared, len(self.runs) + 1, ((),))  # type: ignore[arg-type]
        self.runs.append(run)
        self.blockers[run] = dict(blockers)
        commands = Commands()
        if blockers:
            self.tracker.submitted_linked(run, blockers, self.now, commands)
        else:
            self.tracker.submitted([run], commands)
        self.obey(commands)
        return run

    def start(self, run: Any, attempt: int) -> None:
        commands = Commands()
        self.tracker.started(run._key, attempt, self.now, commands)
        self.obey(commands)

    def tell(self, outcome: Outcome, retry_in: float | None = None) -> None:
        commands = Commands()
        if outcome.phase == COMPLETED:
            self.tracker.completed([outcome], commands)
        else:
            self.tracker.failed(outcome, retry_in, self.now, commands)
        self.old_outcomes.append(outcome)
        self.obey(commands)

    def ring(self, timer: Timer) -> None:
        commands = Commands()
        passed = self.tracker.due(timer, self.now, commands)
        self.obey(commands)
        if passed is not None:
            self.tell(Outcome(passed._key, timer.attempt, TIMED_OUT, TimeoutError(), self.now, 1.0))

    def cancel(self, runs: list[Any]) -> int:
        commands = Commands()
        count = self.tracker.cancel(runs, self.now, 1.0, commands)
        self.obey(commands)
        return count

    # -- what the tracker says

    def obey(self, commands: Commands) -> None:
        self.now += 1.0
        for run in [*commands.submitted, *commands.launches]:
            if run._phase == QUEUED:
                self.check_startable(run)
            self.launches[run] = self.launches.get(run, 0) + 1
            self.open_attempts.append((run, run._attempt))
        self.timers += commands.timers
        for run, waiters in commands.wakes:
            self.wakes[run] = self.wakes.get(run, 0) + len(waiters)
        self.check()

    def check_startable(self, run: Any) -> None:
        for blocker, allowed in self.blockers[run].items():
            assert blocker._phase >= SETTLED, f"{run} starts before {blocker} settled"
            assert allowed or blocker._phase == COMPLETED, f"{run} starts after {blocker} failed"

    def check(self) -> None:
        unsettled = [run for run in self.runs if run._phase < SETTLED]
        assert set(self.tracker.live.values()) == set(unsettled)
        assert self.group.unsettled == len(unsettled)
        for run in self.runs:
            if run._phase >= SETTLED:
                assert run._outcome is not None
                now = (run._phase, run._outcome)
                before = self.settled_as.setdefault(run, now)
                assert before[0] == now[0] and before[1] is now[1], f"{run} settled twice"
                assert run._inputs is None
            else:
                assert run not in self.settled_as, f"{run} came back"
        failures = sum(run._phase > NOT_READY and run._phase != COMPLETED for run in self.runs)
        failures += sum(run._phase == NOT_READY for run in self.runs)
        assert self.group.failures == failures
        assert len(self.group.failed) == min(failures, Group.FAILED_KEPT)
        for shared in (self.plain, self.heavy, self.timed):
            own = [run for run in self.runs if run._shared is shared]
            counts = [0] * len(shared.tally.counts)
            for run in own:
                counts[run._phase] += 1
            assert shared.tally.counts == counts
        held = sum(
            run._shared is self.heavy and run._phase in (QUEUED, RUNNING, CANCELLING)
            for run in self.runs
        )
        assert held <= self.slots
        assert self.admission._free["slot"] == self.slots - held

    def check_never_started(self) -> None:
        for run, blockers in self.blockers.items():
            bad = [b for b, allowed in blockers.items() if not allowed and b._phase != COMPLETED]
            if bad and all(blocker._phase >= SETTLED for blocker in bad):
                assert run not in self.launches, f"{run} ran although {bad} did not complete"
                assert run._phase in (NOT_READY, CANCELLED)

    def drain(self) -> None:
        """Let all that is left come to its end."""
        for _ in range(10_000):
            if not self.group.unsettled:
                return
            if self.open_attempts:
                run, attempt = self.open_attempts.pop(0)
                self.tell(Outcome(run._key, attempt, COMPLETED, 1, self.now, 0.1))
            else:
                assert self.timers, f"stuck: {[r for r in self.runs if r._phase < SETTLED]}"
                self.ring(self.timers.pop(0))
        raise AssertionError("it never ends")


EVENTS = (
    "submit",
    "submit",
    "start",
    "complete",
    "complete",
    "fail",
    "retry",
    "lose",
    "ring",
    "cancel",
    "late",
    "cancel_all",
)


@FAST
@given(st.data())
def test_random_orders_of_events(data: st.DataObject) -> None:
    world = World(slots=data.draw(st.integers(1, 3)))
    for event in data.draw(st.lists(st.sampled_from(EVENTS), max_size=60)):
        act(world, event, data)
    world.drain()
    world.check_never_started()
    assert world.group.unsettled == 0
    assert world.tracker.live == {}
    assert world.admission._free["slot"] == world.slots
    assert set(world.settled_as) == set(world.runs)
    # What comes late changes nothing.
    before = [(run, run._phase, run._outcome, run._attempt) for run in world.runs]
    for run, attempt in world.open_attempts:
        world.tell(Outcome(run._key, attempt, COMPLETED, 2, world.now, 0.1))
        world.tell(Outcome(run._key, attempt, FAILED, ValueError(), world.now, 0.1), 0.0)
        world.start(run, attempt)
    for timer in world.timers:
        world.ring(timer)
    assert world.cancel(world.runs) == 0
    assert before == [(run, run._phase, run._outcome, run._attempt) for run in world.runs]


def act(world: World, event: str, data: st.DataObject) -> None:
    if event == "submit":
        several = (
            st.lists(st.tuples(st.sampled_from(world.runs), st.booleans()), max_size=4)
            if world.runs
            else st.just([])
        )
        blockers = dict(data.draw(several))
        shared = data.draw(st.sampled_from([world.plain, world.heavy, world.timed]))
        world.submit(shared, blockers)
    elif event in ("start", "complete", "fail", "retry", "lose") and world.open_attempts:
        number = data.draw(st.integers(0, len(world.open_attempts) - 1))
        run, attempt = world.open_attempts[number]
        if event == "start":
            world.start(run, attempt)
            return
        del world.open_attempts[number]
        if event == "complete":
            world.tell(Outcome(run._key, attempt, COMPLETED, 1, world.now, 0.1))
        elif event == "lose":
            error = OSError("lost")
            world.tell(Outcome(run._key, attempt, CRASHED, error, world.now, 0.1, lost=True))
        else:
            phase = data.draw(st.sampled_from([FAILED, CRASHED, CANCELLED]))
            retry_in = 1.0 if event == "retry" else None
            world.tell(Outcome(run._key, attempt, phase, ValueError(), world.now, 0.1), retry_in)
    elif event == "ring" and world.timers:
        number = data.draw(st.integers(0, len(world.timers) - 1))
        world.ring(world.timers.pop(number))
    elif event == "cancel" and world.runs:
        run = data.draw(st.sampled_from(world.runs))
        expected = run._phase < SETTLED
        assert world.cancel([run]) == expected
    elif event == "cancel_all":
        members = world.tracker.members(world.group)
        assert world.cancel(members) >= 0
    elif event == "late" and world.old_outcomes:
        outcome = data.draw(st.sampled_from(world.old_outcomes))
        run = world.runs[outcome.key - 1]
        phase, its = run._phase, run._outcome
        if phase >= SETTLED or run._attempt != outcome.attempt:  # else it would not be late
            world.tell(outcome)
            assert (run._phase, run._outcome) == (phase, its)


@FAST
@given(st.data())
def test_dependents_run_in_order_or_not_at_all(data: st.DataObject) -> None:
    """Any graph, any of it failing: what completes is what has only completed above it."""
    world = World()
    count = data.draw(st.integers(1, 25))
    fails = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    for _ in range(count):
        above = st.lists(st.sampled_from(world.runs), unique=True, max_size=3)
        blockers = data.draw(above) if world.runs else []
        world.submit(world.plain, dict.fromkeys(blockers, False))
    while world.open_attempts:
        number = data.draw(st.integers(0, len(world.open_attempts) - 1))
        run, attempt = world.open_attempts.pop(number)
        bad = fails[run._key - 1]
        phase, value = (FAILED, ValueError()) if bad else (COMPLETED, 1)
        world.tell(Outcome(run._key, attempt, phase, value, world.now, 0.1))
    expected: dict[Any, int] = {}
    for run in world.runs:
        above = [expected[blocker] for blocker in world.blockers[run]]
        if any(phase != COMPLETED for phase in above):
            expected[run] = NOT_READY
        else:
            expected[run] = FAILED if fails[run._key - 1] else COMPLETED
    assert {run: run._phase for run in world.runs} == expected
    assert world.group.unsettled == 0
    for run in world.runs:
        assert world.launches.get(run, 0) == (expected[run] != NOT_READY)


@FAST
@given(st.lists(st.sampled_from(["retry", "lose", "late", "start"]), max_size=12))
def test_attempts_go_up_by_one_and_old_ones_are_late(events: list[str]) -> None:
    world = World(worker_deaths_allowed=100)
    run = world.submit(world.plain, {})
    attempt = 1
    for event in events:
        if event == "start":
            world.start(run, attempt)
            assert run._phase == RUNNING
        elif event == "late" and attempt > 1:
            world.tell(Outcome(run._key, attempt - 1, COMPLETED, "old", world.now, 0.1))
            assert run._phase < SETTLED
        elif event == "retry":
            world.tell(Outcome(run._key, attempt, FAILED, ValueError(), world.now, 0.1), 1.0)
            assert run._phase == RETRY_WAIT
            attempt += 1
            assert run._attempt == attempt
            timer = world.timers.pop()
            world.ring(timer)
            world.ring(timer)  # a second ring is one too many
            assert run._phase == QUEUED
        elif event == "lose":
            world.tell(Outcome(run._key, attempt, CRASHED, OSError(), world.now, 0.1, lost=True))
            attempt += 1
            assert (run._phase, run._attempt) == (QUEUED, attempt)
    assert world.launches[run] == attempt
    world.tell(Outcome(run._key, attempt, COMPLETED, "new", world.now, 0.1))
    assert (run._phase, run._outcome.value) == (COMPLETED, "new")


# -- single cases ---------------------------------------------------------------------------------


def test_a_worker_may_die_so_many_times_and_no_more() -> None:
    world = World(worker_deaths_allowed=2)
    run = world.submit(world.plain, {})
    for attempt in (1, 2, 3):
        assert run._phase == QUEUED
        lost = Outcome(run._key, attempt, CRASHED, OSError(), world.now, 0.1, lost=True)
        world.tell(lost)
    assert run._phase == CRASHED


def test_not_ready_says_what_stood_in_the_way() -> None:
    world = World()
    first = world.submit(world.plain, {})
    second = world.submit(world.plain, {first: False})
    third = world.submit(world.plain, {second: False})
    cause = ValueError("x")
    world.tell(Outcome(first._key, 1, FAILED, cause, world.now, 0.1))
    error = second._outcome.value
    assert isinstance(error, UpstreamTaskError)
    assert (error.run_name, error.upstream_name, error.upstream_state) == (
        "run-2",
        "run-1",
        "Failed",
    )
    assert error.__cause__ is cause
    assert third._outcome.value.upstream_state == "NotReady"


def test_submitting_behind_what_failed_already() -> None:
    world = World()
    first = world.submit(world.plain, {})
    world.tell(Outcome(first._key, 1, FAILED, ValueError(), world.now, 0.1))
    assert world.submit(world.plain, {first: False})._phase == NOT_READY
    assert world.submit(world.plain, {first: True})._phase == QUEUED


def test_cancelling_what_runs_waits_for_its_outcome_or_the_grace_period() -> None:
    world = World()
    runs = [world.submit(world.plain, {}) for _ in range(2)]
    dependent = world.submit(world.plain, {runs[0]: False})
    assert world.cancel(runs) == 2
    assert [run._phase for run in runs] == [CANCELLING] * 2
    assert dependent._phase == WAITING
    world.tell(Outcome(runs[0]._key, 1, COMPLETED, "dropped", world.now, 0.1))
    assert runs[0]._phase == CANCELLED
    assert isinstance(runs[0]._outcome.value, CancelledRun)
    assert dependent._phase == NOT_READY
    for timer in list(world.timers):
        world.ring(timer)
    assert runs[1]._phase == CANCELLED


def test_slots_are_handed_on_in_order() -> None:
    world = World(slots=1)
    runs = [world.submit(world.heavy, {}) for _ in range(3)]
    assert [run._phase for run in runs] == [QUEUED, SLOT_WAIT, SLOT_WAIT]
    world.tell(Outcome(runs[0]._key, 1, FAILED, ValueError(), world.now, 0.1), 5.0)
    assert [run._phase for run in runs] == [RETRY_WAIT, QUEUED, SLOT_WAIT]
    world.cancel([runs[2]])
    world.tell(Outcome(runs[1]._key, 1, COMPLETED, 1, world.now, 0.1))
    assert [run._phase for run in runs] == [RETRY_WAIT, COMPLETED, CANCELLED]
    world.ring(world.timers[0])
    assert runs[0]._phase == QUEUED


def test_a_long_chain_settles_without_recursion() -> None:
    world = World()
    first = run = world.submit(world.plain, {})
    shared = world.plain
    last = None
    for key in range(2, 20_000):
        last = TaskFuture(shared, key, ((),))  # type: ignore[arg-type]
        world.tracker.submitted_linked(last, {run: False}, 0.0, Commands())
        run = last
    world.tracker.failed(
        Outcome(first._key, 1, FAILED, ValueError(), 0.0, 0.1), None, 0.0, Commands()
    )
    assert last is not None and last._phase == NOT_READY
    assert world.group.unsettled == 0


def test_groups_know_what_is_below_them() -> None:
    world = World()
    below = Group(world.group)
    inner = Shared(below, spec_of({}), world.admission)
    outside = Group()
    outer = Shared(outside, spec_of({}), world.admission)
    made = []
    for key, shared in enumerate((world.plain, inner, outer), start=1):
        run = TaskFuture(shared, key, ((),))  # type: ignore[arg-type]
        world.tracker.submitted([run], Commands())
        made.append(run)
    assert world.tracker.members(world.group) == made[:2]
    assert world.tracker.members(below) == made[1:2]


def test_emptied_groups_are_told_once() -> None:
    world = World()
    first = world.submit(world.plain, {})
    second = world.submit(world.plain, {})
    world.group.waiters.append(lambda: None)
    for run, expected in ((first, 0), (second, 1)):
        commands = Commands()
        world.tracker.completed([Outcome(run._key, 1, COMPLETED, 1, 0.0, 0.1)], commands)
        assert len(commands.emptied) == expected
