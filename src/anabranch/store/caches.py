"""Cached results, by key: in the store, or as records in a storage that hosts can share.

Who computes one is always settled in the store, by a lock that its session holds.
"""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from anabranch.cache_policies import NO_CACHE
from anabranch.caching import About, Cache, Caching, Found
from anabranch.errors import MissingResultError, ResultNotKeptError, UnreadableResultError
from anabranch.execution.calls import TaskSpec
from anabranch.outcomes import NOT_KEPT, STORED, Kept
from anabranch.results.keeper import Keeper
from anabranch.results.persistence import Persistence, recover
from anabranch.results.result_store import ResultStore
from anabranch.results.signing import sign, verify
from anabranch.results.storages import object_name
from anabranch.store.database import Database, clean
from anabranch.store.sessions import Watch, bury, find_session

MOST_CACHES = 1_000
UNCHANGING = frozenset({type(None), bool, int, float, str, bytes})


class StoreCaches:
    """See `caching.Caches`. All use one connection; `session` gives that of their engine, and `now`
    seconds since the epoch."""

    def __init__(
        self,
        database: Database,
        secret: bytes,
        session: Callable[[], int],
        keeper: Keeper,
        now: Callable[[], float],
    ) -> None:
        self._open = database.another
        self._database: Database | None = None
        self._secret = secret
        self._session = session
        self._keeper = keeper
        self._now = now
        self._caches: dict[TaskSpec, Cache] = {}  # the keys stay alive: others cannot be mistaken

    def of(self, spec: TaskSpec) -> Cache:
        cache = self._caches.get(spec)
        if cache is None:
            if len(self._caches) >= MOST_CACHES:  # each method of an object is a task of its own
                self._caches.clear()
            cache = self._caches[spec] = self._made(spec)
        return cache

    def _made(self, spec: TaskSpec) -> Cache:
        caching: Caching = spec.caching or Caching(NO_CACHE)
        persistence: Persistence = spec.persistence or Persistence()
        if self._database is None:
            self._database = self._open()
        keeping = Keeping(self._keeper, persistence)
        locks = StoreCache(self._database, self._secret, self._session, keeping, self._now)
        cache: StoreCache | RecordCache = locks
        where = caching.policy.key_storage or persistence.result_storage
        if where is not None:
            serializer = persistence.result_serializer
            records = ResultStore(where, serializer, self._secret, now=self._now)
            cache = RecordCache(records, locks, keeping, self._now)
        manager = caching.policy.lock_manager
        if manager is not None:
            return ManagedLocks(cache, manager, f"session {self._session()}")
        return cache

    def close(self) -> None:
        if self._database is not None:
            self._database.close()


class Keeping(NamedTuple):
    """How the values of one task are kept, whatever their size, and had back."""

    keeper: Keeper
    persistence: Persistence

    def for_cache(self, found: Found, key: str) -> Kept:
        """What a cache keeps: as the run did, if nothing else writes to the same place."""
        kept = found.kept
        if kept is not None and kept.form != NOT_KEPT and not self.persistence.result_storage_key:
            return kept
        its_own = replace(self.persistence, result_storage_key=None)
        return self.keeper.persist(found.value, its_own, key)

    def recover(self, kept: Kept) -> Any:
        return recover(kept, serializer=self.persistence.result_serializer)

    def as_left(self, found: Found) -> Any:
        """The value as its task has left it: who called the task may have changed it by now."""
        kept, persistence = found.kept, self.persistence
        if type(found.value) in UNCHANGING or kept is None or persistence.result_storage_key:
            return found.value
        own = None if persistence.result_storage is None else persistence.store(self.keeper.secret)
        try:
            return self.recover(kept) if own is None else recover(kept, own)
        except (ResultNotKeptError, MissingResultError):  # it is in the memory of a worker
            return found.value


class StoreCache:
    """See `caching.Cache`. `session` is that of the engine, `now` gives seconds since the epoch. A key
    stands there by its object's name, which any database can hold."""

    def __init__(
        self,
        database: Database,
        secret: bytes,
        session: Callable[[], int],
        keeping: Keeping,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.database = database
        self._secret = secret
        self._session = session
        self._keeping = keeping
        self._now = now
        self._watch = Watch()

    def find(self, key: str) -> Found | None:
        found = self.database.read(
            "SELECT form, result, size, preview, expires FROM cached WHERE key = ?",
            (object_name(key),),
        )
        if not found:
            return None
        form, data, size, preview, expires = found[0]
        if expires is not None and expires <= self._now():
            return None
        data = verify(self._secret, _bound(key, form), bytes(data or b""), self.database.url)
        kept = Kept(form, data, size, preview, None)
        try:
            again = partial(self._keeping.recover, kept) if form == STORED else None
            return Found(self._keeping.recover(kept), kept, again)
        except (UnreadableResultError, MissingResultError):  # moved, or removed: compute it again
            return None

    def put(self, key: str, found: Found, seconds: float | None, about: About) -> None:
        kept = self._keeping.for_cache(found, key)
        if kept.data is None:
            return  # nothing is left of it
        data = sign(self._secret, _bound(key, kept.form), kept.data)
        now = self._now()
        expires = None if seconds is None else now + seconds
        name = object_name(key)
        with self.database.transaction() as transaction:
            transaction.changed("DELETE FROM cached WHERE key = ?", (name,))
            transaction.changed(
                "INSERT INTO cached (key, task_key, created, expires, form, result, size, preview, "
                "task_run, parts) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    name,
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
        name, session = object_name(key), self._session()
        with self.database.transaction() as transaction:
            taken = transaction.execute(  # its own is one that could not be released
                "INSERT INTO cache_lock (key, session) VALUES (?, ?) ON CONFLICT (key) "
                "DO UPDATE SET session = excluded.session "
                "WHERE cache_lock.session = excluded.session RETURNING key",
                (name, session),
            )
        if not taken:
            self._bury_owner(name)
        return bool(taken)

    def release(self, key: str) -> None:
        with self.database.transaction() as transaction:
            transaction.changed(
                "DELETE FROM cache_lock WHERE key = ? AND session = ?",
                (object_name(key), self._session()),
            )

    def _bury_owner(self, name: str) -> None:
        """Free the lock of a process that has died, or of a session that has ended."""
        owner = self.database.read("SELECT session FROM cache_lock WHERE key = ?", (name,))
        if not owner:
            return
        session = find_session(self.database, owner[0][0])
        if session is None or session.closed is not None:
            with self.database.transaction() as transaction:
                transaction.changed(
                    "DELETE FROM cache_lock WHERE key = ? AND session = ?", (name, owner[0][0])
                )
        elif self._watch.has_lapsed(session):
            bury(self.database, session, time.time())


class RecordCache:
    """The same over records in a storage, for results that others find there too."""

    def __init__(
        self,
        records: ResultStore,
        locks: StoreCache,
        keeping: Keeping,
        now: Callable[[], float],
    ) -> None:
        self._records = records
        self._keeping = keeping
        self._now = now
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
            expiration = dt.datetime.fromtimestamp(self._now() + seconds, dt.UTC)
        value = self._keeping.as_left(found) if found.again is None else found.again()
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


def _bound(key: str, form: str) -> str:
    """What the signature of a cached result is bound to."""
    return f"cached {form} {key}"
