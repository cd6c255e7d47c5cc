"""Who owns a run: one session for each engine, which counts up while it lives.

Clocks of two hosts cannot be compared, so that nothing here looks at one: whoever wants to know
whether a session lives watches its count on a monotonic clock of his own. Where the session's
process ran on this very start of this host, its process number and start time tell at once.
"""

from __future__ import annotations

import functools
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from anabranch.errors import ConflictError, StaleOwnerError, StillOwnedError
from anabranch.store.database import Database, Transaction

BEAT_SECONDS = 2.0
LAPSE_SECONDS = 15.0
"""How long a session may count no further before it is given up."""


class Process(NamedTuple):
    """Tells one process from all others."""

    host: str
    boot: str
    pid: int
    start: str


class SessionRow(NamedTuple):
    """A session as the store has it."""

    id: int
    prefix: str
    root: int | None
    host: str
    boot: str
    pid: int
    process_start: str
    beat: int
    opened: float
    closed: float | None

    @property
    def process(self) -> Process:
        return Process(self.host, self.boot, self.pid, self.process_start)


COLUMNS = ", ".join(SessionRow._fields)


@functools.cache
def _host() -> tuple[str, str]:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # another system: its processes are watched instead
        boot = ""
    return socket.gethostname(), boot


def this_process() -> Process:
    pid = os.getpid()
    return Process(*_host(), pid, process_start(pid) or "")


def process_start(pid: int) -> str | None:
    """When a process of this host started, in ticks since its boot; None where there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    after_name = text[text.rindex(")") + 2 :].split(" ")
    return None if after_name[0] in "ZX" else after_name[19]


def open_session(database: Database, prefix: str, at: float) -> int:
    """Enter a new session; gives its id."""
    process = this_process()
    with database.transaction() as transaction:
        rows = transaction.execute(
            "INSERT INTO session (prefix, host, boot, pid, process_start, beat, opened) "
            "VALUES (?, ?, ?, ?, ?, 0, ?) RETURNING id",
            (prefix, *process, at),
        )
    return rows[0][0]


def claim(database: Database, prefix: str, root: int, run_id: str, at: float) -> int:
    """Enter a new session that owns this flow run from now on; raises `StillOwnedError` where
    another has it."""
    process = this_process()
    try:
        with database.transaction() as transaction:
            rows = transaction.execute(
                "INSERT INTO session (prefix, root, host, boot, pid, process_start, beat, opened) "
                "SELECT ?, ?, ?, ?, ?, ?, 0, ? WHERE NOT EXISTS "
                "(SELECT 1 FROM session WHERE root = ? AND closed IS NULL) RETURNING id",
                (prefix, root, *process, at, root),
            )
    except ConflictError:  # another was quicker by a moment
        rows = []
    if not rows:
        owner = [each for each in sessions_of(database, root) if each.closed is None]
        pid, host = (owner[0].pid, owner[0].host) if owner else (0, "another host")
        raise StillOwnedError(run_id, pid, host)
    return rows[0][0]


def sessions_of(database: Database, root: int) -> list[SessionRow]:
    """All that have owned a flow run, in order."""
    rows = database.read(f"SELECT {COLUMNS} FROM session WHERE root = ? ORDER BY id", (root,))
    return [SessionRow(*row) for row in rows]


def beat(transaction: Transaction, session: int) -> None:
    """Count up; raises `StaleOwnerError` where the session was closed by another."""
    if not transaction.changed(
        "UPDATE session SET beat = beat + 1 WHERE id = ? AND closed IS NULL", (session,)
    ):
        raise StaleOwnerError(session)


def close_session(transaction: Transaction, session: int, at: float) -> None:
    """The session has ended, or loses what it owns: its leases, and the right to write."""
    transaction.execute(
        "UPDATE session SET closed = ? WHERE id = ? AND closed IS NULL RETURNING id", (at, session)
    )
    free_leases(transaction, session)


def free_leases(transaction: Transaction, session: int) -> None:
    """All that the session holds."""
    transaction.changed("DELETE FROM lease WHERE session = ?", (session,))
    transaction.changed("DELETE FROM cache_lock WHERE session = ?", (session,))


def open_sessions(database: Database) -> list[SessionRow]:
    rows = database.read(f"SELECT {COLUMNS} FROM session WHERE closed IS NULL")
    return [SessionRow(*row) for row in rows]


def find_session(database: Database, session: int) -> SessionRow | None:
    rows = database.read(f"SELECT {COLUMNS} FROM session WHERE id = ?", (session,))
    return SessionRow(*rows[0]) if rows else None


def is_gone(session: SessionRow) -> bool | None:
    """Whether the session's process has ended; None where that cannot be seen from here."""
    here = _host()
    if (session.host, session.boot) != here or not session.boot:
        return None
    return process_start(session.pid) != session.process_start


class Watch:
    """Watches sessions of other hosts: one that counts no further for long has lapsed."""

    def __init__(
        self, lapse: float = LAPSE_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._lapse = lapse
        self._clock = clock
        self._seen: dict[int, tuple[int, float]] = {}
        self._alive: set[int] = set()

    def is_seen_alive(self, session: SessionRow) -> bool:
        """Whether it has given a sign of life since the watch began."""
        return is_gone(session) is False or session.id in self._alive

    def has_lapsed(self, session: SessionRow) -> bool:
        """Whether it is gone, as far as was seen by now."""
        gone = is_gone(session)
        if gone is not None:
            return gone
        now = self._clock()
        beat, since = self._seen.get(session.id, (-1, now))
        if beat != session.beat:
            if session.id in self._seen:
                self._alive.add(session.id)
            self._seen[session.id] = session.beat, now
            return False
        return now - since >= self._lapse


def bury(database: Database, session: SessionRow, at: float) -> bool:
    """Close the session of a process that has died: what it ran has crashed. False where it closed
    meanwhile."""
    message = f"Process {session.pid} on {session.host} died under it."
    with database.transaction() as transaction:
        if not transaction.changed(
            "UPDATE session SET closed = ? WHERE id = ? AND closed IS NULL", (at, session.id)
        ):
            return False
        free_leases(transaction, session.id)
        if session.root is not None:
            crash(transaction, session.root, message, at)
    return True


UNFINISHED = "('SCHEDULED', 'PENDING', 'RUNNING', 'CANCELLING')"


def crash(transaction: Transaction, root: int, message: str, at: float) -> None:
    """The unfinished flow runs below a root have crashed."""
    crashed = transaction.execute(
        "UPDATE flow_run SET state_type = 'CRASHED', state_name = 'Crashed', message = ?, "
        f"ended = ? WHERE root = ? AND state_type IN {UNFINISHED} RETURNING id, attempt",
        (message, at, root),
    )
    for flow_run, attempt in crashed:
        transaction.changed(
            "INSERT INTO transition (flow_run, at, state_type, state_name, message, attempt) "
            "VALUES (?, ?, 'CRASHED', 'Crashed', ?, ?)",
            (flow_run, at, message, attempt),
        )
