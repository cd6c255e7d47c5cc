"""How a run is recorded: the store is opened for it, and its log lines go there too."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from functools import partial

from anabranch import late
from anabranch.caching import Caches
from anabranch.clock import Clock
from anabranch.context import RunContext
from anabranch.engine.engine import Engine
from anabranch.errors import FullStoreError, LockedStoreError, ReadOnlyStoreError, StaleOwnerError
from anabranch.events import Subscriber
from anabranch.limits import SlotStore
from anabranch.results.keeper import Keeper
from anabranch.results.signing import load_secret
from anabranch.runs import id_prefix
from anabranch.settings import Settings
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
    keep = make_caches = None
    if writer is not None:
        keep = Keeper(settings.result_inline_limit, writer.secret)
        make_caches = partial(_caches, writer, keep, clock)
    engine = Engine(clock, subscribers, settings.cancel_grace, writer, prefix, keep, make_caches)
    with ExitStack() as lifetimes:
        if writer is not None:
            writer.settle = partial(_settle, engine)
            writer.fence = partial(_fence, engine)
            writer.running = engine.running
            writer.unsettled = engine.unsettled
            engine.limits.open_slots = partial(_slots, writer)
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
    return late.StoreSlots(writer.database.another())


def _caches(writer: StoreWriter, keep: Keeper, clock: Clock) -> Caches:
    return late.StoreCaches(writer.database, writer.secret, writer.session, keep, clock.time)


def _settle(engine: Engine, told: Settle) -> None:
    engine.recorded(told.runs, told.error)


def _fence(engine: Engine, error: StaleOwnerError) -> None:
    """Another process owns the run now: end it here."""
    engine.cancel_all(str(error))
