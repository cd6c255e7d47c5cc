"""Cached results, by key: in the store, or as records in a storage that hosts can share.

Who computes one is always settled in the store, by a lock that its session holds.
"""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from anabranch.caching import About, Found
from anabranch.errors import MissingResultError, UnreadableResultError
from anabranch.outcomes import NOT_KEPT, PICKLE, STORED, Kept
from anabranch.results.persistence import recover
from anabranch.results.result_store import ResultStore
from anabranch.results.signing import sign, verify
from anabranch.store.database import Database, clean
from anabranch.store.sessions import Watch, bury, find_session

Persist = Callable[[Any, str], Kept]
"""Keeps a value under a key, whatever its size."""


class StoreCache:
    """See `caching.Cache`. `session` is that of the engine, `persist` keeps what has not been kept."""

    def __init__(
        self, database: Database, secret: bytes, session: Callable[[], int], persist: Persist
    ) -> None:
        self.database = database
        self._secret = secret
        self._session = session
        self._persist = persist
        self._watch = Watch()

    def find(self, key: str) -> Found | None:
        found = self.database.read(
            "SELECT form, result, size, preview, expires FROM cached WHERE key = ?", (key,)
        )
        if not found:
            return None
        form, data, size, preview, expires = found[0]
        if expires is not None and expires <= time.time():
            return None
        data = None if data is None else bytes(data)
        if form == PICKLE and data is not None:
            data = verify(self._secret, _bound(key), data, self.database.url)
        kept = Kept(form, data, size, preview, None)
        try:
            again = partial(recover, kept) if form == STORED else None
            return Found(recover(kept), kept, again)
        except (UnreadableResultError, MissingResultError):  # moved, or removed: compute it again
            return None

    def put(self, key: str, found: Found, seconds: float | None, about: About) -> None:
        kept = found.kept
        if kept is None or kept.form == NOT_KEPT:
            kept = self._persist(found.value, key)
        data = kept.data
        if kept.form == PICKLE and data is not None:
            data = sign(self._secret, _bound(key), data)
        now = time.time()
        expires = None if seconds is None else now + seconds
        with self.database.transaction() as transaction:
            transaction.changed("DELETE FROM cached WHERE key = ?", (key,))
            transaction.changed(
                "INSERT INTO cached (key, task_key, created, expires, form, result, size, preview, "
                "task_run, parts) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    key,
                    about.task_key,
                    now,
                    expires,
                    kept.form,
                    data,
                    kept.size,
                    clean(kept.preview),
                    about.task_run_id,
                    json.dumps(dict(about.parts)),
                ),
            )

    def claim(self, key: str) -> bool:
        session = self._session()
        with self.database.transaction() as transaction:
            taken = transaction.execute(
                "INSERT INTO cache_lock (key, session) VALUES (?, ?) "
                "ON CONFLICT (key) DO NOTHING RETURNING key",
                (key, session),
            )
        if not taken:
            self._bury_owner(key)
        return bool(taken)

    def release(self, key: str) -> None:
        with self.database.transaction() as transaction:
            transaction.changed(
                "DELETE FROM cache_lock WHERE key = ? AND session = ?", (key, self._session())
            )

    def _bury_owner(self, key: str) -> None:
        """Free the lock of a process that has died."""
        owner = self.database.read("SELECT session FROM cache_lock WHERE key = ?", (key,))
        session = find_session(self.database, owner[0][0]) if owner else None
        if session is not None and session.closed is None and self._watch.has_lapsed(session):
            bury(self.database, session, time.time())


class RecordCache:
    """The same over records in a storage, for results that others find there too."""

    def __init__(self, records: ResultStore, locks: StoreCache) -> None:
        self._records = records
        self._locks = locks
        self.claim = locks.claim
        self.release = locks.release

    def find(self, key: str) -> Found | None:
        try:
            record = self._records.read(key)
        except (MissingResultError, UnreadableResultError):
            return None
        return Found(record.value, again=partial(self._value, key))

    def _value(self, key: str) -> Any:
        return self._records.read(key).value

    def put(self, key: str, found: Found, seconds: float | None, about: About) -> None:
        expiration = None
        if seconds is not None:
            expiration = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)
        value = found.value if found.again is None else found.again()
        self._records.write(key, value, expiration)


class ManagedLocks:
    """A cache whose computing is kept apart by a lock manager of the user's: something with
    `acquire_lock(key, holder, acquire_timeout)` and `release_lock(key, holder)`."""

    def __init__(self, cache: StoreCache | RecordCache, manager: Any, holder: str) -> None:
        self.find = cache.find
        self.put = cache.put
        self._manager = manager
        self._holder = holder

    def claim(self, key: str) -> bool:
        return bool(self._manager.acquire_lock(key, self._holder, acquire_timeout=0))

    def release(self, key: str) -> None:
        self._manager.release_lock(key, self._holder)


def _bound(key: str) -> str:
    """What the signature of a cached pickle is bound to."""
    return f"cached {key}"
