"""Worker threads for calls: daemons, so that one which never returns cannot hold up the exit."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from threading import get_ident
from time import monotonic
from typing import Any

from anabranch.execution.calls import Call
from anabranch.execution.run import drive_alone, run_call
from anabranch.futures import TaskFuture
from anabranch.locks import YieldingLock
from anabranch.outcomes import CANCELLED, Outcome
from anabranch.task_runners.base import Capabilities, Inbox, OpenRunnerBase
from anabranch.task_runners.pace import LOOKS, MANY, Pace
from anabranch.task_runners.ready_queue import ReadyQueue
from anabranch.waiting import Waiter

GROUP = 128
"""Outcomes are handed back when so many have gathered, when no call is left,"""
GROUP_SECONDS = 0.002
"""after a call that took so long, or when the sweeper looks, which it does as often."""
NESTED_ON_ONE_THREAD = 12
"""How many calls a waiting thread runs inside each other, before the next gets a new thread."""


class Worker:
    """One thread: what it runs, and how to wake it."""

    __slots__ = ("abandoned", "call", "loop", "nested", "thread", "wake")

    def __init__(self) -> None:
        self.wake = threading.Lock()
        self.wake.acquire()
        self.call: Call | None = None
        self.nested = 0
        self.abandoned = False
        self.loop: Any = None
        self.thread: threading.Thread | None = None

    def drive(self, coroutine: Any) -> Any:
        """Run a coroutine on the loop that this thread keeps; what it leaves there is cancelled."""
        import asyncio  # 25 ms that a process without async tasks need not spend

        if asyncio._get_running_loop() is not None:  # the only way to ask without an exception
            return drive_alone(coroutine)
        if self.loop is None:
            self.loop = asyncio.new_event_loop()
        try:
            return self.loop.run_until_complete(coroutine)
        finally:
            left = asyncio.all_tasks(self.loop)
            for task in left:
                task.cancel()
            if left:
                self.loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))

    def close(self) -> None:
        if self.loop is not None:
            self.loop.close()


class ThreadPool(OpenRunnerBase):
    """At most `max_workers` calls at a time, not counting those that wait for others."""

    def __init__(self, inbox: Inbox, max_workers: int, capabilities: Capabilities) -> None:
        self.capabilities = capabilities
        self._inbox = inbox
        self._max_workers = max_workers
        self._queue = ReadyQueue()
        self._outcomes: deque[Outcome] = deque()
        self._idle: deque[Worker] = deque()
        self._workers: dict[int, Worker] = {}
        self._changing = YieldingLock()
        self._count = 0
        self._lent = 0
        self._abandoned = 0
        self._made = 0
        self._closed = False
        self._pace = Pace()
        self._handed_back = 0  # outcomes, or nearly so many: threads may count at once
        self._last_back: Worker | None = None
        self._sweeper: threading.Thread | None = None
        self._sweep = threading.Semaphore(0)
        self._sweeper_asleep = False

    # -- the port -----------------------------------------------------------------------------------

    def launch(self, calls: Sequence[Call]) -> None:
        """A worker between two calls takes one of these itself. One that submits a single call
        from inside its own mostly waits for it next, and then runs it: nobody is woken before that
        or the sweeper's next look, since two threads that take turns cost more than the call."""
        self._queue.put(calls)
        worker = self._workers.get(get_ident())
        if len(calls) >= MANY or (self._pace.is_quick and worker is None):
            if self._at_work() <= 0:
                self._staff(1)
            self._staff_later(LOOKS)
        elif worker is None:
            self._staff(len(calls))
        elif worker.call is None:
            self._staff(len(calls) - 1)
        elif len(calls) > 1:
            self._staff(len(calls))
        else:
            self._staff_later(1)

    def cancel(self, keys: Iterable[int]) -> None:
        keys = set(keys)
        waiting = self._queue.take_back_all(keys)
        if waiting:
            self._inbox.finished([not_begun(call) for call in waiting])
        for worker in list(self._workers.values()):
            call = worker.call
            if call is not None and call.key in keys:
                self._abandon(worker)

    def wait(
        self, waiter: Waiter, futures: Sequence[TaskFuture[Any]], timeout: float | None
    ) -> bool:
        """A waiting worker first runs what it waits for itself, where no other has begun it."""
        if get_ident() not in self._workers:
            return waiter.wait(timeout)
        if self._pace.holds_back and (self._idle or self._count < self._max_workers):
            self._staff(len(self._queue) - 1)
        if timeout is None:
            for future in futures:
                self.run_awaited(future._key)  # pyright: ignore[reportPrivateUsage]  # the record's key
        if waiter.done:
            return True
        with self.lend():
            return waiter.wait(timeout)

    def run_awaited(self, key: int) -> None:
        worker = self._workers.get(get_ident())
        if worker is not None and worker.nested < NESTED_ON_ONE_THREAD and not _on_a_loop():
            call = self._queue.take_back(key)
            if call is not None:
                self._run_nested(worker, call)

    @contextmanager
    def lend(self) -> Generator[None]:
        if get_ident() not in self._workers:
            yield
            return
        self.flush()
        with self._changing:
            self._lent += 1
        self._staff(1)
        try:
            yield
        finally:
            with self._changing:
                self._lent -= 1

    def running(self) -> Iterable[tuple[int, int]]:
        calls = [worker.call for worker in list(self._workers.values())]
        return [(call.key, call.attempt) for call in calls if call is not None]

    def abandoned(self) -> list[str]:
        return [
            f"{worker.call.run_name} in {worker.thread.name}"
            for worker in list(self._workers.values())
            if worker.call is not None and worker.thread is not None
        ]

    def close(self, seconds: float = 1.0) -> None:
        """Let the threads go; those that still run a call leave when it returns."""
        self._closed = True
        self._sweep.release()
        while self._idle:
            self._wake_one()
        deadline = monotonic() + seconds
        for worker in list(self._workers.values()):
            if worker.call is None and worker.thread is not None:
                worker.thread.join(max(0.0, deadline - monotonic()))

    # -- workers ------------------------------------------------------------------------------------

    def _staff(self, calls: int) -> None:
        """See to it that queued calls find workers."""
        while calls and self._queue:
            calls -= 1
            if self._wake_one():
                continue
            if self._count - self._lent - self._abandoned >= self._max_workers:
                return  # whoever changes that looks at the queue afterwards
            with self._changing:
                if self._count - self._lent - self._abandoned >= self._max_workers or self._closed:
                    return
                self._count += 1
                self._made += 1
                number = self._made
            worker = Worker()
            worker.thread = threading.Thread(
                target=self._work, args=(worker,), name=f"anabranch-worker-{number}", daemon=True
            )
            worker.thread.start()

    def _staff_later(self, looks: int) -> None:
        """The same once the sweeper has looked so often and calls are not quick."""
        self._pace.hold_back(looks)
        if self._sweeper_asleep or self._sweeper is None:
            self._wake_sweeper()

    def _wake_one(self) -> bool:
        if not self._idle:
            return False
        try:
            self._idle.popleft().wake.release()
        except IndexError:
            return False
        return True

    def _work(self, worker: Worker) -> None:
        self._workers[get_ident()] = worker
        queue, outcomes, inbox = self._queue, self._outcomes, self._inbox
        try:
            while True:
                call = queue.take()
                if call is None:
                    if not self._stay(worker):
                        return
                    continue
                worker.call = call
                if call.spec.announces:
                    inbox.started(call.key, call.attempt)
                outcome = run_call(call, worker.drive)
                outcomes.append(outcome)
                worker.call = None
                seconds = outcome[5]
                del outcome  # nothing here keeps its value while the next call is waited for
                if len(outcomes) >= GROUP or seconds > GROUP_SECONDS:
                    self.flush()
                    if self._pace.is_quick and not worker.abandoned:
                        call = None  # whose arguments nothing here keeps
                        self._rest(worker)
                elif self._sweeper_asleep or self._sweeper is None:
                    self._wake_sweeper()
                if (worker.abandoned or self._lent or self._abandoned) and self._retires(worker):
                    self.flush()
                    return
        finally:
            self._workers.pop(get_ident(), None)
            worker.close()

    def _stay(self, worker: Worker) -> bool:
        """Sleep until there may be work; False if the worker is to leave."""
        self.flush()
        if self._closed:
            self._leave()
            return False
        if self._retires(worker):
            return False
        self._idle.append(worker)
        if self._queue or self._closed:  # came in between: nobody may have seen us asleep
            try:
                self._idle.remove(worker)
                return True
            except ValueError:  # someone has, and is about to wake us
                pass
        worker.wake.acquire()
        return True

    def _at_work(self) -> int:
        """Workers that neither sleep nor are lent."""
        return self._count - self._lent - self._abandoned - len(self._idle)

    def _rest(self, worker: Worker) -> None:
        """Sleep until calls are not quick any more, if another worker ends some too: the last that has
        handed back a group."""
        with self._changing:
            last, self._last_back = self._last_back, worker
            if last in (None, worker) or self._at_work() <= 1 or self._closed:
                return
            self._last_back = last
            self._idle.append(worker)
        self._staff_later(LOOKS)
        worker.wake.acquire()

    def _leave(self) -> None:
        with self._changing:
            self._count -= 1

    def _retires(self, worker: Worker) -> bool:
        """Whether there are more workers than needed, and this one leaves."""
        with self._changing:
            if worker.abandoned:
                worker.abandoned = False
                self._abandoned -= 1
            if self._count - self._lent - self._abandoned > self._max_workers:
                self._count -= 1
                return True
        return False

    def _abandon(self, worker: Worker) -> None:
        """Its call was given up and cannot be stopped: another worker takes its place."""
        with self._changing:
            if worker.abandoned:
                return
            worker.abandoned = True
            self._abandoned += 1
        self._staff(1)

    def _run_nested(self, worker: Worker, call: Call) -> None:
        outer = worker.call
        worker.call = call
        worker.nested += 1
        try:
            if call.spec.announces:
                self._inbox.started(call.key, call.attempt)
            outcome = run_call(call, worker.drive)
        finally:
            worker.call = outer
            worker.nested -= 1
        self._inbox.finished((outcome,))

    # -- outcomes -----------------------------------------------------------------------------------

    def flush(self) -> None:
        """Hand back all outcomes that any worker has left here."""
        if not self._outcomes:
            return
        take: Callable[[], Outcome] = self._outcomes.popleft
        batch: list[Outcome] = []
        try:
            while True:
                batch.append(take())
        except IndexError:
            pass
        if batch:
            self._handed_back += len(batch)
            self._inbox.finished(batch)

    def _wake_sweeper(self) -> None:
        with self._changing:
            first = self._sweeper is None
            if first:
                self._sweeper = threading.Thread(
                    target=self._keep_sweeping, name="anabranch-sweeper", daemon=True
                )
            asleep, self._sweeper_asleep = self._sweeper_asleep, False
        if first and self._sweeper is not None:
            self._sweeper.start()
        elif asleep:
            self._sweep.release()

    def _keep_sweeping(self) -> None:
        """Hand back what workers left behind when they went into long calls, and see to it that
        what they submitted does not wait for them."""
        while not self._closed:
            self._sweep.acquire(timeout=GROUP_SECONDS)
            if self._pace.look(self._handed_back + len(self._outcomes), self._at_work()):
                self._staff(len(self._queue))
            if self._outcomes:
                self.flush()
                continue
            # In this order: who leaves something meanwhile sees that it is asleep, or is seen.
            self._sweeper_asleep = True
            if self._queue and self._at_work() < self._max_workers:
                self._pace.hold_back(LOOKS)
            else:
                self._pace.rest()
            if self._outcomes or self._pace.holds_back or self._closed:
                self._sweeper_asleep = False
            else:
                self._sweep.acquire()


def not_begun(call: Call) -> Outcome:
    """The outcome of a call that was cancelled before a worker took it."""
    message = "Cancelled before it began."
    return Outcome(
        call.key, call.attempt, CANCELLED, None, call.scope.engine.clock.time(), 0.0, message
    )


def _on_a_loop() -> bool:
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None
