"""What a task on a worker has for an engine: the flow's own, asked over the runner's channel.

Runs that are submitted here are the flow's like any other. Tasks that are called directly run here,
but each decision about them is the flow's; what their arguments hold never leaves this process.
"""

# pyright: reportPrivateUsage=false
# This stands for the engine, which shares the slots of the run record.

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import copy_context
from functools import partial
from typing import Any, Protocol
from weakref import WeakValueDictionary

from anabranch import late
from anabranch.clock import SystemClock
from anabranch.context import RunContext, TaskRunContext, current_context
from anabranch.dependencies import find_blockers
from anabranch.errors import ForeignFutureError, UnsupportedOptionError
from anabranch.events import ArtifactChanged, ArtifactMade
from anabranch.execution.calls import Call, Scope, TaskSpec
from anabranch.execution.deadlocks import refuse_deadlock
from anabranch.execution.pickling import dumps, loads
from anabranch.execution.portable import packed, received_exception, unpacked
from anabranch.execution.remote_limits import RemoteLimits
from anabranch.execution.remote_runs import ELSEWHERE, Carried, Mirror
from anabranch.execution.requests import (
    AddCallback,
    Answer,
    AskParameters,
    AskTransaction,
    Began,
    Cancel,
    Carry,
    Describe,
    EndBlock,
    Ended,
    Fetch,
    KeepArtifact,
    Launch,
    OpenBlock,
    Place,
    Refusal,
    Settled,
    SlotsTaken,
    Stop,
    Submit,
    Submitted,
    Watch,
    numbered,
)
from anabranch.execution.run import failure, run_call
from anabranch.futures import Done, Links, TaskFuture, until_settled
from anabranch.identities import inputs_digest
from anabranch.outcomes import SETTLED, Away, Outcome
from anabranch.runs import FlowRun, TaskRun
from anabranch.waiting import Waiter

TASKS_KEPT = 1_000
Run = TaskFuture[Any]


class Line(Protocol):
    """A worker's end of the channel to the engine."""

    def ask(self, request: bytes) -> None:
        """Send what the current call asks."""
        ...

    def lend(self) -> AbstractContextManager[None]:
        """Give up the current call's slot for the length of the block."""
        ...

    def wait(self, waiter: Waiter, timeout: float | None) -> bool:
        """The same while this thread waits, at most `timeout` seconds; whether the waiter is done."""
        ...


class Pending:
    """A request that waits for its answer."""

    __slots__ = ("answer", "then", "waiter")

    def __init__(self, then: Callable[[Any], Any]) -> None:
        self.then = then
        self.waiter = Waiter()
        self.answer: list[Any] = []


class RemoteEngine:
    """The engine of one worker process. `told` is called by the thread that reads its channel."""

    def __init__(self, line: Line, grace: float = 5.0) -> None:
        self.clock = SystemClock()
        self.grace = grace
        self._line = line
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._pending: dict[int, Pending] = {}
        self._mirrors: WeakValueDictionary[int, Run] = WeakValueDictionary()
        self._carried: dict[int, Carried] = {}
        self.mailboxes: deque[Any] = deque()  # of direct calls that have ended
        self.limits = RemoteLimits(self._send, self._ask, self._numbers, self.lending)
        self._tasks: dict[int, tuple[TaskSpec, bytes]] = {}  # by identity, the spec kept alive
        self._parameters: dict[str, Mapping[str, Any]] = {}
        self._reader: int | None = None

    # -- runs ---------------------------------------------------------------------------------------

    def submit(
        self,
        spec: TaskSpec,
        inputs: Sequence[tuple[Any, ...]],
        kwargs: Mapping[str, Any],
        *,
        kwargs_each: Sequence[Mapping[str, Any]] | None = None,
        wait_for: Iterable[Any] = (),
        mapped: bool = False,
        runner: Any = None,
        context: RunContext | None = None,
        visible: bool = True,
        digest: bytes | None = None,
        batch_size: int | None = None,
    ) -> list[Run]:
        """As `Engine.submit`; a call for `runner` stays here, others travel alone. Also raises `UnpicklableError`."""
        context = context or current_context()
        wait_for = (wait_for,) if isinstance(wait_for, TaskFuture) else tuple(wait_for)
        if runner is not None and spec.caching is None:  # else the flow looks for its result
            carried = Carried(spec, runner, inputs[0], kwargs, copy_context())
            return [self._carry(carried, wait_for, context, visible, digest)]
        name = None if spec.run_name is not None else spec.name
        runs: list[Run] = []

        def take(answer: Submitted) -> None:
            prefix, first, index, _, _ = answer
            shared = Mirror(self, prefix, ELSEWHERE, name, first, index)
            runs.extend(TaskFuture(shared, first + n, None) for n in range(len(inputs)))
            self._mirrors.update((run._key, run) for run in runs)

        self._ask(
            Submit(
                self._task(spec),
                inputs,
                kwargs,
                kwargs_each,
                wait_for,
                mapped,
                context.tags,
                tags_around(context),
                place_of(context.transaction),
            ),
            f"The arguments of {spec.name}",
            take,
        )
        return runs

    def submit_here(self, *_: object) -> None:
        """The flow's process has to hear of it first: there is no quick way here."""

    def submit_expansion(
        self, name: str, expand: Callable[[], list[Run]], sources: Sequence[Any], digest: bytes
    ) -> TaskFuture[list[Run]]:
        spec = TaskSpec(name, f"anabranch:{name}", expand)
        carrier = OwnThread(self)
        return self.submit(
            spec, ((),), {}, wait_for=sources, runner=carrier, visible=False, digest=digest
        )[0]

    def _carry(
        self,
        carried: Carried,
        wait_for: Sequence[Any],
        context: RunContext,
        visible: bool,
        digest: bytes | None,
    ) -> Run:
        spec = carried.spec
        blockers = find_blockers(spec.name, carried.args, carried.kwargs).blockers
        for future, allowed in find_blockers(f"wait_for of {spec.name}", wait_for).blockers.items():
            blockers[future] = allowed and blockers.get(future, True)
        self._refuse_foreign(blockers, spec.name)
        name = None if spec.run_name is not None else spec.name
        if digest is None and visible and context.keep is not None:
            digest = inputs_digest(carried.args, carried.kwargs)

        def take(answer: Submitted) -> None:
            prefix, key, index, _, attempt = answer
            run: Run = TaskFuture(Mirror(self, prefix, carried.runner, name, key, index), key, None)
            carried.future = run
            carried.scope = _scope(self, context, spec, answer)
            self._mirrors[key] = run
            self._carried[key] = carried
            if attempt is not None:
                self._launch(key, attempt)

        self._ask(
            Carry(
                self._task(spec) if visible else None,
                spec.name,
                list(blockers.items()),
                context.tags,
                tags_around(context),
                digest,
                place_of(context.transaction),
            ),
            f"The call of {spec.name}",
            take,
        )
        assert carried.future is not None  # set by the answer
        return carried.future

    def _task(self, spec: TaskSpec) -> bytes:
        known = self._tasks.get(id(spec))
        if known is None:
            known = self._tasks[id(spec)] = (spec, dumps(spec.task, f"Task {spec.name!r}"))
            if len(self._tasks) > TASKS_KEPT:
                del self._tasks[next(iter(self._tasks))]
        return known[1]

    def _refuse_foreign(self, futures: Iterable[Run], where: str) -> None:
        for future in futures:
            if future._shared.home is not self:
                raise ForeignFutureError(future.name, where)

    def started(self, key: int, attempt: int) -> None:
        self._send(Began(key, attempt), "A start")

    def finished(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            self._ended(outcome, False)

    def finish_without_retry(self, outcome: Outcome) -> None:
        self._ended(outcome, True)

    def _ended(self, outcome: Outcome, final: bool) -> None:
        """Tell of an attempt; its value stays here, since only the caller here can ask for it."""
        carried = self._carried.get(outcome.key)
        if carried is None:
            return
        carried.outcome = outcome
        sent = packed(_without_value(outcome, carried), lambda: carried.spec.name)
        links = None if carried.future is None else carried.future._links
        name = None if links is None else links.name
        words = Ended(sent, name, final)
        if threading.get_ident() == self._reader:  # which has to go on to read the answer
            self._send(words, "An outcome")
        else:
            self._ask(words, "An outcome")

    # -- what futures ask, see `futures.Home` -------------------------------------------------------

    def notify(self, future: Run, callback: Done) -> bool:
        with self._lock:
            if future._phase >= SETTLED:
                return False
            if future._links is None:
                future._links = Links()
            future._links.waiters.append(callback)
            return True

    def run_awaited(self, future: Run) -> None:
        """Only the flow's process knows who has begun it."""

    def wait(self, waiter: Waiter, futures: Sequence[Run], timeout: float | None) -> bool:
        if waiter.done:
            return True
        refuse_deadlock(futures)
        return self._line.wait(waiter, timeout)

    async def wait_async(self, future: Run) -> None:
        with self._line.lend():
            await until_settled(self, future)

    @contextmanager
    def lending(self) -> Generator[None]:
        with self._line.lend():
            yield

    def add_done_callback(self, future: Run, callback: Done) -> None:
        self._send(AddCallback(future, callback), f"The done callback of {future.name}")

    def cancel(self, futures: Sequence[Run]) -> int:
        return self._ask(Cancel(futures), "Futures")

    def phase_of(self, future: Run) -> int:
        return future._phase if future._phase >= SETTLED else self.describe(future)[1]

    def describe(self, future: Run) -> tuple[TaskRun, int]:
        """The record of a run, and its phase right now."""
        return self._ask(Describe(future), "A future")

    def _fetched(self, words: Fetch) -> Any:
        """A value that stays on the cluster; others may have to make it again here."""
        with self._line.lend():
            return self._ask(words, "A future")

    def reference(self, future: Run) -> tuple[int, int]:
        shared: Any = future._shared
        return shared.prefix, future._key

    def future(self, prefix: int, key: int) -> Run:
        """The future that a reference stands for; one that comes up for the first time is asked
        after."""
        with self._lock:
            run = self._mirrors.get(key)
            if run is not None:
                return run
            run = self._mirrors[key] = TaskFuture(Mirror(self, prefix, ELSEWHERE), key, None)
        self._send(Watch(run), "A future")
        return run

    # -- what contexts ask --------------------------------------------------------------------------

    def flow_parameters(self, flow_run: FlowRun) -> Mapping[str, Any]:
        if flow_run.id not in self._parameters:
            self._parameters[flow_run.id] = self._ask(AskParameters(), "Parameters")
        return self._parameters[flow_run.id]

    def keep_artifact(self, event: ArtifactMade | ArtifactChanged) -> None:
        self._send(KeepArtifact(event), "An artifact")

    def around(self) -> Any:
        """What stands here for the transaction that a call's run has joined."""
        return late.RemoteAround(self)

    def ask_transaction(
        self, words: AskTransaction | OpenBlock | EndBlock, what: str = "A transaction"
    ) -> Any:
        """What one says; raises what it raises, or `UnpicklableError`, which calls this `what`."""
        return self._ask(words, what)

    def next_number(self) -> int:
        return next(self._numbers)

    def refuse_flow(self, flow_name: str) -> None:
        """Raise `UnsupportedOptionError`: flows run in the process of the root flow."""
        task_run = current_context().task_run
        raise UnsupportedOptionError(
            task_run.task_name if task_run is not None else flow_name,
            f"a run of flow {flow_name!r} inside a worker process",
            "processes",
            "Call or submit the flow from the flow that runs the task, or use threads.",
        )

    # -- the channel ----------------------------------------------------------------------------------

    def _send(self, words: Any, what: str) -> None:
        self._line.ask(numbered(0, dumps(words, what, words._fields)))

    def _ask(
        self, words: Any, what: str, then: Callable[[Any], Any] = lambda answer: answer
    ) -> Any:
        """Send a request and wait for what `then`, on the reading thread, makes of the answer."""
        pending = Pending(then)
        number = next(self._numbers)
        data = numbered(number, dumps(words, what, words._fields))
        self._pending[number] = pending
        self._line.ask(data)
        pending.waiter.block()
        completed, value = pending.answer
        if completed:
            return value
        raise value

    def told(self, data: bytes) -> None:
        """Take a notice of the engine; called in the order in which they come."""
        self._reader = threading.get_ident()
        notice = loads(data, self)
        if isinstance(notice, Settled):
            self._settle(notice)
        elif isinstance(notice, Answer | Refusal):
            self._answered(notice)
        elif isinstance(notice, Launch):
            self._launch(*notice)
        elif isinstance(notice, SlotsTaken):
            self.limits.told(notice)
        elif isinstance(notice, Stop):
            self._stop(notice.keys)

    def _answered(self, notice: Answer | Refusal) -> None:
        pending = self._pending.pop(notice.number, None)
        if pending is None:
            return
        try:
            if isinstance(notice, Refusal):
                pending.answer = [False, received_exception(notice.error)]
            else:
                pending.answer = [True, pending.then(notice.value)]
        except BaseException as error:
            pending.answer = [False, error]
        pending.waiter.wake()

    def _settle(self, notice: Settled) -> None:
        key = notice.outcome[0]
        run = self._mirrors.get(key)
        carried = self._carried.pop(key, None)
        if run is None:
            return
        outcome = unpacked(notice.outcome, lambda: "another task", self)
        own = None if carried is None else carried.outcome
        if own is not None and (own.phase, own.attempt) == (outcome.phase, outcome.attempt):
            outcome = own  # with its value, which did not travel
        elif carried is not None:  # it ended without its attempt
            carried.runner.cancel([key])
        if type(outcome.value) is Fetch:
            outcome = outcome._replace(value=Away(partial(self._fetched, outcome.value)))
        with self._lock:
            run._outcome = outcome
            run._phase = outcome.phase
            waiters = run._links.waiters if run._links is not None else []
            if run._links is not None:
                run._links.waiters = []
        for waiter in waiters:
            waiter(run)

    def _launch(self, key: int, attempt: int) -> None:
        """Start an attempt of a carried run, once what it needs has been told here too."""
        carried = self._carried.get(key)
        if carried is None:
            return
        blockers = find_blockers(carried.spec.name, carried.args, carried.kwargs).blockers
        left: deque[Run] = deque(run for run in blockers if run._phase < SETTLED)
        while left:
            run = left.popleft()
            if self.notify(run, lambda _: self._launch(key, attempt)):
                return
        try:
            call = carried.call(attempt)
        except Exception as error:
            assert carried.future is not None and carried.scope is not None  # it was taken
            bare = Call(key, attempt, carried.spec, carried.scope, (), {})
            self.finished([failure(bare, error, self.clock.time(), 0.0)])
            return
        if call.name is not None and carried.future is not None:
            carried.future._links = carried.future._links or Links()
            carried.future._links.name = call.name
        carried.runner.launch([call])

    def _stop(self, keys: Sequence[int]) -> None:
        for key in keys:
            carried = self._carried.get(key)
            if carried is not None:
                carried.runner.cancel([key])


class OwnThread:
    """The runner of an expansion: a thread that lives as long as its one call."""

    capabilities: Any = None

    def __init__(self, engine: RemoteEngine) -> None:
        self._engine = engine

    def launch(self, calls: Sequence[Call]) -> None:
        for call in calls:
            name = f"anabranch-{call.spec.name}"
            threading.Thread(target=self._run, args=(call,), name=name, daemon=True).start()

    def _run(self, call: Call) -> None:
        self._engine.finished([run_call(call)])

    def cancel(self, keys: Iterable[int]) -> None:
        """It is quick: the cancellation takes effect when it ends."""

    def runs_on(self, loop: Any) -> bool:
        return False


def _without_value(outcome: Outcome, carried: Carried) -> Outcome:
    """What the flow is told of a call whose value stays here: how that is kept."""
    if isinstance(outcome.value, BaseException):
        return outcome
    kept, scope = outcome.kept, carried.scope
    if kept is None and scope is not None and scope.keep is not None:
        call = Call(outcome.key, outcome.attempt, carried.spec, scope, (), {})
        kept = scope.keep(outcome.value, call)
    return outcome._replace(value=None, kept=kept)


def place_of(transaction: Any) -> Place | None:
    """How the flow's process knows a transaction that code here is in."""
    return None if transaction is None else transaction.place


def tags_around(context: RunContext) -> frozenset[str]:
    """Those of the task run itself, without what `tags` adds inside it."""
    return context.call.scope.tags if isinstance(context, TaskRunContext) else frozenset()


def _scope(engine: RemoteEngine, context: RunContext, spec: TaskSpec, answer: Submitted) -> Scope:
    return Scope(
        engine,
        context.open_flow,
        context.flow_run,
        context.task_run_key,
        context.tags | spec.tags if spec.tags else context.tags,
        context.log_prints if spec.log_prints is None else spec.log_prints,
        answer.prefix,
        answer.first_key,
        answer.first_index,
        keep=context.keep,
        transaction=None if context.transaction is None else engine.around(),
    )
