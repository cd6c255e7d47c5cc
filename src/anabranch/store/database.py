"""One connection to the store's database, whichever it is; the SQL above it is the same for all.

Statements are written with `?` for each value. A connection can be used by several threads, one at a
time; who must not wait for others opens `another`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

Row = tuple[Any, ...]
_SECRET_OPTION = re.compile(r"([?&]\w*password=)[^&]*", re.IGNORECASE)
SIZES = (1_000, 300, 100, 30, 10, 3, 1)
"""Rows in a statement: one of many rows gives the interpreter up once, where many of one row do so
for each, and wait for it each time; few different lengths stay prepared. More than the first take
as long to prepare as to run."""


class Insert(NamedTuple):
    """How rows go into a table: `updated` are the columns that win over those of a row that is there
    already, by `conflict`; with no `updated`, the row that is there stays."""

    table: str
    columns: tuple[str, ...]
    conflict: str = ""
    updated: tuple[str, ...] = ()


class InsertAlike(NamedTuple):
    """The same for rows that are alike: all have the values of `constants`, those of one call have
    the columns in `shared` in common, and only those in `own` are given for each.

    Those in `binary` are given as bytes or, where they are ASCII, as text, which SQLite's driver
    takes in a fifth of the time.
    """

    table: str
    constants: tuple[tuple[str, int | str], ...]
    shared: tuple[str, ...]
    own: tuple[str, ...]
    binary: tuple[str, ...]
    conflict: str
    updated: tuple[str, ...]


class Transaction(Protocol):
    """What can be done within one transaction."""

    def execute(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        """Run a statement; the rows that it gives, all of them."""
        ...

    def changed(self, sql: str, values: Sequence[Any] = ()) -> int:
        """Run a statement; how many rows it changed."""
        ...

    def insert(self, insert: Insert, rows: Sequence[Row]) -> None: ...

    def insert_alike(self, insert: InsertAlike, shared: Row, values: Sequence[Any]) -> None:
        """Insert rows whose own values stand in one list, row after row, so that many rows cost no
        record each."""
        ...


class Database(Protocol):
    """Opened, with a current schema. Raises only `StoreError`s."""

    url: str
    """As it may be shown: without its password."""
    keeps: bool
    """Whether what is written outlives the process."""

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Write, and commit at the end of the block."""
        ...

    def read(self, sql: str, values: Sequence[Any] = ()) -> list[Row]: ...

    def another(self) -> Database:
        """A connection of its own to the same data."""
        ...

    def size(self) -> int:
        """Bytes that the data take."""
        ...

    def close(self) -> None: ...


@functools.cache
def insert_sql(insert: Insert, rows: int) -> str:
    """The statement for so many rows."""
    values = ",".join(["(" + ",".join("?" * len(insert.columns)) + ")"] * rows)
    into = f"INSERT INTO {insert.table} ({','.join(insert.columns)})"
    return f"{into} VALUES {values}{on_conflict(insert)}"


def on_conflict(insert: Insert | InsertAlike) -> str:
    """The end of a statement: what becomes of rows that are there already."""
    if not insert.conflict:
        return ""
    if not insert.updated:
        return f" ON CONFLICT ({insert.conflict}) DO NOTHING"
    updates = ",".join(f"{name}=excluded.{name}" for name in insert.updated)
    return f" ON CONFLICT ({insert.conflict}) DO UPDATE SET {updates}"


def parts(count: int, repeatable: bool) -> list[int]:
    """The lengths of the statements for so many rows, each one of `SIZES`. Where rows may be given
    twice, the last may have room for up to three times as many as are left, since one statement is
    quicker than some."""
    lengths: list[int] = []
    for size, smaller in zip(SIZES, (*SIZES[1:], 0), strict=True):
        lengths += [size] * (count // size)
        count %= size
        if repeatable and smaller < count and size <= 3 * count:
            return [*lengths, size]
    return lengths


def chunked(rows: Sequence[Row], repeatable: bool) -> Iterable[tuple[int, list[Any]]]:
    """The rows as lists of values, for statements of so many rows each."""
    start = 0
    for size in parts(len(rows), repeatable):
        chunk = rows[start : start + size]
        flat: list[Any] = []
        for row in chunk:
            flat += row
        flat += (*chunk[-1],) * (size - len(chunk))
        yield size, flat
        start += size


def clean(text: str | None) -> str | None:
    """The text as each database can hold it: no NUL, no lone surrogates."""
    if text is None or (text.isascii() and "\0" not in text):
        return text
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def shown_url(url: str) -> str:
    """The URL without its password."""
    scheme, mark, rest = url.partition("://")
    user, at, host = rest.rpartition("@")  # the last one: a password may hold others
    if at and ":" in user:
        rest = f"{user.partition(':')[0]}:***@{host}"
    return _SECRET_OPTION.sub(r"\1***", f"{scheme}{mark}{rest}")
