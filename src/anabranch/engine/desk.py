"""Answers what calls on a worker process ask: new runs, ends of runs that they carry, and results.

One desk a process. Requests come in the order in which they were asked; what is told goes out in
the order in which it became true.
"""

# pyright: reportPrivateUsage=false
# The engine's rooms share the slots of the run record, which are private to users.

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from anabranch.annotations import allow_failure
from anabranch.context import RunContext, TaskRunContext
from anabranch.errors import CrashedRun
from anabranch.execution.calls import Call, TaskSpec
from anabranch.execution.pickling import dumps, loads
from anabranch.execution.portable import packed, portable_exception, unpacked
from anabranch.execution.requests import (
    AddCallback,
    Answer,
    AskLimits,
    AskParameters,
    AskTransaction,
    Began,
    Cancel,
    Carry,
    Describe,
    EndBlock,
    Ended,
    Fetch,
    GiveSlots,
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
    TakeSlots,
    Watch,
    number_of,
)
from anabranch.futures import Links, TaskFuture
from anabranch.outcomes import CRASHED, SETTLED, Away, Outcome
from anabranch.task_runners.base import Capabilities, OpenRunnerBase

if TYPE_CHECKING:
    from anabranch.engine.engine import Engine

TASKS_KEPT = 1_000
Run = TaskFuture[Any]


class New(NamedTuple):
    """An answer that names new runs, which are watched from here on."""

    answer: Submitted
    runs: list[Run]


class EngineDesk:
    """See `task_runners.base.Desk`. `kept` are the futures that a call there knows, by its key."""

    def __init__(self, engine: Engine, tell: Callable[[bytes], None]) -> None:
        self.engine = engine
        self.closed = False
        self.carried: dict[int, Run] = {}
        self._tell = tell
        self._kept: dict[int, list[Run]] = {}
        self._tickets: dict[int, dict[int, Any]] = {}  # for slots of limits, by key and by theirs
        self._has_blocks = False  # open transactions
        self._tasks: dict[bytes, Any] = {}
        self._changing = threading.Lock()

    def ended(self, key: int) -> None:
        if not (self._kept or self._tickets or self._has_blocks):
            return  # the call has asked nothing that outlasts the answer
        self._kept.pop(key, None)
        for ticket in list(self._tickets.get(key, ())):
            self._give_slots(key, ticket)
        self._tickets.pop(key, None)
        if self._has_blocks:
            self.engine.lent_blocks.ended(self, key)

    def close(self) -> None:
        with self._changing:
            self.closed = True
            left = list(self.carried.values())
        self._kept.clear()
        for key in list(self._tickets):
            self.ended(key)
        if self._has_blocks:
            self.engine.lent_blocks.ended(self)
        for run in left:
            self.engine.finish_without_retry(_lost(run, self.engine.clock.time()))

    # -- what is asked ------------------------------------------------------------------------------

    def asked(self, call: Call, request: bytes) -> None:
        number, data = number_of(request)
        try:
            words = loads(data, self.engine)
            if self._answers_later(call, number, words):
                return
            answer = self._answer(call, words)
        except Exception as error:
            self.tell(Refusal(number, portable_exception(error)))
            return
        runs: list[Run] = []
        if isinstance(answer, New):
            answer, runs = answer
        if number:
            self.tell(Answer(number, answer))
        self._watch(runs)  # not before the worker knows them

    def _answers_later(self, call: Call, number: int, words: Any) -> bool:
        """Whether this is something that others are not to wait for; then it is begun."""
        engine, then = self.engine, partial(self._reply, number)
        match words:
            case AskLimits():  # the store is asked
                engine.limits.when_asked(words.fn, words.args, then)
            case Fetch():  # where a lost value is made again, its task may ask here
                args = words.future, then
                name = "anabranch-fetch"
                threading.Thread(target=_fetch, args=args, name=name, daemon=True).start()
            case OpenBlock():
                self._has_blocks = True
                engine.lent_blocks.open(self, call, self._context_of(call, words), words, then)
            case EndBlock():
                engine.lent_blocks.end(self, words, then)
            case AskTransaction():
                transaction = self._transaction(call, words.place)
                engine.lent_blocks.ask(transaction, words.method, words.args, then)
            case _:
                return False
        return True

    def _answer(self, call: Call, words: Any) -> Any:
        engine = self.engine
        match words:
            case Submit():
                return self._submit(call, words)
            case Carry():
                return self._carry(call, words)
            case Ended():
                return self._ended(words)
            case Began():
                return engine.started(words.key, words.attempt)
            case Watch():
                return self._watch([words.future])
            case Cancel():
                return engine.cancel(words.futures)
            case Describe():
                return words.future.task_run, engine.phase_of(words.future)
            case AddCallback():
                return engine.add_done_callback(words.future, words.fn)
            case AskParameters():
                flow_run = call.scope.flow_run
                return {} if flow_run is None else flow_run.parameters
            case KeepArtifact():
                return engine.keep_artifact(words.event)
            case TakeSlots():
                return self._take_slots(call, words)
            case GiveSlots():
                return self._give_slots(call.key, words.ticket)
            case _:
                raise TypeError(f"Not a request: {words!r}")

    def _submit(self, call: Call, words: Submit) -> New:
        spec: TaskSpec = self._task(words.task).spec
        runs = self.engine.submit(
            spec,
            words.inputs,
            words.kwargs,
            kwargs_each=words.kwargs_each,
            wait_for=words.wait_for,
            mapped=words.mapped,
            context=self._context_of(call, words),
        )
        self._kept.setdefault(call.key, []).extend(runs)
        for run in runs:
            self.engine.reference(run)  # from here on the worker refers to it
        return New(_submitted(runs, None), runs)

    def _carry(self, call: Call, words: Carry) -> New:
        """A run of the flow that the worker itself carries."""
        if words.task is None:
            spec = TaskSpec(words.name, f"anabranch:{words.name}", _carried_elsewhere)
        else:
            spec = replace(self._task(words.task).spec, run_name=None)  # it names the run itself
        carrier = CarriedRunner(self)
        wait_for = [allow_failure(each) if allowed else each for each, allowed in words.blockers]
        run = self.engine.submit(
            spec,
            ((),),
            {},
            wait_for=wait_for,
            runner=carrier,
            context=self._context_of(call, words),
            visible=words.task is not None,
            digest=words.digest,
        )[0]
        with self._changing:
            self.carried[run._key] = run
        self._kept.setdefault(call.key, []).append(run)
        self.engine.reference(run)
        return New(_submitted([run], carrier.first()), [run])

    def _take_slots(self, call: Call, words: TakeSlots) -> None:
        """Held here for the call, until it gives them back, ends, or dies."""
        answered = partial(self._slots_taken, words.ticket)
        ticket = self.engine.limits.take_slots(words.wanted, words.timeout, answered)
        self._tickets.setdefault(call.key, {})[words.ticket] = ticket

    def _slots_taken(self, ticket: int, error: BaseException | None) -> None:
        self.tell(SlotsTaken(ticket, None if error is None else portable_exception(error)))

    def _give_slots(self, key: int, ticket: int) -> None:
        taken = self._tickets.get(key, {}).pop(ticket, None)
        if taken is not None:
            self.engine.limits.give_slots(taken)

    def _reply(self, number: int, value: Any, error: BaseException | None) -> None:
        """Answer later than others that were asked after."""
        try:
            if error is None:
                self.tell(Answer(number, value))
                return
        except Exception as unsent:  # the value cannot travel
            error = unsent
        self.tell(Refusal(number, portable_exception(error)))

    def _transaction(self, call: Call, place: Place) -> Any:
        kind, which = place
        if kind == "parent":
            return self._transaction(call, which).parent
        if kind == "block":
            return self.engine.lent_blocks.block(self, which)
        shared: Any = None if which == call.key else self.carried[which]._shared
        scope = call.scope if shared is None else shared.scope
        return scope.transaction.share_of(which)

    def _context_of(self, call: Call, words: Submit | Carry | OpenBlock) -> RunContext:
        """That of the asking code, which may stand in a run that the call carries."""
        at = call
        if words.around != call.scope.tags:
            at = call._replace(scope=replace(call.scope, tags=words.around))
        context = TaskRunContext(at)
        context.tags = words.tags
        if words.within is not None:
            context.transaction = self._transaction(call, words.within)
        return context

    def _task(self, data: bytes) -> Any:
        task = self._tasks.get(data)
        if task is None:
            task = self._tasks[data] = loads(data)
            if len(self._tasks) > TASKS_KEPT:
                del self._tasks[next(iter(self._tasks))]
        return task

    def _ended(self, words: Ended) -> None:
        outcome = unpacked(words.outcome, lambda: words.name or "a task", self.engine)
        run = self.carried.get(outcome.key)
        if run is not None and words.name is not None:
            run._links = run._links or Links()
            run._links.name = words.name
        if words.final:
            self.engine.finish_without_retry(outcome)
        else:
            self.engine.finished([outcome])

    # -- what is told -------------------------------------------------------------------------------

    def tell(self, words: Any) -> None:
        if not self.closed:
            self._tell(dumps(words, "A notice"))

    def _watch(self, runs: Sequence[Run]) -> None:
        for run in runs:
            if not self.engine.notify(run, self._settled):
                self._settled(run)

    def _settled(self, run: Run) -> None:
        with self._changing:
            carried = self.carried.pop(run._key, None)
        outcome = run._outcome
        assert outcome is not None and run._phase >= SETTLED  # it is told of settled runs
        recalled = run._links is not None and run._links.recalled is not None
        if carried is not None and not (recalled or isinstance(outcome.value, BaseException)):
            outcome = outcome._replace(value=None)  # the worker has it
        elif type(outcome.value) is Away and outcome.value.remote is not None:
            outcome = outcome._replace(value=Fetch(run))
        self.tell(Settled(packed(outcome, lambda: run.name)))


class CarriedRunner(OpenRunnerBase):
    """The runner of one run that its worker carries: hands attempts to it."""

    capabilities = Capabilities(
        name="direct", priority=False, stops_sync=True, stops_async=True, parallel=False
    )

    def __init__(self, desk: EngineDesk) -> None:
        self._desk = desk
        self._taken = False
        self._first: int | None = None
        self._changing = threading.Lock()

    def first(self) -> int | None:
        """The attempt that was launched already, to go with the answer; others are told."""
        with self._changing:
            self._taken = True
            return self._first

    def launch(self, calls: Sequence[Call]) -> None:
        for call in calls:
            with self._changing:
                if not self._taken:
                    self._first = call.attempt
                    continue
            if self._desk.closed:
                run = self._desk.carried.get(call.key)
                if run is not None:
                    outcome = _lost(run, self._desk.engine.clock.time())
                    self._desk.engine.finish_without_retry(outcome)
            else:
                self._desk.tell(Launch(call.key, call.attempt))

    def cancel(self, keys: Iterable[int]) -> None:
        self._desk.tell(Stop(list(keys)))

    def running(self) -> Iterable[tuple[int, int]]:
        return ()


def _submitted(runs: Sequence[Run], attempt: int | None) -> Submitted:
    if not runs:
        return Submitted(0, 0, 0, None, attempt)
    shared: Any = runs[0]._shared
    scope, first = shared.scope, runs[0]._key
    index = scope.first_index - scope.first_key + first
    return Submitted(scope.prefix, first, index, scope.map_id, attempt)


def _fetch(future: Run, then: Callable[[Any, BaseException | None], object]) -> None:
    try:
        value = future._settled_result()
    except Exception as error:
        then(None, error)
    else:
        then(value, None)


def _lost(run: Run, at: float) -> Outcome:
    message = f"The worker process that ran {run.name} is gone."
    return Outcome(run._key, run._attempt, CRASHED, CrashedRun(message), at, 0.0, message)


def _carried_elsewhere() -> None:
    """Stands for the function of a run that only its worker knows."""
