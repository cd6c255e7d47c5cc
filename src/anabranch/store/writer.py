"""Writes what a run's engine tells: a batch of events becomes rows, and one transaction."""

# pyright: reportPrivateUsage=false
# The writer reads the slots of the run record, which are private to users.

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from anabranch import late
from anabranch.errors import (
    FullStoreError,
    LockedStoreError,
    StaleOwnerError,
    StoreError,
    UnreachableStoreError,
)
from anabranch.events import (
    Event,
)
from anabranch.failpoints import AFTER_COMMIT, BEFORE_COMMIT, failpoint
from anabranch.futures import TaskFuture
from anabranch.recorded import Recorded
from anabranch.runs import FlowRun
from anabranch.store.batches import Batch
from anabranch.store.database import Database
from anabranch.store.row_maker import RowMaker, TaskIdentity
from anabranch.store.sessions import BEAT_SECONDS, beat, close_session, open_session
from anabranch.store.settled_runs import Basket, SettledRuns

logger = logging.getLogger("anabranch.store")

Run = TaskFuture[Any]
RETRY_SECONDS = 1.0
"""Between two tries to write into a store that is locked or full."""
PATIENCE_SECONDS = 30.0
"""How long a locked store is waited for at the end of a run, and a full one a tenth of that."""
MOST_SAMPLED = 1_000
"""Unsettled runs that are looked at each time for those that have no row yet."""
MOST_TASKS = 1_000
"""Tasks of earlier runs that are read with the session: later, each would have to be looked up while
the run's own threads hold the interpreter."""
MOST_ROWS = 50_000
"""Rows that wait in memory for such a store, until the run itself has to wait."""


class Settle(NamedTuple):
    """What the engine is told in strict durability: these were kept, or not, and then why."""

    runs: Sequence[Run]
    error: StoreError | StaleOwnerError | None


class StoreWriter:
    """See `events.Recorder`. Belongs to one engine, whose runs' ids begin with `prefix`.

    `settle` is called in strict durability after each batch, with the runs in it; `fence` once if
    another process has taken the run over. `running` gives the runs that run right now,
    `unsettled` the oldest that have not settled.
    """

    beat_seconds = BEAT_SECONDS / 2

    def __init__(
        self,
        database: Database,
        prefix: int,
        secret: bytes,
        strict: bool,
        inline_limit: int,
        session: int | None = None,
    ) -> None:
        self.database = database
        self.strict = strict
        self.settle: Callable[[Settle], None] = _ignore
        self.fence: Callable[[StaleOwnerError], None] = _ignore
        self.running: Callable[[], Iterable[Run]] = tuple
        self.unsettled: Callable[[int], Iterable[Run]] = _none
        self._prefix = f"{prefix >> 48:020x}"
        self.secret = secret
        self._basket = Basket(inline_limit, strict)
        self.settled = self._basket.put
        self._session = session
        self._tasks: dict[Any, int] = {}
        self._opening = threading.Lock()
        self._rows = RowMaker(self._prefix, secret, inline_limit, self.session, self._find_task)
        self._unwritten = 0
        self._broken: Exception | None = None
        self._beaten = time.monotonic()

    # -- events ---------------------------------------------------------------------------------

    def receive(self, events: Sequence[Event]) -> None:
        settled = self._basket.emptied()
        try:
            self._take(events, settled)
            crowded = self._rows.batch.count > MOST_ROWS
            self._write(PATIENCE_SECONDS if self.strict or crowded else 0.0)
        except Exception as error:
            self._give_up(error)
        if settled.runs:
            error = self._broken if isinstance(self._broken, StoreError | StaleOwnerError) else None
            self.settle(Settle(settled.runs, error))

    def beat(self) -> None:
        """Show that this engine lives, and what it runs."""
        if self._broken is not None or self._session is None:
            return
        try:
            self._rows.sample(self.running(), self.unsettled(MOST_SAMPLED))
            self._write(0.0)
        except Exception as error:
            self._give_up(error)

    def recorded(self, flow_run: FlowRun) -> Recorded:
        row = self._rows.flow_rows.get(flow_run.id)
        if row is None or self._broken is not None:
            return Recorded({})
        return late.recorded_calls(self.database, self.secret, row)

    def close(self) -> None:
        """Write what is left, with some patience, and end the session."""
        try:
            self._write(PATIENCE_SECONDS)
            if self._session is not None and self._broken is None:
                with self.database.transaction() as transaction:
                    close_session(transaction, self._session, time.time())
        except Exception as error:
            self._give_up(error)
        if self._unwritten:
            logger.error("%d task runs were not recorded", self._unwritten)
        self.database.close()

    def _take(self, events: Sequence[Event], settled: SettledRuns) -> None:
        """Make rows of events. Runs that settled come last: the rows of all else are there then."""
        for event in events:
            if self._broken is None:
                self._rows.take(event)
        if self._broken is not None:
            self._unwritten += settled.count
        elif settled.count:
            self._rows.add_settled(settled)

    # -- what rows refer to ---------------------------------------------------------------------

    def _find_task(self, identity: TaskIdentity) -> int:
        return self._patiently(partial(self._task, identity))

    def _task(self, identity: TaskIdentity) -> int:
        if identity in self._tasks:
            return self._tasks[identity]
        with self.database.transaction() as transaction:
            new = transaction.execute(
                "INSERT INTO task (key, name, source) VALUES (?, ?, ?) "
                "ON CONFLICT (key, name, source) DO NOTHING RETURNING id",
                identity,
            )
            known = "SELECT id FROM task WHERE key = ? AND name = ? AND source = ?"
            return (new or transaction.execute(known, identity))[0][0]

    def session(self) -> int:
        """The number of this engine's session, opened by the first that asks."""
        if self._session is None:
            with self._opening:
                if self._session is None:
                    self._session = self._patiently(
                        partial(open_session, self.database, self._prefix, time.time())
                    )
                    self._read_tasks()
        return self._session

    def _read_tasks(self) -> None:
        newest = "SELECT key, name, source, id FROM task ORDER BY id DESC LIMIT ?"
        with suppress(StoreError):  # those that are not known are looked up
            for *identity, row in self.database.read(newest, (MOST_TASKS,)):
                self._tasks[tuple(identity)] = row

    def _patiently(self, write: Callable[[], int]) -> int:
        """Write something that all else needs, once the store is not held by another process."""
        until = time.monotonic() + 2 * PATIENCE_SECONDS
        while True:
            try:
                return write()
            except (LockedStoreError, UnreachableStoreError) as error:
                if not self._waits(error, until):
                    raise

    # -- the store ------------------------------------------------------------------------------

    def _write(self, patience: float) -> None:
        """Commit the batch; one that cannot be written now stays, and is tried with the next."""
        if self._broken is not None or self._session is None:
            return
        now = time.monotonic()
        if self._rows.batch.empty() and now - self._beaten < BEAT_SECONDS:
            return
        until = now + patience
        while True:
            try:
                with self.database.transaction() as transaction:
                    beat(transaction, self._session)
                    self._rows.batch.write(transaction, self._session)
                    failpoint(BEFORE_COMMIT)
                failpoint(AFTER_COMMIT)
                break
            except (LockedStoreError, UnreachableStoreError) as error:
                if not self._waits(error, until):
                    if self.strict and patience:
                        raise  # those who wait must not take it for written
                    return
            except FullStoreError as error:
                if self._rows.batch.count > MOST_ROWS:
                    raise
                if not self._waits(error, now + patience / 10):
                    if patience:
                        raise
                    return
        self._beaten = time.monotonic()
        self._rows.batch = Batch()

    def _waits(self, error: StoreError, until: float) -> bool:
        """A store that is locked, full or out of reach may be better soon: whether to try again now."""
        if not self._rows.batch.told:
            self._rows.batch.told = True
            logger.warning("%s The run goes on, and is recorded once that works.", error)
        if time.monotonic() >= until:
            return False
        time.sleep(RETRY_SECONDS)
        return True

    def _give_up(self, error: Exception) -> None:
        """Nothing more is written. The run goes on, but in strict durability."""
        if self._broken is not None:
            return
        self._broken = error
        self._unwritten += self._rows.batch.count
        self._rows.batch = Batch()
        if isinstance(error, StaleOwnerError):
            logger.error("%s", error)
            self.fence(error)
        elif isinstance(error, StoreError):
            goes_on = "fails, as its durability is strict" if self.strict else "goes on unrecorded"
            logger.error("%s The run %s.", error, goes_on)
        else:
            logger.exception("The store's writer failed; the run goes on without being recorded")


def _none(_: int) -> Iterable[Run]:
    return ()


def _ignore(_: Any) -> None:
    """Nobody has asked yet."""
