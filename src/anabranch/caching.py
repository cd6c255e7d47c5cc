"""How a task asks for its results to be found again, and where they are: the port of a cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from anabranch.cache_policies import CachePolicy, Parts
from anabranch.errors import IsolationError
from anabranch.outcomes import Kept


class Caching(NamedTuple):
    """A task's options for caching; `expiration` in seconds from when the result is there."""

    policy: CachePolicy
    expiration: float | None = None
    refresh: bool = False

    def refuse_unguarded(self, task_name: str, problem: str) -> None:
        """Raise `IsolationError` if the task may not run where others with its key are not kept
        away."""
        if self.policy.isolation_level == "serializable":
            raise IsolationError(task_name, problem)


class Found(NamedTuple):
    """A result that is there, and how it is kept; `again` reads it from a storage, if it is in one,
    on any thread. The value of a task that does not hold it in memory may be an `Away`."""

    value: Any
    kept: Kept | None = None
    again: Callable[[], Any] | None = None


class About(NamedTuple):
    """Where a result comes from: its task, the id of the run, what its key is made of."""

    task_key: str
    task_run_id: str
    parts: Parts


class Cache(Protocol):
    """Where results are found again, by key; used by one thread."""

    def find(self, key: str) -> Found | None:
        """The result, unless there is none or it has expired; raises `TamperedResultError`."""
        ...

    def put(self, key: str, found: Found, seconds: float | None, about: About) -> None:
        """Keep a result for so many seconds, or for good."""
        ...

    def claim(self, key: str) -> bool:
        """Whether this engine is the one to compute it: no other is at it."""
        ...

    def release(self, key: str) -> None: ...


class Caches(Protocol):
    """The caches of one engine's tasks; made, used and closed by one thread."""

    def of(self, spec: Any) -> Cache:
        """That of the task with this `TaskSpec`."""
        ...

    def close(self) -> None: ...
