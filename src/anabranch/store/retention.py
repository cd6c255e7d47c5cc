"""Removing runs that have ended, with all that was kept below them.

Rows go in chunks, each in a transaction of its own, so that a run which records meanwhile waits for
moments only. The flow run goes last: a removal that was cut short is done again the same way.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from anabranch.errors import StillOwnedError
from anabranch.runs import id_prefix
from anabranch.store.database import Database
from anabranch.store.queries import IN_A_STATEMENT, ranges
from anabranch.store.sessions import UNFINISHED, claim, close_session

ROWS_AT_ONCE: Final = 5_000
PAGES_AT_ONCE: Final = 1_000
RUNS_AT_ONCE: Final = 200
PAUSE_SECONDS: Final = 0.025
"""After each chunk: SQLite lets a writer that waits try again every 1 to 25 ms at first, and one that
finds no gap is not heard."""


@dataclass(slots=True)
class Removed:
    """How many of each were removed; `kept` are the ids of runs asked for that have not ended, or
    whose process is still there."""

    flow_runs: int = 0
    task_runs: int = 0
    logs: int = 0
    artifacts: int = 0
    kept: tuple[str, ...] = ()


_HAS_ENDED = f"id = root AND state_type NOT IN {UNFINISHED} AND state_type <> 'PAUSED'"
_ENDED = (
    f"{_HAS_ENDED} AND NOT EXISTS "
    "(SELECT 1 FROM session s WHERE s.root = flow_run.id AND s.closed IS NULL)"
)


def removable_runs(
    database: Database, *, older_than_seconds: float | None, ids: Sequence[str], now: float
) -> list[int]:
    """The rows of root runs that have ended, and are among `ids` or ended long enough ago."""
    if older_than_seconds is not None:
        rows = database.read(
            f"SELECT id FROM flow_run WHERE {_ENDED} AND coalesce(ended, created) < ? ORDER BY id",
            (now - older_than_seconds,),
        )
        return [row[0] for row in rows]
    found: list[int] = []
    for start in range(0, len(ids), IN_A_STATEMENT):
        some = ids[start : start + IN_A_STATEMENT]
        marks = ",".join("?" * len(some))
        sql = f"SELECT id FROM flow_run WHERE {_ENDED} AND run_id IN ({marks}) ORDER BY id"
        found += [row[0] for row in database.read(sql, some)]
    return found


def remove_runs(
    database: Database,
    *,
    older_than_seconds: float | None = None,
    ids: Sequence[str] = (),
    now: float,
) -> Removed:
    """Remove root runs that have ended, and all below them: those of `ids`, or else all that ended
    longer ago than `older_than_seconds`. `now` is in seconds since the epoch."""
    roots = removable_runs(database, older_than_seconds=older_than_seconds, ids=ids, now=now)
    removed = Removed()
    for root in roots:
        if _claim(database, root, now):
            _remove_run(database, root, removed)
    if older_than_seconds is not None:
        _remove_flowless(database, now - older_than_seconds, removed)
    removed.kept = _still_there(database, ids)
    _give_back(database)
    return removed


def _claim(database: Database, root: int, at: float) -> bool:
    """Own it, so that nobody resumes it meanwhile, nor later what is left of it should this end half
    way; False where another owns it."""
    try:
        session = claim(database, f"{id_prefix() >> 48:020x}", root, str(root), at)
    except StillOwnedError:
        return False
    with database.transaction() as transaction:
        ended = transaction.changed(
            "UPDATE flow_run SET parameters = NULL, not_resumable = 'it was being removed' "
            f"WHERE id = ? AND {_HAS_ENDED}",
            (root,),
        )
        if not ended:  # it ran on and stopped again, right now
            close_session(transaction, session, at)
    return bool(ended)


def _remove_run(database: Database, root: int, removed: Removed) -> None:
    sessions = [row[0] for row in database.read("SELECT id FROM session WHERE root = ?", (root,))]
    for session in sessions:
        removed.task_runs += _remove_session_rows(database, session)
    removed.logs += _remove(database, "log", "id", "root = ?", (root,))
    removed.artifacts += _remove(database, "artifact", "id", "root = ?", (root,))
    runs = [row[0] for row in database.read("SELECT id FROM flow_run WHERE root = ?", (root,))]
    for start in range(0, len(runs), RUNS_AT_ONCE):
        some = runs[start : start + RUNS_AT_ONCE]
        marks = ",".join("?" * len(some))
        _remove(database, "transition", "id", f"flow_run IN ({marks})", some)
    with database.transaction() as transaction:
        transaction.changed("DELETE FROM session WHERE root = ?", (root,))
        removed.flow_runs += transaction.changed("DELETE FROM flow_run WHERE root = ?", (root,))


def _remove_session_rows(database: Database, session: int) -> int:
    """What stands in the range of a session's ids; gives how many task runs that were."""
    (span,) = ranges([session])
    _remove(database, "dependency", "task_run", "task_run >= ? AND task_run < ?", span)
    _remove(database, "transition", "id", "task_run >= ? AND task_run < ?", span)
    _remove(database, "submission", "id", "id >= ? AND id < ?", span)
    return _remove(database, "task_run", "id", "id >= ? AND id < ?", span)


def _remove_flowless(database: Database, before: float, removed: Removed) -> None:
    """Tasks that were called outside of any flow have a session without a root."""
    wanted = "root IS NULL AND closed IS NOT NULL AND closed < ?"
    for row in database.read(f"SELECT id FROM session WHERE {wanted}", (before,)):
        (start, end) = ranges([row[0]])[0]
        removed.task_runs += _remove_session_rows(database, row[0])
        for table in ("log", "artifact"):
            count = _remove(database, table, "id", "task_run >= ? AND task_run < ?", (start, end))
            setattr(removed, f"{table}s", getattr(removed, f"{table}s") + count)
        with database.transaction() as transaction:
            transaction.changed("DELETE FROM session WHERE id = ?", (row[0],))


def _remove(database: Database, table: str, key: str, where: str, values: Sequence[Any]) -> int:
    """Rows of a table, a chunk at a time."""
    total = 0
    sql = f"DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {table} WHERE {where} LIMIT ?)"
    while True:
        with database.transaction() as transaction:
            count = transaction.changed(sql, (*values, ROWS_AT_ONCE))
        total += count
        if count < ROWS_AT_ONCE:
            return total
        time.sleep(PAUSE_SECONDS)


def _still_there(database: Database, ids: Sequence[str]) -> tuple[str, ...]:
    left: list[str] = []
    for start in range(0, len(ids), IN_A_STATEMENT):
        some = ids[start : start + IN_A_STATEMENT]
        marks = ",".join("?" * len(some))
        rows = database.read(f"SELECT run_id FROM flow_run WHERE run_id IN ({marks})", some)
        left += [row[0] for row in rows]
    return tuple(left)


def _give_back(database: Database) -> None:
    """Have SQLite's file shrink, in steps; PostgreSQL's own vacuum sees to it there."""
    if not database.url.startswith("sqlite"):
        return
    while True:
        free = database.read("PRAGMA freelist_count")[0][0]
        database.read(f"PRAGMA incremental_vacuum({PAGES_AT_ONCE})")
        left = database.read("PRAGMA freelist_count")[0][0]
        if not left or left >= free:  # nothing more, or a file that was made without this
            break
    database.read("PRAGMA wal_checkpoint(TRUNCATE)")
