"""The options of a task or flow that say how its results are kept and found again."""

from __future__ import annotations

import datetime as dt
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from anabranch import late
from anabranch.cache_policies import (
    DEFAULT,
    CacheKeyFnPolicy,
    CachePolicy,
    NoCache,
    excluded_arguments,
)
from anabranch.caching import Caching
from anabranch.errors import OptionError

_KEEPING = ("result_storage", "result_storage_key", "result_serializer")


FOREVER = 1e10
"""Seconds that no `cache_expiration` reaches: some 300 years."""


def caching_options(
    owner: str, options: Mapping[str, Any], fn: Callable[..., Any] | None = None
) -> Caching | None:
    """How the results of the task over `fn` are found again; None where they are not.

    Raises `OptionError`.
    """
    policy: Any = options.get("cache_policy")
    key_fn: Any = options.get("cache_key_fn")
    persists: Any = options.get("persist_result")
    if policy is not None and not isinstance(policy, CachePolicy):
        raise OptionError(owner, "cache_policy", policy, "a policy such as INPUTS + TASK_SOURCE")
    if key_fn is not None:
        if policy is not None:
            raise OptionError(owner, "cache_key_fn", key_fn, "left out where cache_policy is given")
        policy = CacheKeyFnPolicy(cache_key_fn=key_fn)
    if policy is None and persists and options.get("result_storage_key") is None:
        policy = DEFAULT
    if policy is None or isinstance(policy, NoCache):
        for name in ("cache_expiration", "refresh_cache"):
            if options.get(name) not in (None, False):
                raise OptionError(owner, name, options[name], "given with a cache_policy")
        return None
    if fn is not None:
        _refuse_unknown(owner, policy, fn)
    if policy.key_storage is not None:
        late.storage(policy.key_storage)
    for method in ("acquire_lock", "release_lock"):
        manager = policy.lock_manager
        if manager is not None and not callable(getattr(manager, method, None)):
            raise OptionError(owner, "lock_manager", manager, f"an object with {method}()")
    if persists is False:
        raise OptionError(
            owner, "persist_result", persists, "left out, or True, where results are cached"
        )
    refresh: Any = options.get("refresh_cache", False)
    if not isinstance(refresh, bool | None):
        raise OptionError(owner, "refresh_cache", refresh, "True or False")
    return Caching(policy, _seconds(owner, options.get("cache_expiration")), bool(refresh))


def _refuse_unknown(owner: str, policy: CachePolicy, fn: Callable[..., Any]) -> None:
    """Refuse to leave out arguments that the task does not have."""
    while isinstance(fn, functools.partial):  # a method of an object, which counts as an argument
        fn = fn.func  # pyright: ignore[reportUnknownMemberType]  # any function
    names = list(inspect.signature(fn).parameters)
    for name in sorted(excluded_arguments(policy) - set(names)):
        expected = f"one that the task has: {', '.join(names) or 'none'}"
        raise OptionError(owner, "the argument left out of cache_policy", name, expected)


def _seconds(owner: str, given: Any) -> float | None:
    if isinstance(given, dt.timedelta):
        given = given.total_seconds()
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given < FOREVER:
        expected = "a timedelta, or seconds, more than 0 and less than 300 years"
        raise OptionError(owner, "cache_expiration", given, expected)
    return float(given)


def persistence_options(owner: str, options: Mapping[str, Any]) -> late.Persistence | None:
    """How results that are wanted kept are kept; None where they are kept only if they are small.

    Raises `OptionError`, and what a storage or serializer says of itself.
    """
    persists: Any = options.get("persist_result")
    if not isinstance(persists, bool | None):
        raise OptionError(owner, "persist_result", persists, "True or False")
    given = {name: options[name] for name in _KEEPING if options.get(name) is not None}
    if persists is False:
        for name, value in given.items():
            raise OptionError(owner, name, value, "left out where persist_result is False")
        return None
    in_memory: Any = options.get("cache_result_in_memory", True)
    cached = caching_options(owner, options) is not None
    if not (persists or given or cached):
        if in_memory is False:
            raise OptionError(
                owner, "cache_result_in_memory", in_memory, "given with persist_result=True"
            )
        return None
    if "result_storage" in given:
        late.storage(given["result_storage"])
    if "result_serializer" in given:
        late.serializer(given["result_serializer"])
    return late.Persistence(**given)
