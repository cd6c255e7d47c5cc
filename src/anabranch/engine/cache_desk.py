"""Calls whose results may be there already: looked up before they get a worker, and kept after.

A thread of its own makes the keys and asks the cache, so that neither the caller nor a worker waits
for that. Of calls with one key, one runs; the others wait here, without a worker, and look again.
"""

# pyright: reportPrivateUsage=false
# The engine's rooms share the slots of the run record, which are private to users.

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from anabranch.cache_policies import CacheContext, CachePolicy, Parts, key_from
from anabranch.caching import About, Cache, Caching, Found
from anabranch.execution.calls import Call, TaskSpec
from anabranch.futures import TaskFuture
from anabranch.outcomes import CANCELLED, CANCELLING, COMPLETED, FAILED, SETTLED, Away, Outcome

if TYPE_CHECKING:
    from anabranch.engine.engine import Engine

logger = logging.getLogger("anabranch.caching")

LOOK_SECONDS = (0.02, 0.5)
"""The first and the longest pause between two looks at what another process computes."""
Run = TaskFuture[Any]


def _nothing() -> None:
    """Stands for the function of no task."""


_LOCKS = TaskSpec("transaction", "anabranch:transaction", _nothing)
"""Whose cache has the locks of transactions."""


class Waiting(NamedTuple):
    """A call that is not launched yet, how often it was looked for, and whether it may be found."""

    run: Run
    call: Call
    looks: int = 0
    refresh: bool = False
    parts: Parts = {}


def key_and_parts(
    call: Call, parameters: Mapping[str, Any], flow_parameters: Mapping[str, Any]
) -> tuple[str | None, Parts]:
    """The key of a call, and what it is made of; raises `UnhashableInput`."""
    caching: Caching = call.spec.caching  # pyright: ignore[reportAssignmentType]  # it is cached
    policy, context = caching.policy, cache_context(call)
    parts = policy.parts(context, parameters, flow_parameters)
    if type(policy).compute_key is CachePolicy.compute_key:
        return key_from(parts), parts
    return policy.compute_key(context, parameters, flow_parameters), parts


def cache_context(call: Call) -> CacheContext:
    """What a policy sees of a call."""
    spec, flow_run = call.spec, call.scope.flow_run
    flow_run_id = None if flow_run is None else flow_run.id
    return CacheContext(spec.task, spec.key, spec.fn, call.task_run(), flow_run_id)


class CacheDesk:
    """Decides for each call that may be cached whether it runs. `find_cache` gives a task's cache."""

    def __init__(self, engine: Engine, find_cache: Callable[[TaskSpec], Cache]) -> None:
        self._engine = engine
        self._find_cache = find_cache
        self._jobs: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._followers: dict[str, list[Waiting]] = {}  # by the key that another run computes
        self._caches: dict[int, Cache] = {}

    def look(self, run: Run, call: Call) -> None:
        """Find the call's result, or launch it."""
        caching: Caching = call.spec.caching
        self._put(partial(self._look, Waiting(run, call, 0, caching.refresh)))

    def cancel(self, keys: Sequence[int]) -> None:
        """These are not wanted any more."""
        if self._thread is not None:
            self._put(partial(self._drop, frozenset(keys)))

    def put(self, puts: Iterable[Callable[[], None]]) -> None:
        """Do these, which a transaction has held back, and wait until they are done."""
        self._do(partial(self._put_all, list(puts)))

    def claim(self, name: str) -> bool:
        """Whether this engine holds the lock of this name from here on."""
        return self._do(lambda: self._cache_of(_LOCKS).claim(name))

    def release(self, name: str) -> None:
        self._do(lambda: self._cache_of(_LOCKS).release(name))

    def _do(self, work: Callable[[], Any]) -> Any:
        """What the work gives, done on the desk's thread."""
        future: Future[Any] = Future()

        def job() -> None:
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

        self._put(job)
        return future.result()

    def close(self, seconds: float) -> None:
        """Keep what has been computed, then stop."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join(seconds)

    # -- on the desk's thread -----------------------------------------------------------------------

    def _put(self, job: Callable[[], object]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="anabranch-cache", daemon=True)
            self._thread.start()
        self._jobs.put(job)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception:
                logger.exception("A look into the cache failed")

    def _look(self, waiting: Waiting) -> None:
        run, call = waiting.run, waiting.call
        if run._phase == CANCELLING:
            self._stop(run)
        if run._phase >= SETTLED or run._attempt != call.attempt:
            return
        try:
            key, parts = call.storage_key, waiting.parts
            if key is None:
                key, parts = self._key(call)
            if key is None:
                self._engine.launch(call)
                return
            call = call._replace(storage_key=key)
            self._decide(key, waiting._replace(call=call, parts=parts))
        except Exception as error:
            at = self._engine.clock.time()
            self._engine.finish_without_retry(
                Outcome(call.key, call.attempt, FAILED, error, at, 0.0)
            )

    def _key(self, call: Call) -> tuple[str | None, Parts]:
        flow_run = call.scope.flow_run
        return key_and_parts(
            call,
            call.named_arguments(),
            {} if flow_run is None else flow_run.parameters,
        )

    def _decide(self, key: str, waiting: Waiting) -> None:
        run, call = waiting.run, waiting.call
        if key in self._followers:
            self._followers[key].append(waiting._replace(refresh=False))
            return
        cache = self._cache_of(call.spec)
        transaction = call.scope.transaction
        found = None
        if not waiting.refresh:
            found = None if transaction is None else transaction.held(key)
            found = found or cache.find(key)
        if found is not None:
            at, value = self._engine.clock.time(), found.value
            if not call.spec.in_memory and found.again is not None:
                value = Away(found.again)
            self._engine.finished(
                [
                    Outcome(
                        call.key, call.attempt, COMPLETED, value, at, 0.0, None, "Cached",
                        kept=found.kept,
                    )
                ]
            )  # fmt: skip  # as the record has it
        elif cache.claim(key):
            self._followers[key] = []
            settled = partial(self._settled, key, waiting)
            if not self._engine.notify(run, settled):
                settled(run)
            if transaction is not None and transaction.holds_back():
                call = call._replace(storage_key=None)  # nobody is to find it there by the key yet
            self._engine.launch(call)
        else:
            first, longest = LOOK_SECONDS
            pause = min(longest, first * 1.5**waiting.looks)
            again = waiting._replace(looks=waiting.looks + 1, refresh=False)
            self._engine.clock.call_later(pause, partial(self._put, partial(self._look, again)))

    def _settled(self, key: str, waiting: Waiting, run: Run) -> None:
        """The run that computed a key has ended; on whatever thread ended it."""
        self._put(partial(self._keep, key, waiting, run, run._outcome))

    def _keep(self, key: str, waiting: Waiting, run: Run, outcome: Outcome | None) -> None:
        spec = waiting.call.spec
        cache = self._cache_of(spec)
        try:
            if outcome is not None and outcome.phase == COMPLETED and outcome.state_name is None:
                caching: Caching = spec.caching
                again = outcome.value.load if type(outcome.value) is Away else None
                found = Found(outcome.value, outcome.kept, again)
                about = About(spec.key, run.task_run_id, waiting.parts)
                put = partial(cache.put, key, found, caching.expiration, about)
                transaction = waiting.call.scope.transaction
                if transaction is None or not transaction.hold(key, found, put):
                    put()
        except Exception as error:
            logger.warning("The result of %s was not cached: %s", run.name, error)
        finally:
            cache.release(key)
            for follower in self._followers.pop(key, ()):
                self._look(follower)

    def _put_all(self, puts: Sequence[Callable[[], None]]) -> None:
        for put in puts:
            try:
                put()
            except Exception as error:
                logger.warning("A result of a transaction was not cached: %s", error)

    def _drop(self, keys: frozenset[int]) -> None:
        for followers in self._followers.values():
            for waiting in [each for each in followers if each.call.key in keys]:
                followers.remove(waiting)
                self._stop(waiting.run)

    def _stop(self, run: Run) -> None:
        at = self._engine.clock.time()
        message = "Cancelled before it began."
        self._engine.finished([Outcome(run._key, run._attempt, CANCELLED, None, at, 0.0, message)])

    def _cache_of(self, spec: TaskSpec) -> Cache:
        cache = self._caches.get(id(spec))
        if cache is None:
            cache = self._caches[id(spec)] = self._find_cache(spec)
        return cache
