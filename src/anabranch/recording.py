"""How a run is recorded: the store is opened for it, and its log lines go there too."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from anabranch.cache_policies import NO_CACHE
from anabranch.caching import Cache, Caching
from anabranch.clock import Clock
from anabranch.context import RunContext
from anabranch.engine.engine import Engine
from anabranch.errors import FullStoreError, LockedStoreError, ReadOnlyStoreError, StaleOwnerError
from anabranch.events import Subscriber
from anabranch.execution.calls import TaskSpec
from anabranch.limits import SlotStore
from anabranch.outcomes import Kept
from anabranch.results.keeper import Keeper
from anabranch.results.persistence import Persistence
from anabranch.results.result_store import ResultStore
from anabranch.results.signing import load_secret
from anabranch.runs import id_prefix
from anabranch.settings import Settings
from anabranch.store.caches import ManagedLocks, RecordCache, StoreCache
from anabranch.store.log_handler import logs_stored
from anabranch.store.opening import open_store
from anabranch.store.writer import Settle, StoreWriter

logger = logging.getLogger("anabranch.store")


@contextmanager
def recording_engine(
    clock: Clock, subscribers: list[Subscriber], settings: Settings, context: RunContext
) -> Generator[Engine]:
    """An engine whose runs are recorded, closed at the end.

    Where the store cannot be written the run goes on without it, but in strict durability; raises
    `StoreError` there, and wherever what is found is not a store.
    """
    prefix = id_prefix()
    resumed = context.resumed
    if resumed is not None:
        prefix, writer = resumed.prefix, resumed.writer
    else:
        writer = _opened_writer(settings, prefix)
    keep = find_cache = None
    if writer is not None:
        keep = Keeper(settings.result_inline_limit, writer.secret)
        find_cache = partial(_cache, writer, keep)
    engine = Engine(clock, subscribers, settings.cancel_grace, writer, prefix, keep, find_cache)
    with ExitStack() as lifetimes:
        if writer is not None:
            writer.settle = partial(_settle, engine)
            writer.fence = partial(_fence, engine)
            writer.running = engine.running
            writer.unsettled = engine.unsettled
            engine.open_slots = partial(_slots, writer)
            lifetimes.enter_context(
                logs_stored(engine.flow_runs.__contains__, engine.broadcast.record)
            )
        try:
            yield engine
        finally:
            engine.close()


def _opened_writer(settings: Settings, prefix: int) -> StoreWriter | None:
    strict = settings.durability == "strict"
    try:
        database = open_store(settings.database_url, settings.home, strict)
        secret = load_secret(settings.home)
    except (ReadOnlyStoreError, FullStoreError, LockedStoreError, OSError) as error:
        if strict:
            raise
        logger.error("%s The run goes on without being recorded.", error)
        return None
    return StoreWriter(database, prefix, secret, strict, settings.result_inline_limit)


def _slots(writer: StoreWriter) -> SlotStore:
    from anabranch.store.slots import StoreSlots  # only where slots of limits are asked for

    return StoreSlots(writer.database.another())


def _cache(writer: StoreWriter, keeper: Keeper, spec: TaskSpec) -> Cache:
    """Where a task's results are found again."""
    caching: Caching = spec.caching or Caching(NO_CACHE)
    persistence: Persistence = spec.persistence or Persistence()
    locks = StoreCache(
        writer.database.another(),
        writer.secret,
        writer.session,
        partial(_persist, keeper, persistence),
    )
    cache: StoreCache | RecordCache = locks
    where = caching.policy.key_storage or persistence.result_storage
    if where is not None:
        records = ResultStore(where, persistence.result_serializer, writer.secret)
        cache = RecordCache(records, locks)
    manager = caching.policy.lock_manager
    if manager is not None:
        return ManagedLocks(cache, manager, f"session {writer.session()}")
    return cache


def _persist(keeper: Keeper, persistence: Persistence, value: Any, key: str) -> Kept:
    return keeper.persist(value, persistence, key)


def _settle(engine: Engine, told: Settle) -> None:
    engine.recorded(told.runs, told.error)


def _fence(engine: Engine, error: StaleOwnerError) -> None:
    """Another process owns the run now: end it here."""
    engine.cancel_all(str(error))
