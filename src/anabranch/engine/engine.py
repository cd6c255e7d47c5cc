"""The one driver: takes calls and outcomes, asks the tracker, and carries its commands out.

It runs on whatever thread calls it, behind one lock; only timers, users' callbacks and subscribers
have threads of their own. Sync and async code come in through the same methods.
"""

# pyright: reportPrivateUsage=false
# The engine's rooms share the slots of the run record, which are private to users.

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from anabranch import late
from anabranch.caching import Caches
from anabranch.clock import Clock
from anabranch.context import current_context
from anabranch.dependencies import find_blockers, resolve
from anabranch.engine.broadcast import Broadcast
from anabranch.engine.callbacks import Callbacks, Verdict, call_reporting, call_user
from anabranch.engine.intake import Intake, broken_call
from anabranch.engine.limit_desk import LimitDesk
from anabranch.engine.submission import OpenFlow, Submission
from anabranch.engine.tracker import Commands, Timer, Tracker
from anabranch.errors import (
    ForeignFutureError,
    IsolationError,
    RunTimedOut,
)
from anabranch.events import (
    ArtifactChanged,
    ArtifactMade,
    FlowRunAbout,
    FlowRunBegan,
    FlowRunChanged,
    Recorder,
    Subscriber,
    TaskRunsRolledBack,
)
from anabranch.execution.calls import Call, Keep
from anabranch.execution.deadlocks import refuse_deadlock
from anabranch.futures import (
    Done,
    Links,
    TaskFuture,
    make_state,
    outcome_exception,
    outcome_state,
    until_settled,
)
from anabranch.locks import YieldingLock
from anabranch.logging import prints_logged
from anabranch.outcomes import (
    CANCELLED,
    CANCELLING,
    COMPLETED,
    DORMANT,
    FAILED,
    QUEUED,
    ROLLED_BACK,
    RUNNING,
    SETTLED,
    TIMED_OUT,
    Kept,
    Outcome,
)
from anabranch.runs import FlowRun, id_prefix, run_id
from anabranch.signals import Told
from anabranch.states import State
from anabranch.subscribers.progress import TaskProgress
from anabranch.task_runners.base import Desk, OpenRunner
from anabranch.waiting import Waiter

if TYPE_CHECKING:
    from anabranch.engine.cache_desk import CacheDesk
    from anabranch.lent_transactions import LentBlocks

logger = logging.getLogger("anabranch.runs")


Run = TaskFuture[Any]


class Engine:
    """Runs one root flow with all below it, or one task called on its own.

    `grace` is how many seconds a cancelled run gets to stop; `record` keeps what happens, with what
    `keep` leaves of a result, and `make_caches` gives what has results that are there already;
    `prefix` begins the ids of the runs. Calls come in by its `intake`. Implements `futures.Home` for
    its futures and `task_runners.base.Inbox` for its runners.
    """

    def __init__(
        self,
        clock: Clock,
        subscribers: Sequence[Subscriber] = (),
        grace: float = 5.0,
        record: Recorder | None = None,
        prefix: int | None = None,
        keep: Keep | None = None,
        make_caches: Callable[[], Caches] | None = None,
    ) -> None:
        self.clock = clock
        self.grace = grace
        self.prefix = prefix or id_prefix()
        self.callbacks = Callbacks()
        self.broadcast = Broadcast(subscribers, record)
        self.keep = keep
        self._make_caches = make_caches
        self._cache_desk: CacheDesk | None = None
        self._lent_blocks: LentBlocks | None = None
        self.limits = LimitDesk(self)
        self._making = threading.Lock()
        self.records = record is not None
        self._lock = YieldingLock()
        strict = record is not None and record.strict
        self._tracker = Tracker(self.broadcast.phases, records=record is not None, strict=strict)
        self.flow_runs: set[str] = set()  # ids of those that began
        self.told: Told | None = None  # of signals
        self.taken_over: str | None = None  # by another process, and what is said of that
        self.interrupted = False  # by a signal that an async flow has not seen yet
        self.runners: list[OpenRunner] = []  # those of the flows that run, for their counts
        self.mailboxes: deque[Any] = deque()  # of direct calls that have ended
        self._lifetimes = ExitStack()
        self._logs_prints = False
        self.intake = Intake(self)
        self.submit = self.intake.submit
        self.submit_here = self.intake.submit_here
        self.submit_expansion = self.intake.submit_expansion
        self._sent: WeakValueDictionary[int, Run] = WeakValueDictionary()  # workers refer to them

    # -- outcomes come back -------------------------------------------------------------------------

    def started(self, key: int, attempt: int) -> None:
        commands = Commands()
        with self._lock:
            self._tracker.started(key, attempt, self.clock.time(), commands)
            self._emit(commands)
        self._carry_out(commands)

    def finished(self, outcomes: Sequence[Outcome]) -> None:
        if len(outcomes) == 1 and self._finished_alone(outcomes[0]):
            return
        bad = [outcome for outcome in outcomes if outcome[2] != COMPLETED]
        if bad:
            outcomes = [outcome for outcome in outcomes if outcome[2] == COMPLETED]
        if outcomes:
            commands = Commands()
            with self._lock:
                self._tracker.completed(outcomes, commands)
                self._emit(commands)
            self._carry_out(commands)
        self._cancelled([outcome for outcome in bad if outcome.phase == CANCELLED])
        for outcome in bad:
            if outcome.phase != CANCELLED:
                self._failed(outcome)

    def _finished_alone(self, outcome: Outcome) -> bool:
        """The quick way for a single attempt after which nothing is left to do but to record it;
        whether it was one."""
        if outcome[2] != COMPLETED:
            return False
        lock = self._lock
        if not lock.take(False):
            lock.wait()
        try:
            run = self._tracker.completed_alone(outcome)
            if run is not None and self.records and _shared(run).visible:
                self.broadcast.settled((run,))
        finally:
            lock.release()
        return run is not None

    def _cancelled(self, outcomes: Sequence[Outcome]) -> None:
        """There is nothing to decide about these, and they come by the thousand."""
        if outcomes:
            commands = Commands()
            at = self.clock.time()
            with self._lock:
                for outcome in outcomes:
                    self._tracker.failed(outcome, None, at, commands)
                self._emit(commands)
            self._carry_out(commands)

    def _failed(self, outcome: Outcome) -> None:
        """Decide on a retry, outside of the lock, and tell the tracker."""
        with self._lock:
            run = self._tracker.live.get(outcome.key)
        if run is None or run._attempt != outcome.attempt:
            return
        spec = _shared(run).spec
        if spec.retries is None or outcome.phase not in (FAILED, TIMED_OUT) or outcome.lost:
            self._settle_failed(outcome, None)
            return
        deaths = run._links.worker_deaths if run._links is not None else 0
        error = outcome_exception(outcome, run.name)
        delay = spec.retries.delay_after(outcome.attempt - deaths, error)
        condition = spec.retries.condition
        if delay is None or condition is None or spec.retries.condition_is_tenacitys:
            self._settle_failed(outcome, delay)
        else:
            self._leave_undecided(outcome, delay, condition)

    def _leave_undecided(self, outcome: Outcome, delay: float, condition: Any) -> None:
        commands = Commands()
        with self._lock:
            run = self._tracker.undecided(outcome, commands)
            self._emit(commands)
        self._carry_out(commands)
        if run is not None:
            self.callbacks.put(partial(self._ask, run, outcome, delay, condition))

    def _ask(self, run: Run, outcome: Outcome, delay: float, condition: Any) -> None:
        """The user's own word on a retry, on the thread for such."""
        spec = _shared(run).spec
        state = outcome_state(outcome, run.name)
        wanted: list[bool] = []

        def ask() -> None:
            answer = call_user(copy_context(), condition, spec.task, run.task_run, state)
            wanted.append(bool(answer))

        call_reporting(f"retry_condition_fn of {spec.name}", copy_context(), ask)
        commands = Commands()
        with self._lock:
            retry_in = delay if wanted == [True] else None
            self._tracker.decided(outcome, retry_in, self.clock.time(), commands)
            self._emit(commands)
        self._carry_out(commands)

    def finish_without_retry(self, outcome: Outcome) -> None:
        """An attempt failed that cannot be repeated, whatever the task's retries."""
        self._settle_failed(outcome, None)

    def _settle_failed(self, outcome: Outcome, retry_in: float | None) -> None:
        commands = Commands()
        with self._lock:
            self._tracker.failed(outcome, retry_in, self.clock.time(), commands)
            self._emit(commands)
        self._carry_out(commands)

    def _due(self, timer: Timer) -> None:
        commands = Commands()
        now = self.clock.time()
        with self._lock:
            timed_out = self._tracker.due(timer, now, commands)
            self._emit(commands)
        if timed_out is not None:
            seconds = timer.delay
            error = RunTimedOut(timed_out.name, seconds)
            self.finished(
                [Outcome(timed_out._key, timer.attempt, TIMED_OUT, error, now - seconds, seconds)]
            )
        self._carry_out(commands)

    # -- what the tracker wants done ----------------------------------------------------------------

    def _emit(self, commands: Commands) -> None:
        if commands.settled:
            self.broadcast.settled(commands.settled)
        if commands.changes:
            self.broadcast.changed(commands.changes)
        if commands.released or commands.gated:
            self.limits.tag_gate.apply(commands.released, commands.gated)

    def _carry_out(self, commands: Commands) -> None:
        for timer in commands.timers:
            self.clock.call_later(timer.delay, partial(self._due, timer))
        for run, waiters in commands.wakes:
            for waiter in waiters:
                waiter(run)
        for run, hook, outcome in commands.hooks:
            self._call_hooks(run, hook, outcome)
        for group in commands.emptied:
            waiters, group.waiters = group.waiters, []
            for wake in waiters:
                wake()
        if commands.cancels:
            self._cancel_with_runners(commands.cancels)
        if commands.submitted:
            self._launch_new(commands.submitted)
        if commands.launches:
            self._launch(commands.launches)

    def _launch_new(self, runs: Sequence[Run]) -> None:
        """Launch new runs of one submission, which nothing has been linked with so far."""
        submission = _shared(runs[0])
        if submission.spec.run_name is None and submission.spec.caching is None:
            submission.runner.launch(submission.calls(runs))
        else:
            self._launch(runs)

    def _launch(self, runs: Sequence[Run]) -> None:
        calls: list[Call] = []
        runner: OpenRunner | None = None
        for run in runs:
            submission = _shared(run)
            if submission.runner is not runner:
                if calls and runner is not None:
                    runner.launch(calls)
                calls, runner = [], submission.runner
            spec = submission.spec
            if run._links is None and spec.run_name is None and spec.caching is None:
                calls.append(submission.call(run))
            else:
                calls += self._prepared(run, submission)
        if calls and runner is not None:
            runner.launch(calls)

    def _prepared(self, run: Run, submission: Submission) -> list[Call]:
        """The call of a run with its futures replaced; none where that fails, or it waits again."""
        args = run._inputs
        if args is None or run._phase == CANCELLING:
            self.finished([_stopped(run, self.clock.time())])
            return []
        kwargs = submission.kwargs_of(run)
        links = run._links = run._links or Links()
        try:
            if links.search:
                name = submission.spec.name
                waited = find_blockers(name, submission.wait_for).blockers
                found = {each: waited[each] for each in waited if each._phase != DORMANT}
                for future, allowed in find_blockers(name, args, kwargs).blockers.items():
                    found[future] = allowed and found.get(future, True)
                more = {
                    future: allowed
                    for future, allowed in found.items()
                    if future._phase < SETTLED or (future._phase != COMPLETED and not allowed)
                }
                if more:
                    self._wait_again(run, more)
                    return []
                named = submission.spec.run_name is not None and links.name is None
                if named or submission.spec.caching is not None:  # these look at the values
                    args, kwargs = resolve(args), resolve(kwargs)
                else:
                    runner = submission.runner
                    args, kwargs = resolve(args, runner), resolve(kwargs, runner)
            if submission.spec.run_name is not None and links.name is None:
                links.name = submission.spec.name_for(args, kwargs)
        except Exception as error:
            self.finished([broken_call(run, error, self.clock.time())])
            return []
        call = submission.call(run)._replace(args=args, kwargs=kwargs, name=links.name)
        caching = submission.spec.caching
        if caching is None:
            return [call]
        desk = self.cache_desk
        if desk is not None:
            desk.look(run, call)
            return []
        try:
            caching.refuse_unguarded(submission.spec.name, "this run is not recorded")
        except IsolationError as error:
            self.finished([broken_call(run, error, self.clock.time())])
            return []
        return [call]

    @property
    def cache_desk(self) -> CacheDesk | None:
        """Who looks for results that are there already; None where nothing is recorded."""
        if self._cache_desk is None and self._make_caches is not None:
            with self._making:
                if self._cache_desk is None:
                    self._cache_desk = late.CacheDesk(self, self._make_caches())
        return self._cache_desk

    @property
    def lent_blocks(self) -> LentBlocks:
        """The transactions that code on workers has open."""
        if self._lent_blocks is None:
            with self._making:
                if self._lent_blocks is None:
                    self._lent_blocks = late.LentBlocks()
        return self._lent_blocks

    def launch(self, call: Call) -> None:
        """Hand a prepared call to its runner, unless it is not wanted any more."""
        run = self._tracker.live.get(call.key)
        if run is not None and run._phase == CANCELLING:
            self.finished([_stopped(run, self.clock.time())])
        elif run is not None:
            _shared(run).runner.launch([call])

    def _wait_again(self, run: Run, blockers: Mapping[Run, bool]) -> None:
        commands = Commands()
        with self._lock:
            self._tracker.resolved(run, blockers, self.clock.time(), commands)
            self._emit(commands)
        self._carry_out(commands)

    def _call_hooks(self, run: Run, name: str, outcome: Outcome | None) -> None:
        spec = _shared(run).spec
        state = make_state(RUNNING) if outcome is None else outcome_state(outcome, run.name)
        for hook in spec.hooks[name]:
            what = f"{name} hook of task {spec.name!r}"
            self.callbacks.call(what, hook, spec.task, run.task_run, state)

    def _cancel_with_runners(self, runs: Iterable[Run]) -> None:
        keys: dict[OpenRunner, list[int]] = {}
        for run in runs:
            keys.setdefault(_shared(run).runner, []).append(run._key)
        for runner, its_keys in keys.items():
            runner.cancel(its_keys)
            if self._cache_desk is not None:
                self._cache_desk.cancel(its_keys)

    # -- what futures ask ---------------------------------------------------------------------------

    def notify(self, future: Run, callback: Done) -> bool:
        commands = None
        with self._lock:
            if future._phase >= SETTLED:
                return False
            if future._links is None:
                future._links = Links()
            future._links.waiters.append(callback)
            if future._phase == DORMANT:
                commands = Commands()
                self._tracker.awake(future, self.clock.time(), commands)
                self._emit(commands)
        if commands is not None:
            self._carry_out(commands)
        return True

    def run_awaited(self, future: Run) -> None:
        _shared(future).runner.run_awaited(future._key)

    def wait(self, waiter: Waiter, futures: Sequence[Run], timeout: float | None) -> bool:
        if waiter.done:
            return True
        refuse_deadlock(futures)
        open_flow: OpenFlow | None = current_context().open_flow
        if open_flow is None or open_flow.runner is None:
            return waiter.wait(timeout)
        outer = open_flow.parent
        if outer is None or outer.runner is open_flow.runner:
            return open_flow.runner.wait(waiter, futures, timeout)
        with self.lending():
            return open_flow.runner.wait(waiter, futures, timeout)

    async def wait_async(self, future: Run) -> None:
        with self.lending():
            await until_settled(self, future)

    @contextmanager
    def lending(self) -> Generator[None]:
        """Give up the slots that the calling code holds, for the length of a wait."""
        with ExitStack() as lent:
            open_flow: OpenFlow | None = current_context().open_flow
            last = None
            while open_flow is not None:
                if open_flow.runner is not None and open_flow.runner is not last:
                    last = open_flow.runner
                    lent.enter_context(last.lend())
                open_flow = open_flow.parent
            yield

    def add_done_callback(self, future: Run, callback: Done) -> None:
        context = copy_context()
        what = f"done callback of {future.name!r}"

        def call(settled: Run) -> None:
            self.callbacks.put(partial(call_reporting, what, context, callback, settled))

        if not self.notify(future, call):
            call(future)

    def cancel(self, futures: Sequence[Run]) -> int:
        commands = Commands()
        with self._lock:
            count = self._tracker.cancel(futures, self.clock.time(), self.grace, commands)
            self._emit(commands)
        self._carry_out(commands)
        return count

    def phase_of(self, future: Run) -> int:
        phase = future._phase
        if phase == QUEUED and (future._key, future._attempt) in _shared(future).runner.running():
            return RUNNING
        return phase

    # -- what flows ask -----------------------------------------------------------------------------

    def tell(self, flow_run: FlowRun, state: State[Any], kept: Kept | None = None) -> None:
        """A flow run is in a new state; `kept` is what is left of its value for a later process."""
        self.broadcast.tell(FlowRunChanged(flow_run, state, kept))

    def when_empty(self, open_flow: OpenFlow, callback: Any) -> bool:
        """Have `callback()` called once no run of the flow is unsettled; False if none is now."""
        with self._lock:
            if not open_flow.group.unsettled:
                return False
            open_flow.group.waiters.append(callback)
            return True

    def log_prints(self) -> None:
        """From here to the end, `print` in runs that ask for it goes to their loggers."""
        with self._lock:
            if not self._logs_prints:
                self._logs_prints = True
                self._lifetimes.enter_context(prints_logged())

    def ask(self, verdict: Verdict, condition: Callable[..., Any], *args: Any) -> bool:
        """Ask for a user's own verdict, on the thread for such; the last of `args` is called once
        it is there."""
        *given, wake = args

        def answer() -> None:
            verdict.wanted = bool(call_user(copy_context(), condition, *given))

        def work() -> None:
            call_reporting(verdict.what, copy_context(), answer)
            wake()

        self.callbacks.put(work)
        return True

    def refuse_flow(self, flow_name: str) -> None:
        """A flow can run here; the stand-in on a worker has another answer."""

    def begin(self, flow_run: FlowRun, about: FlowRunAbout) -> None:
        """A flow run starts."""
        self.flow_runs.add(flow_run.id)
        self.broadcast.record(FlowRunBegan(flow_run, about))

    def recall_attempt(self, open_flow: OpenFlow, wake: Callable[[], None]) -> bool:
        """Find out what a flow's attempts have completed so far, which need not run again in the
        next; `wake()` is called then. False where nothing is recorded."""
        recorder = self.broadcast.recorder
        if recorder is None:
            return False

        def recall() -> None:
            try:
                if self.broadcast.flush(60.0):
                    assert open_flow.flow_run is not None  # it has attempts
                    open_flow.begin_attempt(recorder.recorded(open_flow.flow_run))
            finally:
                wake()

        self.callbacks.put(recall)
        return True

    def rolled_back(self, runs: Sequence[Run]) -> None:
        """Completed runs count as undone from here on, in a later process too."""
        if not runs:
            return
        self.broadcast.record(TaskRunsRolledBack(runs, self.clock.time()))
        self.broadcast.flush(60.0)  # before it looks at the outcomes for the last time
        for run in runs:
            if run._outcome is not None:
                run._outcome = run._outcome._replace(state_name=ROLLED_BACK)

    def recorded(self, runs: Sequence[Run], error: Exception | None) -> None:
        """In strict durability: these were kept, or could not be."""
        commands = Commands()
        with self._lock:
            self._tracker.recorded(runs, error, self.clock.time(), commands)
            self._emit(commands)
        self._carry_out(commands)

    def unsettled(self, most: int) -> list[Run]:
        """The oldest runs that have not settled."""
        with self._lock:
            oldest = list(islice(self._tracker.live.values(), most))
        return [run for run in oldest if _shared(run).visible]

    def running(self) -> list[Run]:
        """The runs that run right now."""
        found: list[Run] = []
        for key, _ in (place for runner in list(self.runners) for place in runner.running()):
            run = self._tracker.live.get(key)
            if run is not None and _shared(run).visible:
                found.append(run)
        return found

    def keep_artifact(self, event: ArtifactMade | ArtifactChanged) -> None:
        """Record what a call has made."""
        if not self.records:
            logger.warning("Artifact %s is not kept: nothing of this run is recorded", event.id)
        self.broadcast.record(event)

    # -- limits -------------------------------------------------------------------------------------

    def admitted(self, run: Run, attempt: int) -> None:
        """A task run has the slots of the limits by its tags."""
        commands = Commands()
        with self._lock:
            self._tracker.admitted(run, attempt, commands)
            self._emit(commands)
        self._carry_out(commands)

    def digest_of(self, task_run_id: str) -> bytes | None:
        """What stands for the inputs of a run that has not settled."""
        run = self._tracker.live.get(int(task_run_id[-12:], 16))
        return None if run is None else run._digest

    def tags_of(self, task_run_id: str) -> frozenset[str]:
        """Those of a task run that has not settled."""
        run = self._tracker.live.get(int(task_run_id[-12:], 16))
        return frozenset() if run is None else _shared(run).scope.tags

    # -- what workers ask -------------------------------------------------------------------------

    def desk(self, tell: Callable[[bytes], None]) -> Desk:
        return late.EngineDesk(self, tell)

    def reference(self, future: Run) -> tuple[int, int]:
        self._sent[future._key] = future
        return self.prefix, future._key

    def future(self, prefix: int, key: int) -> Run:
        run = self._tracker.live.get(key) or self._sent.get(key)
        if prefix != self.prefix or run is None:
            raise ForeignFutureError(run_id(prefix, key), "A call on a worker")
        return run

    def flow_parameters(self, flow_run: FlowRun) -> Mapping[str, Any]:
        return flow_run.parameters

    def cancel_flow(self, open_flow: OpenFlow) -> int:
        """Ask for the end of all runs of a flow and below; how many had not settled."""
        with self._lock:
            members = self._tracker.members(open_flow.group)
        return self.cancel(members)

    def cancel_all(self, why: str) -> None:
        """End the whole run: it is not ours any more."""
        with self._lock:
            self.taken_over = why
            live = list(self._tracker.live.values())
            for run in live:
                _shared(run).group.closing = True
        self.cancel(live)

    def cancel_below(self, key: int) -> None:
        """End what the subflow that runs as this task run has started, and let it start no more."""
        parent = run_id(self.prefix, key)
        below: list[Run] = []
        with self._lock:
            for run in self._tracker.live.values():
                open_flow: OpenFlow | None = _shared(run).scope.open_flow
                while open_flow is not None and not _started_by(open_flow, parent):
                    open_flow = open_flow.parent
                if open_flow is not None:
                    open_flow.group.closing = True
                    below.append(run)
        self.cancel(below)

    def wait_in(self, open_flow: OpenFlow, waiter: Waiter) -> None:
        """Block the flow's own thread until the waiter is done."""
        if open_flow.runner is None:
            waiter.wait()
        else:
            with self._lock:
                refuse_deadlock(self._tracker.members(open_flow.group))
            with self.lending():
                open_flow.runner.wait(waiter, (), None)

    def refuse_new(self, open_flow: OpenFlow) -> None:
        """Take no more runs into this flow."""
        with self._lock:
            open_flow.group.closing = True

    def progress(self) -> list[TaskProgress]:
        """Counts by task, in the order in which the tasks came up."""
        with self._lock:
            tallies = [(tally.name, list(tally.counts)) for tally in self.intake.tallies.values()]
        running = Counter(_shared(run).spec.name for run in self.running())
        return [
            TaskProgress(
                name,
                sum(counts),
                running[name],
                counts[COMPLETED],
                sum(counts[SETTLED:]) - counts[COMPLETED],
            )
            for name, counts in tallies
        ]

    def close(self) -> None:
        """Finish what callbacks and subscribers still have to do, then stop their threads."""
        if self._lent_blocks is not None:
            self._lent_blocks.close(self.grace + 1)
        self.callbacks.drain(self.grace + 1)
        self.callbacks.close()
        if self._cache_desk is not None:
            self._cache_desk.close(self.grace + 1)
        self.limits.close(self.grace + 1)
        self.broadcast.close()
        self.clock.close()
        self._lifetimes.close()


def _started_by(open_flow: OpenFlow, task_run_id: str) -> bool:
    return open_flow.flow_run is not None and open_flow.flow_run.parent_task_run_id == task_run_id


def _shared(run: Run) -> Submission:
    return run._shared  # pyright: ignore[reportReturnType]  # futures know only the port


def _stopped(run: Run, at: float) -> Outcome:
    return Outcome(run._key, run._attempt, CANCELLED, None, at, 0.0, "Cancelled before it began.")
