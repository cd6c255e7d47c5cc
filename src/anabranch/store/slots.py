"""Slots of limits, taken and given back in the store, where all processes count them.

Slots that are held are rows of a session, so that those of a process which died come free. Slots of
a rate are only counted: how many are used up, at which time; more than there are where some are given
out a little ahead, to be used when they have come back. That time never goes back, whatever the
wall clock does; what a process has seen unchanged for a while by its monotonic clock has come back
for so long, even where the wall clock says less.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from anabranch.errors import (
    LimitTooSmallError,
    NotARateLimitError,
    StaleOwnerError,
    StoreError,
    UnknownLimitError,
)
from anabranch.limits import Grant, Taken, Wanted
from anabranch.runs import id_prefix
from anabranch.settings import load_settings
from anabranch.store.database import SIZES, Database, Row, Transaction
from anabranch.store.limits import bury_holders, places, tag_limits
from anabranch.store.opening import open_store
from anabranch.store.sessions import Watch, beat, close_session, open_session

logger = logging.getLogger("anabranch.limits")

BURY_SECONDS = 1.0
"""Between two looks for holders that have died."""
HORIZON = 1.0
"""Seconds that slots of a rate are given out ahead, so that no time is lost between two who want
them. What a process that dies has not used of them is lost."""


def open_slots() -> StoreSlots:
    """Those of the settings' store; raises `StoreError`."""
    return StoreSlots(settings_store())


def settings_store() -> Database:
    """The store that the settings name; raises `StoreError`."""
    settings = load_settings()
    return open_store(settings.database_url, settings.home)


class _LimitRow(NamedTuple):
    name: str
    slots: int
    slots_per_second: float | None
    used: float
    at: float


COLUMNS = ", ".join(_LimitRow._fields)


class StoreSlots:
    """See `limits.SlotStore`. `database` is its own, and is closed with it."""

    def __init__(
        self,
        database: Database,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.database = database
        self._wall = wall
        self._clock = clock
        self._session: int | None = None
        self._watch = Watch()
        self._buried = -BURY_SECONDS
        self._seen: dict[str, tuple[float, float, float]] = {}  # used, at, and since when

    # -- held ---------------------------------------------------------------------------------------

    @property
    def is_holding(self) -> bool:
        return self._session is not None

    def take(self, wanted: Wanted, count: int) -> Taken:
        found = self._found(wanted)
        if not found:
            return Taken([Grant()] * count)
        if wanted.rate:
            return self._use(wanted, count, found)
        names = [limit.name for limit in found]
        if not _free(wanted, found, self._held(self.database.read, names)):
            self._bury(names)  # and look again at once: it is seldom that there is one
            if not _free(wanted, found, self._held(self.database.read, names)):
                return Taken([])
        try:
            return self._hold(wanted, count, names)
        except StaleOwnerError:
            return self._hold(wanted, count, names)  # as a new session

    def _hold(self, wanted: Wanted, count: int, names: Sequence[str]) -> Taken:
        with self._as_holder() as (transaction, session):
            locked = _locked(transaction, names)
            free = _free(wanted, locked, self._held(transaction.execute, names))
            now = self._wall()
            return Taken(
                [_lease(transaction, session, wanted, names, now) for _ in range(min(free, count))]
            )

    def _found(self, wanted: Wanted) -> list[_LimitRow]:
        """The limits that there are, in the order in which all processes lock them."""
        rows = self.database.read(
            f"SELECT {COLUMNS} FROM concurrency_limit WHERE name IN ({places(wanted.names)}) "
            "ORDER BY name",
            wanted.names,
        )
        found = sorted(_LimitRow(*row) for row in rows)
        if wanted.strict:
            known = {limit.name for limit in found}
            for name in wanted.names:
                if name not in known:
                    raise UnknownLimitError(name)
        for limit in found:
            if 0 < limit.slots < wanted.occupy:
                raise LimitTooSmallError(limit.name, wanted.occupy, limit.slots)
            if wanted.rate and limit.slots_per_second is None:
                raise NotARateLimitError(limit.name, limit.slots)
        return found

    def _held(self, read: Callable[..., list[Row]], names: Sequence[str]) -> dict[str, int]:
        rows = read(
            f"SELECT name, SUM(slots) FROM lease WHERE name IN ({places(names)}) GROUP BY name",
            tuple(names),
        )
        return {name: int(slots) for name, slots in rows}

    def _bury(self, names: Sequence[str]) -> None:
        now = self._clock()
        if now - self._buried >= BURY_SECONDS:
            self._buried = now
            bury_holders(self.database, self._watch, names)

    @contextmanager
    def _as_holder(self) -> Generator[tuple[Transaction, int]]:
        """A transaction of a session that lives, at its beginning."""
        session = self._session
        if session is None:
            prefix = f"{id_prefix() >> 48:020x}"
            session = self._session = open_session(self.database, prefix, self._wall())
        with self.database.transaction() as transaction:
            try:
                beat(transaction, session)
            except StaleOwnerError:  # another host has seen no sign of life for long
                self._session = None
                logger.warning(
                    "This process gave no sign of life for long: the slots that it held were freed"
                )
                raise
            yield transaction, session

    def give(self, grants: Sequence[Grant]) -> None:
        leases = [(lease, grant.session) for grant in grants for lease in grant.leases]
        if not leases:
            return
        with self.database.transaction() as transaction:
            for session in {session for _, session in leases}:
                ids = [lease for lease, its_session in leases if its_session == session]
                for start in range(0, len(ids), SIZES[0]):
                    chunk = ids[start : start + SIZES[0]]
                    transaction.changed(
                        f"DELETE FROM lease WHERE session = ? AND id IN ({places(chunk)})",
                        (session, *chunk),
                    )

    def beat(self) -> None:
        with contextlib.suppress(StaleOwnerError), self._as_holder():
            pass  # which beats

    # -- rates --------------------------------------------------------------------------------------

    def _use(self, wanted: Wanted, count: int, found: Sequence[_LimitRow]) -> Taken:
        waits, pause = self._waits(wanted, found, count)
        if not waits:  # without keeping others from the store meanwhile
            return Taken([], pause)
        with self.database.transaction() as transaction:
            locked = _locked(transaction, [limit.name for limit in found])
            waits, pause = self._waits(wanted, locked, count)
            for limit in locked if waits else ():
                elapsed = self._elapsed(limit)
                used, at = _left(limit, elapsed) + len(waits) * wanted.occupy, limit.at + elapsed
                _set_used(transaction, limit.name, used, at)
                self._seen[limit.name] = used, at, self._clock()
        return Taken([Grant(after=wait) for wait in waits], pause)

    def _waits(
        self, wanted: Wanted, found: Sequence[_LimitRow], count: int
    ) -> tuple[list[float], float]:
        """For each time that what is wanted can be had soon, in how many seconds; and the seconds
        until more can."""
        if any(not limit.slots for limit in found):
            return [], HORIZON
        lefts = [_left(limit, self._elapsed(limit)) - limit.slots for limit in found]
        waits: list[float] = []
        for times in range(1, count + 1):
            wait = 0.0
            for limit, left in zip(found, lefts, strict=True):
                over = left + times * wanted.occupy
                wait = max(wait, over / (limit.slots_per_second or 1.0))
            if wait > HORIZON:
                return waits, wait - HORIZON
            waits.append(wait)
        return waits, 0.0

    def spare(self, wanted: Wanted, count: int) -> None:
        with self.database.transaction() as transaction:
            for limit in _locked(transaction, wanted.names):
                used = max(0.0, limit.used - count * wanted.occupy)
                _set_used(transaction, limit.name, used, limit.at)

    def _elapsed(self, limit: _LimitRow) -> float:
        """Seconds for which slots have come back, at least."""
        now = self._clock()
        used, at, since = self._seen.get(limit.name, (0.0, 0.0, now))
        if (used, at) != (limit.used, limit.at):
            since = now
            self._seen[limit.name] = limit.used, limit.at, now
        return max(0.0, self._wall() - limit.at, now - since)

    # -- the rest -----------------------------------------------------------------------------------

    def tag_limits(self) -> frozenset[str]:
        return tag_limits(self.database)

    def close(self) -> None:
        try:
            if self._session is not None:
                with contextlib.suppress(StoreError), self.database.transaction() as transaction:
                    close_session(transaction, self._session, self._wall())
        finally:
            self.database.close()


def _locked(transaction: Transaction, names: Sequence[str]) -> list[_LimitRow]:
    """The limits as they are, with all other processes kept from them until the commit."""
    locked: list[_LimitRow] = []
    for name in names:
        rows = transaction.execute(
            f"UPDATE concurrency_limit SET slots = slots WHERE name = ? RETURNING {COLUMNS}",
            (name,),
        )
        locked += [_LimitRow(*row) for row in rows]
    return locked


def _free(wanted: Wanted, limits: Sequence[_LimitRow], held: dict[str, int]) -> int:
    """How often what is wanted is free."""
    return max(
        0,
        min(
            ((limit.slots - held.get(limit.name, 0)) // wanted.occupy for limit in limits),
            default=0,
        ),
    )


def _lease(
    transaction: Transaction, session: int, wanted: Wanted, names: Sequence[str], now: float
) -> Grant:
    leases: list[int] = []
    for name in names:
        rows = transaction.execute(
            "INSERT INTO lease (name, session, slots, taken) VALUES (?, ?, ?, ?) RETURNING id",
            (name, session, wanted.occupy, now),
        )
        leases.append(rows[0][0])
    return Grant(session, tuple(leases))


def _set_used(transaction: Transaction, name: str, used: float, at: float) -> None:
    transaction.changed(
        "UPDATE concurrency_limit SET used = ?, at = ? WHERE name = ?", (used, at, name)
    )


def _left(limit: _LimitRow, elapsed: float) -> float:
    """Slots that are still used up."""
    return max(0.0, limit.used - elapsed * (limit.slots_per_second or 0.0))
