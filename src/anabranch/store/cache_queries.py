"""What is cached, and forgetting it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from anabranch.results.storages import object_name
from anabranch.store.database import Database, clean


@dataclass(frozen=True, slots=True)
class CachedRow:
    """A cached result; awkward characters of its key are quoted. Times are in seconds since the epoch, the size is in bytes; `task_run` is
    the id of the run that computed it."""

    key: str
    task_key: str
    created: float
    expires: float | None
    size: int | None
    preview: str | None
    task_run: str | None


def cached(database: Database, *, limit: int, task_key: str | None = None) -> list[CachedRow]:
    """The newest first."""
    where, values = ("", list[Any]()) if task_key is None else ("WHERE task_key = ? ", [task_key])
    rows = database.read(
        f'SELECT "key", task_key, created, expires, size, preview, task_run FROM cached {where}'
        'ORDER BY created DESC, "key" LIMIT ?',
        [*values, limit],
    )
    return [CachedRow(*row) for row in rows]


def clear_cache(
    database: Database, *, keys: Sequence[str] = (), expired_at: float | None = None
) -> int:
    """Forget what has one of these keys, or begins like one; or what had expired at a time, in
    seconds since the epoch; or all of it. Gives how many went."""
    with database.transaction() as transaction:
        if keys:
            sql = 'DELETE FROM cached WHERE substr("key", 1, ?) = ?'
            names = [name for key in keys if key for name in (clean(key), object_name(key))]
            return sum(transaction.changed(sql, (len(name), name)) for name in names if name)
        if expired_at is not None:
            sql = "DELETE FROM cached WHERE expires IS NOT NULL AND expires <= ?"
            return transaction.changed(sql, (expired_at,))
        return transaction.changed("DELETE FROM cached")
