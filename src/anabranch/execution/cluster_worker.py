"""One process of a cluster at work for an open runner: calls come in by the cluster's engine, on
threads of its own; what they tell goes back by an `Uplink`.

Such a process may work for several of them at once. The engine calls a plain function there, so the
only place for what it has to remember is this module.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from math import inf
from queue import SimpleQueue
from time import monotonic, sleep, time
from typing import Any, NamedTuple, Protocol

from anabranch.execution import messages
from anabranch.execution.calls import Call, Scope, TaskSpec
from anabranch.execution.claims import Granted
from anabranch.execution.cluster_calls import (
    Constants,
    Definition,
    Head,
    Read,
    Template,
    arguments,
    split,
)
from anabranch.execution.group_at_work import GroupAtWork, returned
from anabranch.execution.interrupts import Interrupt, Interruptible
from anabranch.execution.measuring import STAYS_FROM, measured
from anabranch.execution.messages import Message, framed, unframed
from anabranch.execution.pickling import loads
from anabranch.execution.portable import packed
from anabranch.execution.remote_engine import RemoteEngine
from anabranch.execution.remote_runs import FlowStandIn
from anabranch.execution.run import drive_alone, failure, run_call
from anabranch.execution.task_logs import listen_to_calls, note_levels
from anabranch.logging import prints_logged
from anabranch.outcomes import COMPLETED, Outcome
from anabranch.records import made_of
from anabranch.waiting import Waiter

TELL_AFTER_SECONDS = 0.02
"""A call that has run for so long is told of, and so is what it has said since."""
FLUSH_SECONDS = 0.1
REFUSED = 10_000
"""Calls that are not to begin here, and that a worker remembers."""
KEPT = 200
"""Definitions, and constants of maps, that a worker remembers."""


class Uplink(Protocol):
    """A worker's way to the flow, and to its engine's slots."""

    def send(self, key: int | None, frame: bytes) -> None:
        """Frames of a call arrive in the order in which they were sent, and are counted for it; those
        of none tell ends of calls. From any thread."""
        ...

    def lend(self) -> AbstractContextManager[None]:
        """Give the calling thread's slot to others for the length of the block."""
        ...

    def abandon(self, thread: int) -> None:
        """Give the slot of a thread that cannot be ended to others."""
        ...

    def ends(self) -> bool:
        """Whether this process was told to end: a call's end now is none of its own."""
        ...


class Ended(NamedTuple):
    """What is left of a call: the words that tell its end, and the value if that is to stay. Of a group
    it is that of one call, whose `key` it has; `is_all` says that nothing was told before by it, or by
    a worker that had it before."""

    said: list[Message]
    value: Any
    key: int | None
    is_all: bool = False


class AtWork:
    """A call that runs here. `said` waits to be sent, `frames` have been; `stopped` is one that was
    told to stop, maybe while its function or its arguments were still read."""

    __slots__ = (
        "attempt",
        "began",
        "flushed",
        "frames",
        "group",
        "insist",
        "interrupt",
        "key",
        "said",
        "stopped",
        "thread",
        "told",
    )

    def __init__(self, head: Head, group: GroupAtWork | None) -> None:
        self.group = group
        self.key = head.key
        self.attempt = head.attempt
        self.thread = threading.get_ident()
        self.began = inf  # while its function is read, whose imports are no part of its time
        self.flushed = monotonic()
        self.told = False
        self.said: list[Message] = []
        self.frames = 0
        self.interrupt: Callable[[], object] | None = None
        self.insist: Callable[[], object] | None = None
        self.stopped = False


class ClusterWorker:
    """What this process knows of one flow; a `remote_engine.Line`."""

    def __init__(self, template: Template, uplink: Uplink) -> None:
        self.uplink = uplink
        self.engine = RemoteEngine(self)
        self._at_work: dict[tuple[int, int], AtWork] = {}  # by key and attempt
        self._base: ContextVar[tuple[int, int]] = ContextVar("anabranch_base_call")
        self._definitions: dict[str, Definition] = {}
        self._constants: dict[str, Read] = {}
        self._refused: dict[tuple[int, int], bool] = {}  # calls that are not to begin
        self._changing = threading.RLock()
        self._busy = threading.Event()
        self._told: SimpleQueue[bytes | None] = SimpleQueue()
        self._closed = False
        note_levels(template.levels)
        for work in (self._keep_telling, self._read):
            threading.Thread(target=work, name="anabranch-worker", daemon=True).start()

    # -- calls ------------------------------------------------------------------------------------

    def carry_out_group(
        self,
        template: Template,
        number: int,
        calls: Sequence[bytes],
        constants: Constants | None,
        granted: Granted | None,
        settle: Callable[[int], object],
    ) -> Ended:
        """Run calls on this thread one after the other, as far as they are granted. `settle` takes
        the place of a call whose value is to stay as that of all."""
        if granted is None:  # its worker before died; what it had told has come
            return Ended([returned(number, calls, True)], None, None)
        if granted.only is not None:
            ended = self.carry_out(template, calls[granted.only], constants, ())
            return ended._replace(said=[*ended.said, returned(number, calls, True)])
        wanted = calls
        if struck := granted.struck:
            wanted = [each for each in calls if split(each)[0].key not in struck]
        group = GroupAtWork(
            number, wanted, lambda frame: self.uplink.send(None, frame), self._changing
        )
        value, key = None, None
        while value is None and (data := group.next()) is not None:
            said, value, key, _ = self.carry_out(template, data, constants, (), group)
            if self.uplink.ends():
                return Ended(group.said, None, None)
            if value is not None:
                settle(calls.index(data))
                group.give_back()
            group.has_ended(said)
        return Ended(group.said, value, key, is_all=not group.has_told)

    def carry_out(
        self,
        template: Template,
        data: bytes,
        constants: Constants | None,
        values: Sequence[Any],
        group: GroupAtWork | None = None,
    ) -> Ended:
        """Run a call on this thread, maybe of a group; never raises what the call does."""
        head, rest = split(data)
        at_work, place = AtWork(head, group), (head.key, head.attempt)
        with self._changing:
            self._at_work[place] = at_work
            at_work.stopped = self._refused.pop(place, False)
        if not self._busy.is_set():
            self._busy.set()
        self._base.set(place)
        started, value = time(), None
        try:
            definition = self._definition(template)
            at_work.began, started = monotonic(), time()
            if head.announces:
                self._tell_start(at_work)
            call = self._call(definition, head, rest, constants, values)
            outcome = self._kept_before(call) or self._run(call, at_work)
            sent, stays = self._sent(call, outcome)
            if stays is not None:
                value = outcome.value
        except BaseException as error:  # imports run users' code, and so does reading arguments
            sent, stays = _unread(head, error, started)
        finally:
            with self._changing:
                del self._at_work[place]
        said = [*at_work.said, (messages.ENDED, sent, stays, at_work.frames)]
        return Ended(said, value, head.key)

    def _definition(self, template: Template) -> Definition:
        definition = self._definitions.get(template.token)
        if definition is None:
            definition = Definition(template, self.engine, FlowStandIn)
            self._remember(self._definitions, template.token, definition)
        return definition

    def _call(
        self,
        definition: Definition,
        head: Head,
        data: bytes,
        constants: Constants | None,
        values: Sequence[Any],
    ) -> Call:
        scope = definition.scope(head.place)
        place = (head.key, head.attempt, definition.spec, scope)
        if head.args is not None:
            return made_of(Call, (*place, head.args, {}, head.name, None))
        shared = None
        if constants is not None:
            shared = self._constants.get(constants.token)
            if shared is None:
                shared = loads(constants.data, self.engine)
                self._remember(self._constants, constants.token, shared)
        args, kwargs = arguments(data, shared, self.engine, values)
        return Call(*place, args, kwargs, head.name)

    def _remember(self, known: dict[str, Any], token: str, thing: Any) -> None:
        with self._changing:
            known[token] = thing
            if len(known) > KEPT:
                del known[next(iter(known))]

    def _kept_before(self, call: Call) -> Outcome | None:
        """The outcome of a call whose result was stored by a worker that is gone since."""
        keep = call.scope.keep
        if keep is None or call.spec.persistence is None:
            return None
        found = keep.found(call)
        if found is None:
            return None
        value, kept = found
        return Outcome(call.key, call.attempt, COMPLETED, value, time(), 0.0, kept=kept)

    def _run(self, call: Call, at_work: AtWork) -> Outcome:
        started = time()
        with Interruptible() as interruptible:
            with self._changing:
                at_work.interrupt = interruptible.interrupt
                at_work.insist = interruptible.insist
                stopped = at_work.stopped
            try:
                if stopped:
                    raise Interrupt
                outcome = run_call(call, lambda coroutine: self._drive(coroutine, at_work))
            except Interrupt as interrupt:  # it came after the task's own code had ended
                outcome = failure(call, interrupt, started, time() - started)
            at_work.interrupt = at_work.insist = None
            interruptible.settle(isinstance(outcome.value, Interrupt))
        return outcome

    def _drive(self, coroutine: Coroutine[Any, Any, Any], at_work: AtWork) -> Any:
        async def run() -> Any:
            loop, task = asyncio.get_running_loop(), asyncio.current_task()
            assert task is not None  # this is one
            whole, at_work.interrupt = (
                at_work.interrupt,
                lambda: loop.call_soon_threadsafe(task.cancel),
            )
            try:
                return await coroutine
            finally:
                at_work.interrupt = whole

        return drive_alone(run())

    def _sent(self, call: Call, outcome: Outcome) -> tuple[Any, int | None]:
        """The outcome as it travels, and the size of its value where that stays here."""
        if outcome.phase == COMPLETED and not isinstance(outcome.value, BaseException):
            size = measured(outcome.value, lambda: f"The result of {call.run_name}")
            if size >= STAYS_FROM:
                value, kept = outcome.value, outcome.kept
                if kept is None and call.scope.keep is not None:
                    value, kept = call.kept(value)
                bare = outcome._replace(value=None, kept=kept)
                return packed(bare, lambda: call.run_name), size
        return packed(outcome, lambda: call.run_name), None

    # -- what the engine's stand-in needs, see `remote_engine.Line` ---------------------------------

    def ask(self, request: bytes) -> None:
        at_work = self._base_call()
        if at_work is not None:
            with self._changing:
                at_work.said.append((messages.REQUEST, at_work.key, request))
                self._flush(at_work)

    @contextmanager
    def lend(self) -> Generator[None]:
        at_work = self._base_call()
        if at_work is None or at_work.thread != threading.get_ident():
            yield  # a thread that holds no slot
            return
        if at_work.group is not None:
            at_work.group.give_back()
        self._say(at_work, (messages.WAITS, at_work.key, at_work.attempt))
        try:
            with self.uplink.lend():
                yield
        finally:
            self._say(at_work, (messages.GOES_ON, at_work.key, at_work.attempt))

    def wait(self, waiter: Waiter, timeout: float | None) -> bool:
        with self.lend():
            return waiter.wait(timeout)

    def _base_call(self) -> AtWork | None:
        """The call that the calling code belongs to; the last that began, for a thread that does not
        say."""
        with self._changing:
            place = self._base.get(None)
            if place in self._at_work:
                return self._at_work[place]
            return next(reversed(self._at_work.values()), None)

    def _say(self, at_work: AtWork, message: Message) -> None:
        with self._changing:
            at_work.said.append(message)
            self._flush(at_work)

    def log(self, data: bytes) -> bool:
        """A line of the calling code; whether a call here is at work that it can belong to."""
        with self._changing:
            at_work = self._base_call()
            if at_work is not None:
                at_work.said.append((messages.LOG, data))
        return at_work is not None

    # -- what goes back meanwhile -----------------------------------------------------------------

    def _tell_start(self, at_work: AtWork) -> None:
        at_work.told = True
        self._say(at_work, (messages.STARTED, at_work.key, at_work.attempt))

    def _flush(self, at_work: AtWork) -> None:
        at_work.flushed = monotonic()
        if at_work.said and (at_work.key, at_work.attempt) in self._at_work:
            said, at_work.said = at_work.said, []
            at_work.frames += 1
            self.uplink.send(at_work.key, framed(said))

    def _keep_telling(self) -> None:
        while not self._closed:
            self._busy.wait()
            sleep(TELL_AFTER_SECONDS)
            now = monotonic()
            with self._changing:
                for at_work in list(self._at_work.values()):
                    if at_work.group is not None and now - at_work.began > TELL_AFTER_SECONDS:
                        at_work.group.give_back()
                    if not at_work.told and now - at_work.began > TELL_AFTER_SECONDS:
                        self._tell_start(at_work)
                    elif at_work.said and now - at_work.flushed > FLUSH_SECONDS:
                        self._flush(at_work)
                if not self._at_work:
                    self._busy.clear()

    def stop(self, calls: Sequence[tuple[int, int]]) -> list[int]:
        """See `stop` below."""
        found: list[int] = []
        for key, attempt in calls:
            self._interrupt(key, attempt)
            if (key, attempt) in self._at_work:
                found.append(key)
        return found

    # -- what is told -----------------------------------------------------------------------------

    def tell(self, frame: bytes) -> None:
        """Take what the flow tells, in order; from any thread, and at once."""
        self._told.put(frame)

    def _read(self) -> None:
        while (frame := self._told.get()) is not None:
            for message in unframed(frame):
                if message[0] == messages.NOTICE:
                    self.engine.told(message[1])
                elif message[0] == messages.INTERRUPT:
                    self._interrupt(*message[1:])
                elif message[0] == messages.ABANDON:
                    at_work = self._at_work.get((message[1], message[2]))
                    if at_work is not None:
                        if at_work.group is not None:
                            at_work.group.give_back()
                        if at_work.insist is not None:
                            at_work.insist()
                        self.uplink.abandon(at_work.thread)

    def _interrupt(self, key: int, attempt: int) -> None:
        with self._changing:
            at_work = self._at_work.get((key, attempt))
            if at_work is None:
                self._refused[key, attempt] = True
                if len(self._refused) > REFUSED:
                    del self._refused[next(iter(self._refused))]
                return
            at_work.stopped = True
            interrupt = at_work.interrupt
        if interrupt is not None:
            interrupt()

    def close(self) -> None:
        """The flow is over: what still runs of it holds no slot."""
        with self._changing:
            left = list(self._at_work.values())
        for at_work in left:
            if at_work.group is not None:
                at_work.group.drop()
            self._interrupt(at_work.key, at_work.attempt)
            self.uplink.abandon(at_work.thread)
        self._closed = True
        self._busy.set()
        self._told.put(None)


flows_here: set[Any] = set()
"""Where flows of this very process are replied to: what their calls log has arrived already."""

_workers: dict[Any, ClusterWorker] = {}  # by where they reply to
_changing = threading.Lock()
_lifetimes = ExitStack()  # of what lasts as long as there are any


def worker_for(template: Template, where: str, connect: Callable[[], Uplink]) -> ClusterWorker:
    """What this process knows of an open runner; `where` names the process in errors.

    Raises `WorkerVersionError`.
    """
    worker = _workers.get(template.reply_to)
    if worker is None:
        template.refuse_versions(where)
        with _changing:
            worker = _workers.get(template.reply_to)
            if worker is None:
                if template.reply_to not in flows_here:
                    listen_to_calls(log)
                if not _workers:
                    _lifetimes.enter_context(prints_logged())
                worker = _workers[template.reply_to] = ClusterWorker(template, connect())
    return worker


def tell(reply_to: Any, frame: bytes) -> bool:
    """Hand on what the flow tells; whether it is known here."""
    worker = _workers.get(reply_to)
    if worker is not None:
        worker.tell(frame)
    return worker is not None


def stop(reply_to: Any, calls: Sequence[tuple[int, int]]) -> list[int]:
    """End calls, by key and attempt, that run here, and let no other of these begin; the keys of the
    first."""
    worker = _workers.get(reply_to)
    return [] if worker is None else worker.stop(calls)


def forget(reply_to: Any) -> None:
    """The flow is over."""
    with _changing:
        worker = _workers.pop(reply_to, None)
        if not _workers:
            _lifetimes.close()
    if worker is not None:
        worker.close()


def log(engine: Any, data: bytes) -> bool:
    """A line of code that runs here for the flow of this engine, or of none that it says; whether it
    was taken."""
    for worker in list(_workers.values()):
        if (engine is None or worker.engine is engine) and worker.log(data):
            return True
    return False


def _unread(head: Head, error: BaseException, started: float) -> tuple[Any, None]:
    """The end of a call whose function or arguments could not be read, as it travels."""
    call = Call(head.key, head.attempt, _NO_SPEC, _NO_SCOPE, (), {}, head.name)
    outcome = failure(call, error, started, time() - started)
    return packed(outcome, lambda: head.name or "a task"), None


def _nothing() -> None:
    """Stands for a function that could not be loaded."""


_NO_SPEC = TaskSpec("", "", _nothing)
_NO_SCOPE = Scope(None, None, None, None, frozenset(), False, 0, 0, 0)
