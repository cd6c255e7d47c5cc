"""The embedded store: an SQLite file in WAL mode, or memory that goes with the process."""

from __future__ import annotations

import functools
import logging
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anabranch import late
from anabranch.errors import (
    ConflictError,
    CorruptStoreError,
    FullStoreError,
    LockedStoreError,
    NotAStoreError,
    ReadOnlyStoreError,
    StoreError,
)
from anabranch.store.database import (
    Insert,
    InsertAlike,
    Row,
    chunked,
    insert_sql,
    on_conflict,
    parts,
)
from anabranch.store.versions import is_current

logger = logging.getLogger("anabranch.store")

BUSY_SECONDS = 10.0
"""How long a statement waits for another process before it is told to try again."""
HEADER = b"SQLite format 3\0"
MEMORY = "sqlite:///:memory:"
NETWORKED = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "glusterfs", "beegfs"}
)


class SqliteDatabase:
    """See `database.Database`. `path` is None for memory."""

    def __init__(self, path: Path | None, durable: bool = False) -> None:
        self.url = MEMORY if path is None else f"sqlite:///{path}"
        self.keeps = path is not None
        self.path = path
        self._durable = durable
        self._one_at_a_time = threading.RLock()
        with self._told():
            self._connection = self._opened()
        if path is None:
            weakref.finalize(self, self._connection.close)

    def _opened(self) -> sqlite3.Connection:
        """Looks before it touches: what is not a store of ours stays as it is."""
        until = time.monotonic() + BUSY_SECONDS
        while True:
            connection = sqlite3.connect(
                ":memory:" if self.path is None else self.path,
                timeout=BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
            )
            try:
                made = connection.execute("PRAGMA schema_version").fetchone()[0]
                if not made or is_current(self.url, self._version(connection)):
                    if not made:  # first of all, so that a removal can give back what it frees
                        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
                    self._set_up(connection)
                    if not made:
                        self._make_tables(connection)
                    return connection
                connection.close()
                late.migrate(self.url)
            except BaseException as error:
                connection.close()
                if not _is_busy(error) or time.monotonic() >= until:
                    raise
                time.sleep(0.05)  # SQLite waits by itself, but not where the journal's mode changes

    def _version(self, connection: sqlite3.Connection) -> str:
        try:
            found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):
                raise
            raise NotAStoreError(self.url, "it is the database of another program") from error
        if found is None:
            raise NotAStoreError(self.url, "it has no version of its schema")
        return found[0]

    def _set_up(self, connection: sqlite3.Connection) -> None:
        # before the first table, so that what a removal frees can be given back bit by bit
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        if self.path is None:
            return
        mode = "TRUNCATE" if is_networked(self.path) else "WAL"
        connection.execute(f"PRAGMA journal_mode={mode}")
        level = "FULL" if self._durable else "NORMAL"
        connection.execute(f"PRAGMA synchronous={level}")

    def _make_tables(self, connection: sqlite3.Connection) -> None:
        script = Path(__file__).with_name("schema.sql").read_text(encoding="utf-8")
        connection.execute("BEGIN IMMEDIATE")
        try:
            if not connection.execute("PRAGMA schema_version").fetchone()[0]:
                for statement in script.split(";\n"):
                    connection.execute(statement)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:  # a full disk has ended it
                connection.execute("ROLLBACK")
            raise

    # -- use ----------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Generator[SqliteDatabase]:
        with self._told(), self._one_at_a_time:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def execute(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        return self._connection.execute(sql, values).fetchall()

    def changed(self, sql: str, values: Sequence[object] = ()) -> int:
        return self._connection.execute(sql, values).rowcount

    def insert(self, insert: Insert, rows: Sequence[Row]) -> None:
        for size, values in chunked(rows, repeatable=bool(insert.conflict)):
            self._connection.execute(insert_sql(insert, size), values)

    def insert_alike(self, insert: InsertAlike, shared: Row, values: Sequence[Any]) -> None:
        width = len(insert.own)
        start = 0
        for size in parts(len(values) // width, repeatable=True):
            part = list(values[start : start + size * width])
            part += part[-width:] * (size - len(part) // width)
            self._connection.execute(_alike_sql(insert, size), (*shared, *part))
            start += size * width

    def read(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        with self._told(), self._one_at_a_time:
            return self._connection.execute(sql, values).fetchall()

    def another(self) -> SqliteDatabase:
        return self if self.path is None else SqliteDatabase(self.path, self._durable)

    def size(self) -> int:
        if self.path is None:
            pages = self.read(
                "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
            )
            return pages[0][0]
        files = (self.path, self.path.with_name(self.path.name + "-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    def close(self) -> None:
        if self.path is not None:  # else others hold it too, and it goes with the last of them
            with self._one_at_a_time:
                self._connection.close()

    @contextmanager
    def _told(self) -> Generator[None]:
        """SQLite's errors as ours."""
        try:
            yield
        except sqlite3.Error as error:
            raise store_error(error, self.url) from error


@functools.cache
def _alike_sql(insert: InsertAlike, rows: int) -> str:
    """The statement for so many rows, what they share first. As text, a value has to become binary."""
    columns = (*(name for name, _ in insert.constants), *insert.shared, *insert.own)
    each = [str(value) if isinstance(value, int) else f"'{value}'" for _, value in insert.constants]
    each += "?" * len(insert.shared)
    for number, name in enumerate(insert.own, 1):
        each.append(f"CAST(column{number} AS BLOB)" if name in insert.binary else f"column{number}")
    values = ",".join([f"({','.join('?' * len(insert.own))})"] * rows)
    into = f"INSERT INTO {insert.table} ({','.join(columns)})"
    chosen = f"SELECT {','.join(each)} FROM (VALUES {values}) WHERE true"
    return f"{into} {chosen}{on_conflict(insert)}"


def _is_busy(error: BaseException) -> bool:
    name = getattr(error, "sqlite_errorname", None) or ""
    return name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


def store_error(error: sqlite3.Error, url: str) -> StoreError:
    """What an error of SQLite means for whoever uses the store."""
    name = getattr(error, "sqlite_errorname", "") or ""
    if _is_busy(error):
        return LockedStoreError(url, name)
    kinds = {
        "SQLITE_FULL": FullStoreError,
        "SQLITE_IOERR": FullStoreError,
        "SQLITE_READONLY": ReadOnlyStoreError,
        "SQLITE_CANTOPEN": ReadOnlyStoreError,
        "SQLITE_PERM": ReadOnlyStoreError,
        "SQLITE_CORRUPT": CorruptStoreError,
        "SQLITE_NOTADB": CorruptStoreError,
        "SQLITE_CONSTRAINT": ConflictError,
    }
    for start, kind in kinds.items():
        if name.startswith(start):
            return kind(url, f"{error} [{name}]")
    return StoreError(url, f"{error} [{name}]" if name else str(error))


def open_sqlite(path: Path, durable: bool = False) -> SqliteDatabase:
    """The store at this path, made or migrated if need be.

    A file that is damaged is moved aside, with its new path told. Raises `NotAStoreError` for a file
    of another kind, `NewerStoreError` for one of a newer release.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        short = path.is_file() and 0 < path.stat().st_size < len(HEADER)
    except OSError as error:
        raise ReadOnlyStoreError(f"sqlite:///{path}", str(error)) from error
    if short:  # SQLite takes a file of one byte for an empty one
        raise NotAStoreError(f"sqlite:///{path}", "it is not an SQLite file")
    if is_networked(path):
        logger.warning(
            "The store %s is on a network file system, which SQLite cannot share between hosts: "
            "use it from one host only, or set ANABRANCH_DATABASE_URL to a PostgreSQL server",
            path,
        )
    try:
        return SqliteDatabase(path, durable)
    except CorruptStoreError as error:
        if not _begins_like_sqlite(path):
            raise NotAStoreError(f"sqlite:///{path}", "it is not an SQLite file") from error
        aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S')}")
        for ending in ("", "-wal", "-shm"):
            part = path.with_name(path.name + ending)
            if part.exists():
                os.replace(part, aside.with_name(aside.name + ending))
        logger.error("%s It was moved to %s, and a new one made in its place.", error, aside)
        return SqliteDatabase(path, durable)


def _begins_like_sqlite(path: Path) -> bool:
    """Only for a file that SQLite cannot use: of others, this process would lose its locks."""
    with path.open("rb") as file:
        return file.read(len(HEADER)) == HEADER


def is_networked(path: Path) -> bool:
    """Whether a path lies on a file system of another host."""
    try:
        mounts = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:  # another system: nothing is known
        return False
    found, kind = "", ""
    place = str(path.parent.absolute())
    for line in mounts.splitlines():
        _, point, its_kind, *_ = line.split(" ")
        inside = place == point or place.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(found):
            found, kind = point, its_kind
    return kind in NETWORKED or kind.startswith(("fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse"))
