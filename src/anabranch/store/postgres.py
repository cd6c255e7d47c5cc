"""The store on a PostgreSQL server, over psycopg 3, which loads with the first connection."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from anabranch.errors import (
    ConflictError,
    FullStoreError,
    LockedStoreError,
    MissingExtraError,
    ReadOnlyStoreError,
    StoreError,
    StoreUrlError,
    UnreachableStoreError,
)
from anabranch.store.database import Insert, InsertAlike, Row, chunked, insert_sql, shown_url
from anabranch.store.migrating import migrate
from anabranch.store.versions import is_current

if TYPE_CHECKING:
    import psycopg

logger = logging.getLogger("anabranch.store")

LOCK_SECONDS = 10
"""How long a statement waits for what another connection holds, before it is told to try again."""
CONNECT_TRIES = 5
FIRST_PAUSE_SECONDS = 0.2
"""Before the second try to connect; doubled before each one after it."""
OPTIONS = {
    "application_name": "anabranch",
    "connect_timeout": "10",
    # A host that is gone answers nothing: the system would wait for hours.
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
STATES = {
    "40001": LockedStoreError,  # serialization_failure
    "23505": ConflictError,  # unique_violation
    "40P01": LockedStoreError,  # deadlock_detected
    "55P03": LockedStoreError,  # lock_not_available
    "53100": FullStoreError,  # disk_full
    "25006": ReadOnlyStoreError,  # read_only_sql_transaction
    "42501": ReadOnlyStoreError,  # insufficient_privilege
}
UNREACHABLE = ("08", "57P", "53300")
"""Connection errors, a server that shuts down or starts up, and one with too many connections."""

BEGIN = b"BEGIN; SELECT pg_current_xact_id()::text"
"""Gives the transaction's number, which costs no way of its own to the server and back."""

T = TypeVar("T")


class PostgresDatabase:
    """See `database.Database`. `url` is shown without its password."""

    def __init__(self, url: str, durable: bool = False) -> None:
        self.url = shown_url(url)
        self.keeps = True
        self._given_url = url
        self._durable = durable
        self._one_at_a_time = threading.RLock()
        self._inside = False
        """Whether a transaction is open, which could not go on upon another connection."""
        self._conninfo, self._place = _conninfo(url, self.url)
        self._connection: psycopg.Connection[Row] | None = self._connected()
        try:
            self._bring_up_to_date()
        except BaseException:
            self.close()
            raise

    def _bring_up_to_date(self) -> None:
        with self._told():
            found = self._version()
            if found is None or not is_current(self.url, found):
                migrate(self._conninfo)

    def _version(self) -> str | None:
        """None where there is no store yet."""
        if self.read("SELECT to_regclass('alembic_version')")[0][0] is None:
            return None
        rows = self.read("SELECT version_num FROM alembic_version")
        return rows[0][0] if rows else None

    # -- the connection -------------------------------------------------------------------------

    def _connected(self) -> psycopg.Connection[Row]:
        """A new connection, after as many tries as it may take a server to start again."""
        import psycopg  # loaded by now

        pause = FIRST_PAUSE_SECONDS
        for tries_left in reversed(range(CONNECT_TRIES)):
            try:
                return self._connected_once()
            except psycopg.OperationalError as error:
                refused = error.sqlstate is not None and not error.sqlstate.startswith(UNREACHABLE)
                if refused or not tries_left:
                    raise UnreachableStoreError(self.url, self._place, _told_by(error)) from error
                logger.debug("Trying again to connect to %s: %s", self.url, _told_by(error))
            time.sleep(pause)
            pause *= 2
        raise AssertionError("the last try returns or raises")

    def _connected_once(self) -> psycopg.Connection[Row]:
        import psycopg  # loaded by now

        connection: psycopg.Connection[Row] = psycopg.Connection.connect(
            self._conninfo, autocommit=True, cursor_factory=psycopg.RawCursor
        )
        try:
            for kind, dumper in _untyped().items():
                connection.adapters.register_dumper(kind, dumper)
            connection.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'".encode())
            level = "on" if self._durable else "off"
            connection.execute(f"SET synchronous_commit = {level}".encode())
        except BaseException:
            connection.close()
            raise
        return connection

    def _open_connection(self) -> psycopg.Connection[Row]:
        if self._current().closed and not self._inside:
            self._connection = self._connected()
        return self._current()

    def _retried(self, action: Callable[[psycopg.Connection[Row]], T]) -> T:
        """Do what can be done twice; once more, on a new connection, where the first was lost."""
        import psycopg  # loaded by now

        connection = self._open_connection()
        try:
            return action(connection)
        except psycopg.OperationalError:
            if not connection.closed or self._inside:
                raise
        return action(self._open_connection())

    # -- use ------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Generator[PostgresDatabase]:
        """A transaction whose connection is lost raises `UnreachableStoreError`, and has left
        nothing behind: it can be tried again."""
        import psycopg  # loaded by now

        with self._told(), self._one_at_a_time:
            assert not self._inside, "a transaction holds no other"
            try:
                number = self._retried(_begin)
                self._inside = True
                yield self
            except BaseException:
                with suppress(psycopg.Error, StoreError):  # what was raised says more
                    self._current().execute("ROLLBACK")
                raise
            finally:
                self._inside = False
            self._commit(number)

    def _commit(self, number: str) -> None:
        import psycopg  # loaded by now

        connection = self._current()
        try:
            connection.execute("COMMIT", prepare=False)
        except psycopg.OperationalError:
            if not connection.closed or not self._was_committed(number):
                raise

    def _was_committed(self, number: str) -> bool:
        """Of a transaction whose connection was lost as it was committed, by its number."""
        pause = FIRST_PAUSE_SECONDS
        for _ in range(CONNECT_TRIES):
            found = self.read("SELECT pg_xact_status(?::xid8)", (number,))[0][0]
            if found != "in progress":
                return found == "committed"
            time.sleep(pause)  # the server has not seen yet that the connection is gone
            pause *= 2
        return False

    def execute(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        cursor = self._current().execute(numbered(sql), values)
        return cursor.fetchall() if cursor.description else []

    def changed(self, sql: str, values: Sequence[object] = ()) -> int:
        return self._current().execute(numbered(sql), values).rowcount

    def insert(self, insert: Insert, rows: Sequence[Row]) -> None:
        connection = self._current()
        for size, values in chunked(rows, repeatable=False):
            connection.execute(numbered_insert(insert, size), values)

    def insert_alike(self, insert: InsertAlike, shared: Row, values: Sequence[Any]) -> None:
        constants = tuple(value for _, value in insert.constants)
        columns = (*(name for name, _ in insert.constants), *insert.shared, *insert.own)
        given = list(values)
        width = len(insert.own)
        for place in (insert.own.index(name) for name in insert.binary):
            given[place::width] = [
                each.encode() if isinstance(each, str) else each for each in given[place::width]
            ]
        starts = range(0, len(given), width)
        self.insert(
            Insert(insert.table, columns, insert.conflict, insert.updated),
            [(*constants, *shared, *given[at : at + width]) for at in starts],
        )

    def _current(self) -> psycopg.Connection[Row]:
        """The connection that the transaction began on; not a new one, which would not be in it."""
        if self._connection is None:
            raise StoreError(self.url, "it was closed")
        return self._connection

    def read(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        with self._told(), self._one_at_a_time:
            return self._retried(lambda each: each.execute(numbered(sql), values).fetchall())

    def another(self) -> PostgresDatabase:
        return PostgresDatabase(self._given_url, self._durable)

    def size(self) -> int:
        """Of the tables in the schema that the store is in, with their indexes."""
        rows = self.read(
            "SELECT coalesce(sum(pg_total_relation_size(pg_class.oid)), 0)::bigint FROM pg_class "
            "JOIN pg_namespace ON pg_namespace.oid = relnamespace "
            "WHERE nspname = current_schema() AND relkind = 'r'"
        )
        return rows[0][0]

    def close(self) -> None:
        with self._one_at_a_time:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @contextmanager
    def _told(self) -> Generator[None]:
        """PostgreSQL's errors as ours."""
        import psycopg  # loaded by now

        try:
            yield
        except psycopg.Error as error:
            raise store_error(error, self.url, self._place) from error


@functools.cache
def _untyped() -> dict[type, Any]:
    """Numbers and bytes are sent without their type, which the server knows from where they go.
    With it, a statement of many rows would be another one for each way in which NULLs fall."""
    from psycopg.types.numeric import FloatDumper, Int8Dumper  # loaded by now
    from psycopg.types.string import BytesBinaryDumper

    return {
        kind: type("Untyped", (dumper,), {"oid": 0})
        for kind, dumper in (
            (int, Int8Dumper),
            (bool, Int8Dumper),
            (float, FloatDumper),
            (bytes, BytesBinaryDumper),
        )
    }


def _conninfo(url: str, shown: str) -> tuple[str, str]:
    """How to connect, and the host and port that this means."""
    try:
        import psycopg  # comes with an extra, and takes 100 ms to load
        from psycopg.conninfo import conninfo_to_dict, make_conninfo
    except ImportError as error:
        raise MissingExtraError(
            "A store on PostgreSQL", "psycopg", "anabranch[postgres]"
        ) from error
    if url.partition("?")[0].count("@") > 1:
        raise StoreUrlError(shown, "each @ in its password has to be written as %40")
    given: Mapping[str, Any] | None = None
    with suppress(psycopg.ProgrammingError):  # whose text may hold the password
        given = conninfo_to_dict(url)
    if given is None:
        raise StoreUrlError(shown, "PostgreSQL's library cannot read it")
    port = str(given.get("port") or 5432)
    if not port.replace(",", "").isdecimal():
        raise StoreUrlError(shown, "its port is not a number")
    host = given.get("host") or given.get("hostaddr") or "this host's socket"
    return make_conninfo("", **{**OPTIONS, **given}), f"{host}, port {port}"


def _begin(connection: psycopg.Connection[Row]) -> str:
    """Begin a transaction; its number, by which the server knows later what became of it."""
    cursor = connection.execute(BEGIN, prepare=False)
    cursor.nextset()
    (number,) = cursor.fetchone() or ("",)
    return number


@functools.cache
def numbered(sql: str) -> bytes:
    """The statement with `$1`, `$2`, ... where it has `?`."""
    parts = sql.split("?")
    told = "".join(f"{part}${number}" for number, part in enumerate(parts[:-1], 1)) + parts[-1]
    return told.encode()


@functools.cache
def numbered_insert(insert: Insert, rows: int) -> bytes:
    return numbered(insert_sql(insert, rows))


def store_error(error: psycopg.Error, url: str, place: str) -> StoreError:
    """What an error of PostgreSQL means for whoever uses the store."""
    import psycopg  # loaded by now

    state = error.sqlstate or ""
    told = _told_by(error)
    kind = STATES.get(state)
    if kind is not None:
        return kind(url, f"{told} [{state}]")
    lost = not state and isinstance(error, psycopg.OperationalError)
    if lost or state.startswith(UNREACHABLE):
        return UnreachableStoreError(url, place, told)
    return StoreError(url, f"{told} [{state}]" if state else told)


def _told_by(error: psycopg.Error) -> str:
    return " ".join(str(error).split()).rstrip(".?") or type(error).__name__
