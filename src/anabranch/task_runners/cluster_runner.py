"""What runners of clusters have in common: calls that are out, what workers tell of them, their ends.

The cluster's own engine distributes; `Cluster` is what is asked of it. All that workers tell is dealt
with on one thread, in the order in which it came.
"""

from __future__ import annotations

import itertools
import logging
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from time import monotonic, time
from typing import Any, NamedTuple
from weakref import WeakSet

from anabranch.errors import AnabranchError, CrashedRun, LostResultError
from anabranch.execution import messages
from anabranch.execution.calls import Call
from anabranch.execution.cluster_calls import Sending, Sent
from anabranch.execution.messages import framed, unframed
from anabranch.execution.portable import unpacked
from anabranch.execution.remote_logs import handle_remote, logger_levels
from anabranch.outcomes import CANCELLED, COMPLETED, CRASHED, FAILED, Away, Outcome, RemoteValue
from anabranch.task_runners.base import Capabilities, Desk, Inbox, OpenRunnerBase
from anabranch.task_runners.cluster_port import Cluster, Flying, Group
from anabranch.task_runners.grouping import Grouping
from anabranch.task_runners.thread_pool import not_begun

logger = logging.getLogger("anabranch.runs")

TICK_SECONDS = 0.1
MOST_AT_ONCE = 1_000
"""Calls that are given to an engine at once, and words of workers that are dealt with at once."""
PROBE_SECONDS = 0.03
"""Calls that wait to hear how long the first of their task takes wait no longer."""
DOUBT_SECONDS = 0.2
"""A call that was cancelled and says so long nothing had not begun."""
LATE_SECONDS = 10.0
"""A call that has ended by what the engine says, and is not heard of for so long, is lost."""
HOME_BYTES = 1 << 28
"""Values of so many bytes in all are brought here from a cluster that is let go."""
RESTARTS = 5
"""An engine that starts a call anew more often, since its workers die, would do so for ever."""
KILL_SECONDS = 1.0
"""From the first way to stop a call to the last."""


class Heard(NamedTuple):
    """A frame of messages from a worker. `key` is that of the call that it is counted for, `handle`
    that of the call's value where it comes no other way."""

    worker: str
    frame: bytes
    key: int | None = None
    handle: Any = None


class Gone(NamedTuple):
    """A worker is no more."""

    worker: str


@contextmanager
def cluster_at_work(
    inbox: Inbox, capabilities: Capabilities, connect: Callable[[ClusterRunner], Cluster]
) -> Generator[ClusterRunner]:
    """An open runner on what `connect` gives for it."""
    runner = ClusterRunner(inbox, capabilities)
    runner.work_on(connect(runner))
    try:
        yield runner
    finally:
        runner.close()


class ClusterRunner(OpenRunnerBase):
    """Calls on the workers of a cluster."""

    def __init__(self, inbox: Inbox, capabilities: Capabilities) -> None:
        self.capabilities = capabilities
        self._inbox = inbox
        self._cluster: Any = None
        self._flying: dict[int, Flying] = {}
        self._outlived: dict[tuple[int, int], Flying] = {}  # earlier attempts, by key and attempt
        self._changing = threading.RLock()
        self._packing = threading.Lock()
        self._grouping = Grouping()
        self._numbers = itertools.count(1)
        self._may_start = threading.Event()
        self._news: SimpleQueue[Sequence[Any]] = SimpleQueue()
        self._desks: dict[str, Desk] = {}
        self._remote: WeakSet[RemoteValue] = WeakSet()
        self._ending = self._closing = False
        self._thread = threading.Thread(target=self._work, name="anabranch-cluster", daemon=True)
        self._starts = threading.Thread(
            target=self._keep_starting, name="anabranch-starts", daemon=True
        )

    def work_on(self, cluster: Cluster) -> None:
        """Begin, with the engine's side."""
        self._cluster = cluster
        self._sending = Sending(cluster.reply_to, logger_levels())
        self._starts.start()
        self._thread.start()

    # -- the port ---------------------------------------------------------------------------------

    def launch(self, calls: Sequence[Call]) -> None:
        ready = self._packed(list(calls))
        with self._changing:
            for sent in ready:
                self._supersede(sent.call.key)
                self._flying[sent.call.key] = Flying(sent.call, sent.template.token)
        self._grouping.put(ready)
        self._may_start.set()

    def _packed(self, calls: Sequence[Call]) -> list[Sent]:
        """The calls as they travel; those that cannot have failed."""
        ready: list[Sent] = []
        bad: list[Outcome] = []
        with self._packing:
            for number, call in enumerate(calls):
                try:
                    ready.append(self._sending.sent(calls, number))
                except Exception as error:  # mostly `UnpicklableError`
                    bad.append(Outcome(call.key, call.attempt, FAILED, error, time(), 0.0))
        if bad:
            self._news.put(bad)
        return ready

    def _keep_starting(self) -> None:
        while not self._ending:
            self._may_start.wait()
            self._may_start.clear()
            while not self._ending and self._start():
                pass

    def _start(self) -> bool:
        """Give the engine what is to go now; whether there was any."""
        try:
            slots = self._cluster.slots()
        except Exception:  # it is gone, which starting says
            slots = None
        taken = self._grouping.take(slots, self._is_wanted, MOST_AT_ONCE)
        groups = [
            (Group(next(self._numbers), len(calls), {sent.call.key for sent in calls}), calls)
            for calls in taken
        ]
        flying = [[self._goes(sent, group) for sent in calls] for group, calls in groups]
        try:
            for number, handle in enumerate(self._cluster.start(groups)):
                for each in flying[number]:
                    each.handle = handle
        except Exception as error:  # the cluster is gone, or refuses these
            left = [each for members in flying for each in members if self._is_out(each)]
            self._news.put([_crashed(each.call, error) for each in left])
            for each in left:
                self._drop(each)
        doomed = [each for members in flying for each in members if each.doomed_at is not None]
        if doomed:
            try:
                self._cluster.cancel(doomed)
            except Exception as error:  # this thread may not end before the flow does
                logger.debug("Calls that nobody wants could not be cancelled: %s", error)
        return bool(groups)

    def _goes(self, sent: Sent, group: Group) -> Flying:
        with self._changing:
            flying = self._wanted(sent.call)
            if flying is None:  # it was cancelled just now
                flying = Flying(sent.call, sent.template.token, doomed_at=monotonic())
                group.left.discard(sent.call.key)
                if not group.left:
                    self._grouping.came_back(flying.kind)
            flying.group = group
        return flying

    def _is_wanted(self, sent: Sent) -> bool:
        return self._wanted(sent.call) is not None

    def _is_out(self, flying: Flying) -> bool:
        return self._flying.get(flying.call.key) is flying

    def _wanted(self, call: Call) -> Flying | None:
        """What is known of a call, unless it was cancelled since it was launched."""
        flying = self._flying.get(call.key)
        if flying is None or flying.call is not call or flying.doomed_at is not None:
            return None
        return flying

    def _supersede(self, key: int) -> None:
        """The attempt before has not ended: it was told to, and may be at work for a while."""
        before = self._flying.get(key)
        if before is not None:
            before.doomed_at = before.doomed_at or monotonic()
            self._outlived[key, before.call.attempt] = before
            self._leave_group(before)
            self._cluster.ended(before)

    def cancel(self, keys: Iterable[int]) -> None:
        now = monotonic()
        with self._changing:
            doomed = [self._flying[key] for key in keys if key in self._flying]
            for flying in doomed:
                flying.doomed_at = flying.doomed_at or now
        idle = [flying for flying in doomed if flying.began is None]
        if idle:
            self._cluster.cancel(idle)
        for flying in doomed:
            if flying.began is not None:
                self._interrupt(flying, False)

    def running(self) -> Iterable[tuple[int, int]]:
        return [
            (each.call.key, each.call.attempt)
            for each in list(self._flying.values())
            if each.began is not None
        ]

    def abandoned(self) -> list[str]:
        return [
            f"{each.call.run_name} on {each.worker}"
            for each in [*list(self._flying.values()), *list(self._outlived.values())]
            if each.began is not None
        ]

    def close(self) -> None:
        """Bring values home that someone still has a future of, and let the cluster go."""
        self._ending = True
        self._may_start.set()
        self._starts.join()
        self._end_what_is_left()
        self._bring_home()
        self._closing = True
        self._news.put([])  # it looks up
        self._thread.join()
        for desk in self._desks.values():
            desk.close()
        self._cluster.close()

    def _end_what_is_left(self) -> None:
        """Nobody waits for these any more, and others may need their places."""
        left = list(self._flying.values())
        for flying in [*left, *self._outlived.values()]:
            if flying.began is not None:
                self._interrupt(flying, True)
        idle = [flying for flying in left if flying.began is None]
        if idle:
            self._cluster.cancel(idle)

    # -- what workers tell ------------------------------------------------------------------------

    def heard(self, *told: Heard) -> None:
        """Workers have told something; from any thread."""
        self._news.put(told)

    def gone(self, worker: str) -> None:
        """A worker is no more; from any thread."""
        self._news.put([Gone(worker)])

    def _work(self) -> None:
        ticked = monotonic()
        while not self._closing:
            outcomes: list[Outcome] = []
            for news in self._next_news():
                try:
                    self._take(news, outcomes)
                except Exception:  # a filter of the user's, say: no reason to lose calls
                    traceback.print_exc()
            try:
                if monotonic() - ticked >= TICK_SECONDS:
                    ticked = monotonic()
                    self._tick(outcomes)
            except Exception:  # what has ended is told all the same
                logger.exception("What has become of calls could not be looked at")
            try:
                if outcomes:
                    self._inbox.finished(outcomes)
                if self._grouping.holds():
                    self._may_start.set()
            except Exception:  # this thread may not end before the flow does
                logger.exception("What the cluster says could not be dealt with")

    def _next_news(self) -> list[Any]:
        news: list[Any] = []
        try:
            news += self._news.get(timeout=TICK_SECONDS)
            while len(news) < MOST_AT_ONCE:
                news += self._news.get_nowait()
        except Empty:
            pass
        return news

    def _take(self, news: Any, outcomes: list[Outcome]) -> None:
        if isinstance(news, Heard):
            if news.handle is not None and news.key in self._flying:
                self._flying[news.key].handle = news.handle
            for message in unframed(news.frame):
                try:
                    self._hear(news.worker, message, outcomes)
                except Exception:  # a filter of the user's, say: no reason to lose other calls
                    traceback.print_exc()
            self._count(news, outcomes)
        elif isinstance(news, Gone):
            desk = self._desks.pop(news.worker, None)
            if desk is not None:
                desk.close()
        elif isinstance(news, Outcome):
            outcomes.append(news)

    def _hear(self, worker: str, message: messages.Message, outcomes: list[Outcome]) -> None:
        tag = message[0]
        if tag == messages.ENDED:
            self._ended(worker, message, outcomes)
        elif tag == messages.LOG:
            handle_remote(message[1])
        elif tag == messages.STARTED:
            self._started(worker, message[1], message[2])
        elif tag == messages.WAITS or tag == messages.GOES_ON:
            flying = self._flying.get(message[1])
            if flying is not None and flying.call.attempt == message[2]:
                self._is_on(flying, worker)
                flying.waits = tag == messages.WAITS
                self._cluster.waits(flying)
        elif tag == messages.RETURNED:
            self._returned(message[1], message[2], message[3], outcomes)
        elif tag == messages.REQUEST:
            flying = self._flying.get(message[1])
            if flying is not None:
                self._desk(worker).asked(flying.call, message[2])

    def _started(self, worker: str, key: int, attempt: int) -> None:
        flying = self._flying.get(key)
        if flying is None or flying.call.attempt != attempt:
            flying = self._outlived.get((key, attempt))
        if flying is None:
            return
        self._is_on(flying, worker)
        flying.began, flying.began_at = monotonic(), time()
        if flying.doomed_at is not None:
            self._interrupt(flying, False)
        elif flying.call.spec.announces:
            self._inbox.started(key, attempt)

    def _is_on(self, flying: Flying, worker: str) -> None:
        """Note where a call is: anew on another worker only if the first is gone."""
        if flying.worker is not None and flying.worker != worker:
            flying.restarts, flying.frames, flying.waits = flying.restarts + 1, 0, False
            self._cluster.is_gone(flying.worker)
        flying.worker = worker

    def _ended(self, worker: str, message: messages.Message, outcomes: list[Outcome]) -> None:
        _, sent, stays, frames = message
        key, attempt = sent[:2]
        self._outlived.pop((key, attempt), None)
        flying = self._flying.get(key)
        if flying is None or flying.call.attempt != attempt:
            return
        untold = self._cluster.counts_frames and frames > flying.frames
        if untold or (stays is not None and flying.handle is None):  # it is faster than its start
            if flying.overtaken_at is None:
                flying.end, flying.overtaken_at, flying.worker = message, monotonic(), worker
            if monotonic() - flying.overtaken_at < LATE_SECONDS:
                return
            logger.warning("Some of what %s told on its way has not come", flying.call.run_name)
        self._is_on(flying, worker)
        self._drop(flying)
        outcome = unpacked(sent, lambda: flying.call.run_name, self._inbox)
        self._grouping.ended(flying.kind, outcome.seconds)
        if stays is not None and outcome.phase == COMPLETED:
            self._grouping.is_large(flying.kind)
            remote = RemoteValue(self, flying.handle, stays, self._fetch)
            self._remote.add(remote)
            outcome = outcome._replace(value=Away(remote.load, remote))
        elif flying.doomed_at is not None and outcome.phase != COMPLETED:
            outcome = _stopped(flying)
        outcomes.append(outcome)
        desk = self._desks.get(worker)
        if desk is not None:
            desk.ended(key)

    def _count(self, heard: Heard, outcomes: list[Outcome]) -> None:
        """A frame of a call has come; its end may have overtaken it."""
        flying = self._flying.get(heard.key) if heard.key is not None else None
        if flying is not None:
            flying.frames += 1
            if flying.end is not None:
                self._ended(heard.worker, flying.end, outcomes)

    def _returned(
        self,
        places: Sequence[tuple[int, int]],
        alone: bool,
        number: int,
        outcomes: list[Outcome],
    ) -> None:
        """A worker has given back calls of a group that it has not begun, or that went down with
        another; those go alone."""
        again: list[Flying] = []
        for key, attempt in places:
            flying = self._flying.get(key)
            if flying is None or flying.call.attempt != attempt or flying.end is not None:
                continue
            if flying.group is None or flying.group.number != number:
                continue  # it goes again already
            if flying.doomed_at is None:
                again.append(flying)
            else:
                self._drop(flying)
                outcomes.append(not_begun(flying.call))
        self._go_again(again, alone)

    def _go_again(self, again: Sequence[Flying], alone: bool) -> None:
        ready = self._packed([flying.call for flying in again])
        with self._changing:
            still = {flying.call.key: flying for flying in again if self._is_out(flying)}
            for flying in still.values():
                self._drop(flying)
            ready = [sent for sent in ready if sent.call.key in still]
            for sent in ready:
                doomed_at = still[sent.call.key].doomed_at
                new = Flying(sent.call, sent.template.token, doomed_at=doomed_at)
                self._flying[sent.call.key] = new
        self._grouping.put(ready, again=True, alone=alone)

    def _desk(self, worker: str) -> Desk:
        desk = self._desks.get(worker)
        if desk is None:
            desk = self._desks[worker] = self._inbox.desk(lambda notice: self._tell(worker, notice))
        return desk

    def _tell(self, worker: str, notice: bytes) -> None:
        self._cluster.tell(worker, framed([(messages.NOTICE, notice)]))

    # -- what becomes of calls that say nothing ------------------------------------------------------

    def _tick(self, outcomes: list[Outcome]) -> None:
        now = monotonic()
        for flying in [each for each in list(self._flying.values()) if each.doomed_at is not None]:
            waited = now - (flying.doomed_at or now)
            if flying.began is None and waited > DOUBT_SECONDS:
                self._drop(flying)
                outcomes.append(not_begun(flying.call))
            elif flying.began is not None and waited > KILL_SECONDS:
                self._interrupt(flying, True)
        for place, flying in list(self._outlived.items()):
            waited = now - (flying.doomed_at or now)
            if flying.began is not None and waited > KILL_SECONDS:
                self._interrupt(flying, True)
            elif flying.began is None and waited > LATE_SECONDS:
                del self._outlived[place]
        for flying in list(self._flying.values()):
            began, kind = flying.began, flying.kind
            if began and now - began > PROBE_SECONDS and self._grouping.unmeasured(kind):
                self._grouping.is_long(kind)
        for flying in [each for each in list(self._flying.values()) if each.end is not None]:
            self._ended(flying.worker or "", flying.end, outcomes)
        for flying in [each for each in list(self._flying.values()) if each.restarts > RESTARTS]:
            self._drop(flying)
            self._cluster.cancel([flying])
            worn = RuntimeError(
                f"{flying.restarts} workers died under it; the last is {flying.worker}"
            )
            outcomes.append(_crashed(flying.call, worn, flying))
        for key, attempt, error, lost, group in self._cluster.look(list(self._flying.values())):
            flying = self._flying.get(key)
            if flying is None or flying.call.attempt != attempt or flying.end is not None:
                continue
            if group is not None and group is not flying.group:
                continue  # it goes again, alone
            if flying.doomed_at is None and flying.is_grouped:
                self._go_again([flying], True)  # it may be the fault of another
                continue
            self._drop(flying)
            if flying.doomed_at is not None:
                outcomes.append(
                    not_begun(flying.call) if flying.began is None else _stopped(flying)
                )
            else:
                outcomes.append(_crashed(flying.call, error, flying, lost))

    def _drop(self, flying: Flying) -> None:
        key = flying.call.key
        with self._changing:
            if self._flying.get(key) is flying:  # not the next attempt, launched meanwhile
                del self._flying[key]
            self._leave_group(flying)
        self._cluster.ended(flying)

    def _leave_group(self, flying: Flying) -> None:
        group = flying.group
        if group is not None and flying.call.key in group.left:
            group.left.discard(flying.call.key)
            if not group.left:
                self._grouping.came_back(flying.kind)

    def _interrupt(self, flying: Flying, last: bool) -> None:
        if flying.worker is None or flying.abandoned:
            return
        flying.abandoned = last
        if last:
            self._cluster.kill(flying)
        tag = messages.ABANDON if last else messages.INTERRUPT
        frame = framed([(tag, flying.call.key, flying.call.attempt)])
        self._cluster.tell(flying.worker, frame)

    # -- values that stay -------------------------------------------------------------------------

    def _fetch(self, remote: RemoteValue) -> Any:
        if remote.home is None:
            raise LostResultError("the flow has ended")
        try:
            return self._cluster.fetch(remote.handle)
        except Exception as error:
            raise LostResultError(f"{type(error).__name__}: {error}") from error

    def _bring_home(self) -> None:
        left = HOME_BYTES
        for remote in list(self._remote):
            left -= remote.size
            try:
                if left >= 0:
                    remote.bring_home()
            except LostResultError:
                pass
            if remote.handle is not None:
                remote.home = remote.handle = None


def _stopped(flying: Flying) -> Outcome:
    call, seconds = flying.call, monotonic() - (flying.began or monotonic())
    message = "Cancelled while it ran."
    return Outcome(call.key, call.attempt, CANCELLED, None, flying.began_at, seconds, message)


def _crashed(
    call: Call, error: BaseException, flying: Flying | None = None, lost: bool = False
) -> Outcome:
    if not isinstance(error, CrashedRun):
        named = "" if isinstance(error, AnabranchError) else f"{type(error).__name__}: "
        told = CrashedRun(f"{call.run_name}: {named}{error}")
        told.__cause__ = error
        error = told
    seconds = 0.0
    if flying is not None and flying.began is not None:
        seconds = monotonic() - flying.began
    return Outcome(
        call.key, call.attempt, CRASHED, error, time() - seconds, seconds, str(error), lost=lost
    )


__all__ = ["ClusterRunner", "cluster_at_work"]
