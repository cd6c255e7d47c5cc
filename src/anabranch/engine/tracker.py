"""Which run may start, and what each event means for the others: pure, with no clock and no I/O.

Events come in as method calls; what has to be done about them goes out as `Commands`. The caller
holds a lock around each event, and carries the commands out after letting it go.
"""

# pyright: reportPrivateUsage=false
# The engine's rooms share the slots of the run record, which are private to users.

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from anabranch.engine.admission import Admission
from anabranch.errors import CancelledRun, UpstreamTaskError
from anabranch.events import TaskRunChanged
from anabranch.futures import Done, Links, TaskFuture
from anabranch.outcomes import (
    CANCELLED,
    CANCELLING,
    COMPLETED,
    CRASHED,
    DORMANT,
    NOT_READY,
    PHASE_STATES,
    QUEUED,
    RECORDING,
    RETRY_WAIT,
    RUNNING,
    SETTLED,
    SLOT_WAIT,
    TIMED_OUT,
    WAITING,
    Outcome,
)

Run = TaskFuture[Any]


class Tally:
    """How many runs of one task are in each phase: `counts[phase]`."""

    __slots__ = ("counts", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.counts = [0] * len(PHASE_STATES)

    @property
    def total(self) -> int:
        return sum(self.counts)


class Group:
    """The task runs of one flow run, counted.

    `closing` refuses new runs. `failed` names the first runs that did not complete, `failures`
    counts them all.
    """

    __slots__ = ("closing", "failed", "failures", "parent", "unsettled", "waiters")

    FAILED_KEPT = 100

    def __init__(self, parent: Group | None = None) -> None:
        self.parent = parent
        self.unsettled = 0
        self.closing = False
        self.failures = 0
        self.failed: list[Run] = []
        self.waiters: list[Callable[[], None]] = []

    def within(self, group: Group) -> bool:
        """Whether this is that group or below it."""
        own: Group | None = self
        while own is not None and own is not group:
            own = own.parent
        return own is not None


class Timer(NamedTuple):
    """Tell the tracker with `due` once `delay` seconds have passed."""

    run: Run
    attempt: int
    phase: int
    delay: float
    others: tuple[tuple[Run, int], ...] = ()
    """Further runs with their attempts, since many are cancelled at once."""


class Commands:
    """What has to be done after an event, in no order but that within each list."""

    __slots__ = (
        "cancels",
        "changes",
        "emptied",
        "gated",
        "hooks",
        "launches",
        "released",
        "settled",
        "submitted",
        "timers",
        "wakes",
    )

    def __init__(self) -> None:
        self.launches: list[Run] = []
        self.submitted: Sequence[
            Run
        ] = ()  # to be launched too: those of one submission, with no links
        self.cancels: list[Run] = []
        self.timers: list[Timer] = []
        self.wakes: list[tuple[Run, list[Done]]] = []
        self.hooks: list[tuple[Run, str, Outcome | None]] = []
        self.changes: list[TaskRunChanged] = []
        self.emptied: list[Group] = []
        self.settled: list[Run] = []  # to be recorded
        self.released: list[Run] = []  # from the limits by their tags, those first
        self.gated: list[Run] = []  # until `admitted`


class Tracker:
    """The runs that have not settled, and how they depend on each other.

    `wanted` holds the phases whose changes someone listens to. With `records`, runs that come to an
    outcome are told as `settled`; with `strict` they wait there until they were `recorded`.
    `worker_deaths_allowed` is how many workers may die under one run before it counts as crashed.
    """

    def __init__(
        self,
        wanted: frozenset[int] = frozenset(),
        worker_deaths_allowed: int = 2,
        *,
        records: bool = False,
        strict: bool = False,
    ) -> None:
        self.live: dict[int, Run] = {}
        self._wanted = wanted
        self._deaths_allowed = worker_deaths_allowed
        self._records = records
        self._strict = strict

    # -- events ---------------------------------------------------------------------------------

    def submitted(self, runs: Sequence[Run], commands: Commands) -> None:
        """New runs of one submission that wait for nothing."""
        shared = _shared(runs[0])
        shared.group.unsettled += len(runs)
        self.live.update(zip([run._key for run in runs], runs, strict=True))
        if shared.spec.resources or shared.limits:
            shared.tally.counts[WAITING] += len(runs)
            for run in runs:
                self._ready(run, commands)
            return
        shared.tally.counts[QUEUED] += len(runs)
        for run in runs:
            run._phase = QUEUED
        commands.submitted = runs

    def submitted_plain(self, run: Run) -> None:
        """A single new run that waits for nothing, not even a resource, and is being launched."""
        shared: Any = run._shared
        shared.group.unsettled += 1
        self.live[run._key] = run
        shared.tally.counts[QUEUED] += 1
        run._phase = QUEUED

    def submitted_linked(
        self, run: Run, blockers: Mapping[Run, bool], at: float, commands: Commands
    ) -> None:
        """A new run that waits for others; for each, whether its failure is allowed."""
        shared = _shared(run)
        shared.group.unsettled += 1
        shared.tally.counts[WAITING] += 1
        self.live[run._key] = run
        run._links = run._links or Links()
        self._wait_for(run, blockers, at, commands)

    def resolved(
        self, run: Run, blockers: Mapping[Run, bool], at: float, commands: Commands
    ) -> None:
        """A run about to be launched turned out to wait for more."""
        if run._phase == QUEUED and run._key in self.live:
            self._leave_slot(run, commands)
            self._move(run, WAITING)
            self._wait_for(run, blockers, at, commands)

    def admitted(self, run: Run, attempt: int, commands: Commands) -> None:
        """A gated run has the slots of the limits by its tags; or is too late for them."""
        if self.live.get(run._key) is run and (run._phase, run._attempt) == (SLOT_WAIT, attempt):
            self._enter(run, commands)

    def started(self, key: int, attempt: int, at: float, commands: Commands) -> None:
        """A runner began an attempt."""
        run = self.live.get(key)
        if run is None or run._attempt != attempt or run._phase != QUEUED:
            return
        self._move(run, RUNNING)
        self._told(run, RUNNING, at, None, commands)
        spec = _shared(run).spec
        if spec.timeout is not None:
            commands.timers.append(Timer(run, attempt, TIMED_OUT, spec.timeout))
        if "on_running" in spec.hooks:
            commands.hooks.append((run, "on_running", None))

    def completed(self, outcomes: Iterable[Outcome], commands: Commands) -> None:
        """Attempts that gave a value."""
        if self._strict:
            for outcome in outcomes:
                self._keep(outcome, commands)
        else:
            self._complete(outcomes, commands)

    def _complete(self, outcomes: Iterable[Outcome], commands: Commands) -> None:
        """This is the hot path: one turn of the loop a task run."""
        live = self.live
        told = COMPLETED in self._wanted
        settled = commands.settled if self._records and not self._strict else None
        for outcome in outcomes:
            run = live.get(outcome[0])
            if run is None or run._attempt != outcome[1]:
                continue  # settled before: by a timeout, or by a cancellation
            if run._phase == CANCELLING:
                self._settle(run, _cancelled(run, outcome), commands)
                continue
            shared: Any = run._shared
            self._completes(run, outcome, shared)
            if settled is not None and shared.visible:
                settled.append(run)
            group = shared.group
            if told and shared.visible:
                commands.changes.append(
                    TaskRunChanged(run, COMPLETED, outcome.started + outcome.seconds, outcome)
                )
            if run._links is not None:
                run._links.blockers = ()
                self._release(run, outcome.started + outcome.seconds, commands)
            if shared.special:
                self._after(run, outcome, commands)
            if group.waiters and not group.unsettled:
                commands.emptied.append(group)

    def completed_alone(self, outcome: Outcome) -> Run | None:
        """The same for one attempt after which nothing is left to do but to record it; the run, or
        None where there is more to it, or less."""
        run = self.live.get(outcome[0])
        if run is None or run._attempt != outcome[1] or run._phase != QUEUED or self._strict:
            return None
        shared: Any = run._shared
        if run._links or shared.special or shared.group.waiters or COMPLETED in self._wanted:
            return None
        self._completes(run, outcome, shared)
        return run

    def _completes(self, run: Run, outcome: Outcome, shared: Any) -> None:
        """Note that a run has completed."""
        del self.live[outcome[0]]
        counts = shared.tally.counts
        counts[run._phase] -= 1
        counts[COMPLETED] += 1
        run._inputs = None
        run._outcome = outcome
        run._phase = COMPLETED
        shared.group.unsettled -= 1

    def failed(
        self, outcome: Outcome, retry_in: float | None, at: float, commands: Commands
    ) -> None:
        """An attempt that did not complete; `retry_in` seconds until the next, None for no more."""
        run = self.live.get(outcome.key)
        if run is None or run._attempt != outcome.attempt:
            return
        if run._phase == CANCELLING:
            self._settle(run, _cancelled(run, outcome), commands)
        elif outcome.lost and self._may_lose_another_worker(run):
            self._told(run, RETRY_WAIT, at, outcome, commands)
            self._leave_slot(run, commands)
            run._attempt += 1
            self._ready(run, commands)
        elif retry_in is not None:
            self._set_aside(run, commands)
            self._retry(run, outcome, retry_in, at, commands)
        elif self._strict:
            self._keep(outcome, commands)
        else:
            self._settle(run, outcome, commands)

    def _keep(self, outcome: Outcome, commands: Commands) -> None:
        """Have an outcome recorded first, in strict durability."""
        run = self.live.get(outcome.key)
        if run is None or run._attempt != outcome.attempt or run._phase == RECORDING:
            return
        if run._phase in (CANCELLING, SLOT_WAIT) or not _shared(run).visible:
            self._end(run, outcome, commands)
            return
        run._outcome = outcome
        self._move(run, RECORDING)
        commands.settled.append(run)

    def _end(self, run: Run, outcome: Outcome, commands: Commands) -> None:
        if outcome.phase == COMPLETED:
            self._complete((outcome,), commands)
        elif run._phase == CANCELLING:
            self._settle(run, _cancelled(run, outcome), commands)
        else:
            self._settle(run, outcome, commands)

    def recorded(
        self, runs: Iterable[Run], error: BaseException | None, at: float, commands: Commands
    ) -> None:
        """Their outcomes were kept, so that others may know; or they were not, and fail with that."""
        for run in runs:
            if run._phase != RECORDING or self.live.get(run._key) is not run:
                continue
            outcome = run._outcome
            assert outcome is not None  # it waits to be recorded
            if error is not None:
                outcome = Outcome(run._key, run._attempt, CRASHED, error, at, 0.0, str(error))
            self._end(run, outcome, commands)

    # -- runs that an earlier process has made ------------------------------------------------------

    def recalled(self, runs: Iterable[Run]) -> None:
        """New runs whose outcomes are known: they have completed in an earlier process."""
        for run in runs:
            _shared(run).tally.counts[COMPLETED] += 1
            run._inputs = None
            run._phase = COMPLETED

    def dormant(self, run: Run, blockers: Mapping[Run, bool]) -> None:
        """A new run that has completed in an earlier process, whose value is not there any more."""
        _shared(run).tally.counts[DORMANT] += 1
        run._links = run._links or Links()
        run._links.asleep = blockers
        run._phase = DORMANT

    def awake(self, run: Run, at: float, commands: Commands) -> None:
        """Someone needs the value of a dormant run."""
        stack = [run]
        while stack:
            each = stack.pop()
            if each._phase != DORMANT:
                continue
            shared = _shared(each)
            links = each._links
            assert links is not None  # it is dormant
            shared.group.unsettled += 1
            self.live[each._key] = each
            self._move(each, WAITING)
            stack += [blocker for blocker in links.asleep if blocker._phase == DORMANT]
            blockers, links.asleep = links.asleep, {}
            self._wait_for(each, blockers, at, commands)

    def undecided(self, outcome: Outcome, commands: Commands) -> Run | None:
        """An attempt failed, and its task decides on a retry, which `decided` brings; the run that
        is to be asked about. None where there is nothing to decide."""
        run = self.live.get(outcome.key)
        if run is None or run._attempt != outcome.attempt:
            return None
        if run._phase == CANCELLING:
            self._settle(run, _cancelled(run, outcome), commands)
            return None
        self._set_aside(run, commands)
        return run

    def decided(
        self, outcome: Outcome, retry_in: float | None, at: float, commands: Commands
    ) -> None:
        """The answer; too late where the run was cancelled meanwhile."""
        run = self.live.get(outcome.key)
        if run is None:
            return
        if retry_in is None:
            run._attempt = outcome.attempt
            self._settle(run, outcome, commands)
        else:
            self._retry(run, outcome, retry_in, at, commands)

    def due(self, timer: Timer, at: float, commands: Commands) -> Run | None:
        """A timer rang. Gives back the run if its timeout has passed: the engine then decides on
        a retry, and tells the outcome with `failed`."""
        run, attempt, phase, _, others = timer
        if phase == CANCELLED:
            for each, its_attempt in ((run, attempt), *others):
                self._give_up(each, its_attempt, at, commands)
            return None
        if self.live.get(run._key) is not run or run._attempt != attempt:
            return None
        if phase == RETRY_WAIT and run._phase == RETRY_WAIT:
            self._ready(run, commands)
        elif phase == TIMED_OUT and run._phase == RUNNING:
            commands.cancels.append(run)
            return run
        return None

    def _give_up(self, run: Run, attempt: int, at: float, commands: Commands) -> None:
        """A run was asked to stop, and its grace period is over."""
        if self.live.get(run._key) is run and run._attempt == attempt and run._phase == CANCELLING:
            message = "It did not stop when asked."
            self._settle(run, unstarted(run, CANCELLED, at, message), commands)

    def cancel(self, runs: Iterable[Run], at: float, grace: float, commands: Commands) -> int:
        """Someone asks for the end of these; how many had not settled."""
        count = 0
        asked: list[Run] = []
        for run in runs:
            if self.live.get(run._key) is not run:
                continue
            count += 1
            if run._phase in (WAITING, SLOT_WAIT, RETRY_WAIT):
                self._settle(run, unstarted(run, CANCELLED, at, "Cancelled."), commands)
            elif run._phase not in (CANCELLING, RECORDING):
                self._move(run, CANCELLING)
                self._told(run, CANCELLING, at, None, commands)
                asked.append(run)
        if asked:
            commands.cancels += asked
            first, *others = asked
            late = tuple((run, run._attempt) for run in others)
            commands.timers.append(Timer(first, first._attempt, CANCELLED, grace, late))
        return count

    def members(self, group: Group) -> list[Run]:
        """The unsettled runs of a group and of those below it."""
        return [run for run in self.live.values() if _shared(run).group.within(group)]

    # -- what they come to ------------------------------------------------------------------------

    def _wait_for(
        self, run: Run, blockers: Mapping[Run, bool], at: float, commands: Commands
    ) -> None:
        links = run._links
        assert links is not None  # made by submitted_linked
        links.blockers = tuple(blockers)
        for blocker, failure_allowed in blockers.items():
            if blocker._phase < SETTLED:
                if blocker._phase == DORMANT:
                    self.awake(blocker, at, commands)
                if blocker._links is None:
                    blocker._links = Links()
                blocker._links.dependents.append((run, failure_allowed))
                links.left += 1
            elif blocker._phase != COMPLETED and not failure_allowed:
                self._settle(run, not_ready(run, blocker, at), commands)
                return
        if not links.left:
            self._ready(run, commands)

    def _ready(self, run: Run, commands: Commands) -> None:
        if _shared(run).limits:
            self._move(run, SLOT_WAIT)
            commands.gated.append(run)
        else:
            self._enter(run, commands)

    def _enter(self, run: Run, commands: Commands) -> None:
        shared = _shared(run)
        admission: Admission | None = shared.admission
        if admission is not None and shared.spec.resources and not admission.enter(run):
            self._move(run, SLOT_WAIT)
            return
        self._start(run, commands)

    def _start(self, run: Run, commands: Commands) -> None:
        self._move(run, QUEUED)
        commands.launches.append(run)

    def _leave_slot(self, run: Run, commands: Commands) -> None:
        shared = _shared(run)
        if shared.limits:
            commands.released.append(run)
        if shared.spec.resources and shared.admission is not None:
            for next_run in shared.admission.leave(run):
                self._start(next_run, commands)

    def _set_aside(self, run: Run, commands: Commands) -> None:
        """An attempt is over and the next has not begun: whatever the old one says now is late."""
        self._leave_slot(run, commands)
        run._attempt += 1
        self._move(run, RETRY_WAIT)

    def _retry(
        self, run: Run, outcome: Outcome, retry_in: float, at: float, commands: Commands
    ) -> None:
        self._told(run, RETRY_WAIT, at, outcome, commands)
        commands.timers.append(Timer(run, run._attempt, RETRY_WAIT, retry_in))

    def _may_lose_another_worker(self, run: Run) -> bool:
        links = run._links = run._links or Links()
        links.worker_deaths += 1
        return links.worker_deaths <= self._deaths_allowed

    def _release(self, run: Run, at: float, commands: Commands) -> None:
        """Tell those who wait for a settled run; settles, in a loop, those who cannot run now."""
        stack = [run]
        while stack:
            settled = stack.pop()
            links = settled._links
            if links is None:
                continue
            if links.waiters:
                commands.wakes.append((settled, links.waiters))
                links.waiters = []
            completed = settled._phase == COMPLETED
            dependents, links.dependents = links.dependents, []
            for dependent, failure_allowed in dependents:
                if dependent._phase != WAITING:
                    continue
                waiting = dependent._links
                assert waiting is not None  # it waits
                waiting.left -= 1
                if not completed and not failure_allowed:
                    outcome = not_ready(dependent, settled, at)
                    self._close(dependent, outcome, commands)
                    stack.append(dependent)
                elif not waiting.left:
                    self._ready(dependent, commands)

    def _settle(self, run: Run, outcome: Outcome, commands: Commands) -> None:
        self._close(run, outcome, commands)
        self._release(run, outcome.started + outcome.seconds, commands)

    def _close(self, run: Run, outcome: Outcome, commands: Commands) -> None:
        """Put a run into its last phase."""
        del self.live[run._key]
        shared = _shared(run)
        if run._phase == SLOT_WAIT:
            if shared.limits:
                commands.released.append(run)
            if shared.spec.resources:
                shared.admission.give_up(run)
        elif run._phase in (QUEUED, RUNNING, CANCELLING, RECORDING):
            self._leave_slot(run, commands)
        run._inputs = None
        if run._links is not None:
            run._links.blockers = ()
        run._outcome = outcome
        was_recorded = run._phase == RECORDING
        self._move(run, outcome.phase)
        group = shared.group
        group.unsettled -= 1
        if outcome.phase != COMPLETED:
            group.failures += 1
            if len(group.failed) < Group.FAILED_KEPT:
                group.failed.append(run)
        self._told(run, outcome.phase, outcome.started + outcome.seconds, outcome, commands)
        if self._records and shared.visible and not was_recorded:
            commands.settled.append(run)
        if shared.spec.hooks and outcome.phase != NOT_READY:
            name = "on_completion" if outcome.phase == COMPLETED else "on_failure"
            if name in shared.spec.hooks and outcome.phase != CANCELLED:
                commands.hooks.append((run, name, outcome))
        if group.waiters and not group.unsettled:
            commands.emptied.append(group)

    def _after(self, run: Run, outcome: Outcome, commands: Commands) -> None:
        """What a completed run owes besides: its slot, and its hooks."""
        self._leave_slot(run, commands)
        if "on_completion" in _shared(run).spec.hooks:
            commands.hooks.append((run, "on_completion", outcome))

    def _move(self, run: Run, phase: int) -> None:
        counts = _shared(run).tally.counts
        counts[run._phase] -= 1
        counts[phase] += 1
        run._phase = phase

    def _told(
        self, run: Run, phase: int, at: float, outcome: Outcome | None, commands: Commands
    ) -> None:
        if phase in self._wanted and _shared(run).visible:
            commands.changes.append(TaskRunChanged(run, phase, at, outcome))


def _shared(run: Run) -> Any:
    """The run's submission, which stands above this room."""
    return run._shared


def unstarted(run: Run, phase: int, at: float, message: str) -> Outcome:
    """The outcome of a run that ends without an attempt that says so itself."""
    error = CancelledRun(f"{run.name!r}: {message}") if phase == CANCELLED else None
    return Outcome(run._key, run._attempt, phase, error, at, 0.0, message)


def not_ready(run: Run, blocker: Run, at: float) -> Outcome:
    """The outcome of a run that will not start, since `blocker` did not complete."""
    state_name = PHASE_STATES[blocker._phase][1]
    error = UpstreamTaskError(run.name, blocker.name, state_name)
    cause = blocker._outcome
    if cause is not None and isinstance(cause.value, BaseException):
        error.__cause__ = cause.value
    return Outcome(run._key, run._attempt, NOT_READY, error, at, 0.0, str(error))


def _cancelled(run: Run, outcome: Outcome) -> Outcome:
    """The end of a run that was asked to stop: whatever its last attempt gave, it is cancelled."""
    if outcome.phase == CANCELLED and outcome.value is None:
        return outcome  # it never began: these come by the thousand, and have their message
    error = CancelledRun(f"{run.name!r} was cancelled while it ran.")
    return Outcome(
        run._key, run._attempt, CANCELLED, error, outcome.started, outcome.seconds, "Cancelled."
    )


__all__ = ["Commands", "Group", "Tally", "Timer", "Tracker", "not_ready", "unstarted"]
