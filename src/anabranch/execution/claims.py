"""Which groups of calls have begun, so that an engine which starts one anew runs no call twice.

Kept where all workers of a cluster can ask: a group begins on the first that claims it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class Granted(NamedTuple):
    """A group is the asking worker's: all of it but the struck calls; or, where a value of it is lost
    that had stayed on a worker, the `only` call that makes it again, by its place in the group."""

    struck: frozenset[int] = frozenset()
    only: int | None = None


class Claims:
    """Those of one open runner."""

    def __init__(self) -> None:
        self._workers: dict[int, str] = {}  # by group
        self._struck: dict[int, set[int]] = {}
        self._settled: dict[int, int] = {}

    def claim(self, group: int, worker: str) -> Granted | None:
        """Have a group begin on this worker; None where it has begun on one before."""
        if group in self._workers:
            only = self._settled.get(group)
            return None if only is None else Granted(only=only)
        self._workers[group] = worker
        return Granted(frozenset(self._struck.pop(group, ())))

    def strike(self, group: int, keys: Iterable[int]) -> tuple[str | None, int]:
        """Have calls of a group not begin. Gives the worker that has it already, if one has, and how
        many of its calls are struck."""
        worker = self._workers.get(group)
        if worker is not None:
            return worker, 0
        struck = self._struck.setdefault(group, set())
        struck.update(keys)
        return None, len(struck)

    def settle(self, group: int, place: int) -> None:
        """The value of a call stays on the worker as that of its group."""
        self._settled[group] = place


# -- at a Dask scheduler, which calls plain functions ---------------------------------------------

_claims: dict[
    tuple[str, str], Claims
] = {}  # by scheduler, of which a process may have several, and client


def open_claims(client: str, dask_scheduler: Any) -> None:
    """Begin to keep those of this client, and forget those of clients that are gone."""
    own = dask_scheduler.id
    for scheduler, other in list(_claims):
        if scheduler == own and other not in dask_scheduler.clients:
            del _claims[scheduler, other]
    _claims[own, client] = Claims()


def claim(client: str, group: int, worker: str, dask_scheduler: Any) -> Granted | None:
    """See `Claims.claim`; raises `KeyError` where the client is gone."""
    return _claims[dask_scheduler.id, client].claim(group, worker)


def strike(
    client: str, groups: Mapping[int, Iterable[int]], dask_scheduler: Any
) -> dict[int, tuple[str | None, int]]:
    """See `Claims.strike`; raises as `claim` does."""
    claims = _claims[dask_scheduler.id, client]
    return {group: claims.strike(group, keys) for group, keys in groups.items()}


def settle(client: str, group: int, place: int, dask_scheduler: Any) -> None:
    """See `Claims.settle`; raises as `claim` does."""
    _claims[dask_scheduler.id, client].settle(group, place)


def close_claims(client: str, dask_scheduler: Any) -> None:
    """Forget those of this client."""
    _claims.pop((dask_scheduler.id, client), None)
