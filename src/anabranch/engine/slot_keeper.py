"""Takes slots of limits for those who wait for them, on a thread of its own, and gives them back.

Only this thread speaks to the store. While slots are not free it asks again after a pause that grows;
of equal requests one question serves all, and the first that came is the first that gets its slots.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import Any

from anabranch.errors import CancelledRun, ConcurrencySlotTimeoutError, LockedStoreError
from anabranch.limits import Grant, SlotStore, Wanted
from anabranch.waiting import Waiter

logger = logging.getLogger("anabranch.limits")

PAUSES = (0.02, 1.0)
"""The first and the longest, in seconds, between two questions for slots that are not free."""
GROWTH = 1.5
BEAT_SECONDS = 2.0

Answered = Callable[[BaseException | None], object]
"""Told that the slots were taken, or why not; on the keeper's thread, so it must be quick."""


class Ticket:
    """One request: waiting, holding its slots, or left."""

    __slots__ = ("answered", "grant", "left", "then", "timeout", "wanted")

    def __init__(self, wanted: Wanted, timeout: float | None, then: Answered) -> None:
        self.wanted = wanted
        self.timeout = timeout
        self.then = then
        self.grant: Grant | None = None
        self.answered = False
        self.left = False


class Line:
    """Those who wait for the same, and when to ask for it."""

    __slots__ = ("due", "pause", "tickets")

    def __init__(self, due: float) -> None:
        self.tickets: deque[Ticket] = deque()
        self.due = due
        self.pause = PAUSES[0]


class SlotKeeper:
    """Belongs to one engine. `open_slots` opens the store, on the keeper's thread, at its first use.

    Its methods can be called by any thread, and block nowhere but in `close`.
    """

    def __init__(self, open_slots: Callable[[], SlotStore]) -> None:
        self._open_slots = open_slots
        self._slots: SlotStore | None = None
        self._jobs: deque[Callable[[], object]] = deque()
        self._awake = Waiter()
        self._changing = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._lines: dict[Wanted, Line] = {}
        self._deadlines: list[tuple[float, int, Ticket]] = []
        self._order = itertools.count()
        self._later: list[tuple[float, int, Ticket]] = []  # granted, but not yet to be used
        self._returned: list[Grant] = []
        self._spared: Counter[Wanted] = Counter()
        self._beat_at = 0.0
        self._give_at = 0.0

    @property
    def waiting(self) -> int:
        """How many requests wait, more or less."""
        return sum(len(line.tickets) for line in list(self._lines.values()))

    def take(self, wanted: Wanted, timeout: float | None, then: Answered) -> Ticket:
        """Ask for slots; `then` is called once, unless the ticket is given back before. `timeout` in
        seconds; it fails with `ConcurrencySlotTimeoutError`."""
        ticket = Ticket(wanted, timeout, then)
        if not self._put(partial(self._enter, ticket, time.monotonic())):
            then(_ended())
        return ticket

    def give(self, ticket: Ticket) -> None:
        """The ticket's slots are not needed any more, or not waited for."""
        self._put(partial(self._leave, ticket))

    def call(
        self, work: Callable[[SlotStore], Any], then: Callable[[Any, BaseException | None], object]
    ) -> None:
        """Do some other work with the store; `then` gets its value or its error."""
        if not self._put(partial(self._work, work, then)):
            then(None, _ended())

    def close(self, seconds: float) -> None:
        """Give back all that is held, then stop."""
        with self._changing:
            self._closed = True
            thread = self._thread
        if thread is not None:
            self._awake.wake()
            thread.join(seconds)

    def _put(self, job: Callable[[], object]) -> bool:
        with self._changing:
            if self._closed:
                return False
            self._jobs.append(job)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="anabranch-slots", daemon=True
                )
                self._thread.start()
        self._awake.wake()
        return True

    # -- on the keeper's thread ---------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closed:
            self._awake.block(self._pause())
            self._turn()
        self._turn()
        waiting = [ticket for line in self._lines.values() for ticket in line.tickets]
        waiting += [ticket for _, _, ticket in self._later]
        for ticket in waiting:
            if not ticket.answered and not ticket.left:
                self._answer(ticket, _ended())
        if self._slots is not None:
            _guarded(self._slots.close)

    def _turn(self) -> None:
        """Do what is to be done by now."""
        while self._jobs:
            _guarded(self._jobs.popleft())
        now = time.monotonic()
        if (self._returned or self._spared) and now >= self._give_at:
            self._give_back(now)
        for wanted, line in list(self._lines.items()):
            if line.due <= now:
                self._ask(wanted, line)
        now = time.monotonic()
        for ticket in _due(self._later, now):
            self._answer(ticket, None)
        for ticket in _due(self._deadlines, now):
            names, occupy, *_ = ticket.wanted
            late = ConcurrencySlotTimeoutError(names, occupy, ticket.timeout or 0.0)
            self._answer(ticket, late)
        if self._slots is not None and self._slots.is_holding and now >= self._beat_at:
            self._beat_at = now + BEAT_SECONDS
            _guarded(self._slots.beat)

    def _pause(self) -> float | None:
        """Seconds until the next thing to do; None where there is none."""
        dues = [line.due for line in self._lines.values()]
        dues += [heap[0][0] for heap in (self._deadlines, self._later) if heap]
        if self._returned or self._spared:
            dues.append(self._give_at)
        if self._slots is not None and self._slots.is_holding:
            dues.append(self._beat_at)
        return max(0.0, min(dues) - time.monotonic()) if dues else None

    def _opened(self) -> SlotStore:
        if self._slots is None:
            self._slots = self._open_slots()
            self._beat_at = time.monotonic() + BEAT_SECONDS
        return self._slots

    def _work(
        self, work: Callable[[SlotStore], Any], then: Callable[[Any, BaseException | None], object]
    ) -> None:
        try:
            value = work(self._opened())
        except Exception as error:
            then(None, error)
        else:
            then(value, None)

    def _enter(self, ticket: Ticket, asked: float) -> None:
        if ticket.left:
            return
        line = self._lines.get(ticket.wanted)
        if line is None:
            line = self._lines[ticket.wanted] = Line(asked)
        line.tickets.append(ticket)
        if ticket.timeout is not None:
            entry = (asked + ticket.timeout, next(self._order), ticket)
            heapq.heappush(self._deadlines, entry)

    def _leave(self, ticket: Ticket) -> None:
        ticket.left = True
        grant, ticket.grant = ticket.grant, None
        if grant is not None and not ticket.answered:
            self._spare(ticket)
        if grant is None or not grant.leases:
            return
        self._returned.append(grant)
        names = set(ticket.wanted.names)
        for wanted, line in self._lines.items():
            if not names.isdisjoint(wanted.names):
                line.due = 0.0

    def _spare(self, ticket: Ticket) -> None:
        """It was to use slots of a rate, and does not."""
        if ticket.wanted.rate:
            self._spared[ticket.wanted] += 1

    def _give_back(self, now: float) -> None:
        try:
            self._opened().give(self._returned)
            self._returned.clear()
            for wanted, count in self._spared.items():
                self._opened().spare(wanted, count)
        except LockedStoreError:
            self._give_at = now + PAUSES[0]
            return
        except Exception:
            logger.exception("Slots could not be given back; they come free when this run ends")
        self._returned.clear()
        self._spared.clear()

    def _ask(self, wanted: Wanted, line: Line) -> None:
        tickets = line.tickets = deque(ticket for ticket in line.tickets if not ticket.left)
        pause = None
        if tickets:
            try:
                taken = self._opened().take(wanted, len(tickets))
            except LockedStoreError:
                taken = None
            except Exception as error:
                del self._lines[wanted]
                for ticket in tickets:
                    self._answer(ticket, error)
                return
            if taken is not None:
                pause = taken.pause
                if taken.grants:
                    line.pause = PAUSES[0]
                for grant in taken.grants:
                    ticket = tickets.popleft()
                    ticket.grant = grant
                    if grant.after > 0:
                        due = time.monotonic() + grant.after
                        heapq.heappush(self._later, (due, next(self._order), ticket))
                    else:
                        self._answer(ticket, None)
        if not tickets:
            del self._lines[wanted]
            return
        if pause is None:
            pause = line.pause
            line.pause = min(line.pause * GROWTH, PAUSES[1])
        line.due = time.monotonic() + min(max(pause, PAUSES[0]), PAUSES[1])

    def _answer(self, ticket: Ticket, error: BaseException | None) -> None:
        if error is not None:
            if ticket.grant is not None:
                self._spare(ticket)
            ticket.left = True
        ticket.answered = True
        _guarded(partial(ticket.then, error))


def _due(heap: list[tuple[float, int, Ticket]], now: float) -> list[Ticket]:
    """Take those out whose time has come, and give those that still wait for their answer."""
    found: list[Ticket] = []
    while heap and heap[0][0] <= now:
        _, _, ticket = heapq.heappop(heap)
        if not ticket.answered and not ticket.left:
            found.append(ticket)
    return found


def _ended() -> CancelledRun:
    return CancelledRun("The run that asked for slots of a limit has ended.")


def _guarded(work: Callable[[], object]) -> None:
    try:
        work()
    except Exception:
        logger.exception("A step of those who wait for slots failed")
