"""Why a call would find its result in the cache, or would not."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from anabranch.caching import Caching
from anabranch.clock import Clock, SystemClock
from anabranch.context import RunContext, TaskRunContext
from anabranch.dependencies import find_blockers
from anabranch.engine.cache_desk import key_and_parts
from anabranch.execution.calls import Call, Scope, TaskSpec
from anabranch.results.persistence import Persistence
from anabranch.results.result_store import ResultStore
from anabranch.results.signing import load_secret
from anabranch.results.storages import object_name
from anabranch.settings import load_settings
from anabranch.store.database import Database
from anabranch.store.opening import open_store


class CacheExplanation(NamedTuple):
    """The `key` of a call and the `parts` that it is made of, and whether its result is there.

    `why` says it in words: on a miss, which parts differ from the newest result of the task.
    """

    key: str | None
    parts: Mapping[str, str | None]
    hit: bool
    why: str

    def __str__(self) -> str:
        lines = [f"{'hit' if self.hit else 'miss'}: {self.why}", f"key: {self.key}"]
        lines += [f"  {name}: {value}" for name, value in self.parts.items()]
        return "\n".join(lines)


def explain(
    context: RunContext, spec: TaskSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> CacheExplanation:
    """Raises `UnhashableInput` where a call of these would."""
    caching: Caching | None = spec.caching
    if caching is None:
        why = "its results are not cached: give it a cache_policy, or persist_result=True"
        return CacheExplanation(None, {}, False, why)
    if find_blockers(f"explain_cache of {spec.name}", args, kwargs).blockers:
        raise TypeError(f"{spec.name}.explain_cache() takes values; pass future.result().")
    flow_run = context.flow_run
    prefix = context.call.scope.prefix if isinstance(context, TaskRunContext) else 0
    scope = Scope(None, None, flow_run, context.task_run_key, context.tags, False, prefix, 0, 0)
    call = Call(0, 1, spec, scope, args, kwargs)
    flow_parameters: Mapping[str, Any] = (
        {} if flow_run is None else context.engine.flow_parameters(flow_run)
    )
    key, parts = key_and_parts(call, call.named_arguments(), flow_parameters)
    if key is None:
        return CacheExplanation(None, parts, False, "its policy gives this call no key")
    if caching.refresh:
        return CacheExplanation(key, parts, False, "refresh_cache=True computes it each time")
    persistence: Persistence = spec.persistence or Persistence()
    engine = context.engine
    clock: Clock = engine.clock if engine is not None else context.clock or SystemClock()
    where = caching.policy.key_storage or persistence.result_storage
    settings = load_settings()
    if where is not None:
        secret = load_secret(settings.home)
        records = ResultStore(where, persistence.result_serializer, secret, now=clock.time)
        found = records.exists(key)
        place = records.storage.location(key)
        return CacheExplanation(
            key,
            parts,
            found,
            f"there is a result at {place}" if found else f"nothing is at {place}",
        )
    database = open_store(settings.database_url, settings.home)
    try:
        hit, why = _looked_up(database, spec, key, parts, clock.time())
    finally:
        database.close()
    return CacheExplanation(key, parts, hit, why)


def _looked_up(
    database: Database, spec: TaskSpec, key: str, parts: Mapping[str, str | None], now: float
) -> tuple[bool, str]:
    found = database.read(
        "SELECT created, expires, task_run FROM cached WHERE key = ?", (object_name(key),)
    )
    if found:
        created, expires, made_by = found[0]
        if expires is not None and expires <= now:
            return False, f"the result of {_day(created)} expired at {_day(expires)}"
        until = "" if expires is None else f", kept until {_day(expires)}"
        return True, f"made by task run {made_by} at {_day(created)}{until}"
    latest = database.read(
        "SELECT parts, created FROM cached WHERE task_key = ? ORDER BY created DESC LIMIT 1",
        (spec.key,),
    )
    if not latest:
        return False, f"there is no cached result of {spec.key}"
    theirs: dict[str, str | None] = json.loads(latest[0][0] or "{}")
    names = [name for name in {**theirs, **parts} if theirs.get(name) != parts.get(name)]
    told = [name for name in names if not any(each.startswith(f"{name}.") for each in names)]
    return False, f"unlike the result of {_day(latest[0][1])}: {', '.join(told) or 'its key'}"


def _day(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(" ", "seconds")
