"""Calls whose results may be there already: looked up before they get a worker, and kept after.

A thread of its own makes the keys and asks the cache, so that neither the caller nor a worker waits
for that. Of calls with one key, one runs; the others wait here, without a worker, and look again.
"""

# pyright: reportPrivateUsage=false
# The engine's rooms share the slots of the run record, which are private to users.

from __future__ import annotations

import heapq
import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from anabranch.cache_policies import CacheContext, CachePolicy, Parts, key_from
from anabranch.caching import About, Caches, Caching, Found
from anabranch.errors import StorageKeyError, TamperedResultError
from anabranch.execution.calls import Call, Scope, TaskSpec
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
    key: str | None = None
    parts: Parts | None = None


def key_and_parts(
    call: Call, parameters: Mapping[str, Any], flow_parameters: Mapping[str, Any]
) -> tuple[str | None, Parts]:
    """The key of a call, and what it is made of; raises `UnhashableInput`."""
    policy, context = _caching_of(call.spec).policy, cache_context(call)
    parts = policy.parts(context, parameters, flow_parameters)
    if type(policy).compute_key is CachePolicy.compute_key:
        return key_from(parts), parts
    return policy.compute_key(context, parameters, flow_parameters), parts


def _caching_of(spec: TaskSpec) -> Caching:
    assert spec.caching is not None  # only such calls come here
    return spec.caching


def cache_context(call: Call) -> CacheContext:
    """What a policy sees of a call."""
    spec, flow_run = call.spec, call.scope.flow_run
    flow_run_id = None if flow_run is None else flow_run.id
    return CacheContext(spec.task, spec.key, spec.fn, call.task_run(), flow_run_id)


class Computing:
    """A key whose result a run of this engine computes, and the calls that wait for it."""

    __slots__ = ("followers", "leader")

    def __init__(self, leader: int) -> None:
        self.leader = leader  # its key as a run
        self.followers: list[Waiting] = []


class CacheDesk:
    """Decides for each call that may be cached whether it runs."""

    def __init__(self, engine: Engine, caches: Caches) -> None:
        self._engine = engine
        self._caches = caches
        self._jobs: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._computing: dict[str, Computing] = {}
        self._leading: dict[int, str] = {}  # the other way round
        self._claimed: set[str] = set()  # locks of transactions
        self._later: list[tuple[float, int, Waiting]] = []  # what other processes compute
        self._order = itertools.count()

    def look(self, run: Run, call: Call) -> None:
        """Find the call's result, or launch it."""
        waiting = Waiting(run, call, refresh=_caching_of(call.spec).refresh)
        self._put(partial(self._look, waiting))

    def cancel(self, keys: Sequence[int]) -> None:
        """These are not wanted any more."""
        if self._thread is not None:
            self._put(partial(self._drop, frozenset(keys)))

    def put(self, puts: Iterable[Callable[[], None]]) -> None:
        """Do these, which a transaction has held back, and wait until they are done."""
        self._do(partial(self._put_all, list(puts)))

    def claim(self, name: str) -> bool:
        """Whether the caller holds the lock of this name from here on."""

        def claim() -> bool:
            # To the store all blocks of this engine are one holder.
            taken = name not in self._claimed and self._caches.of(_LOCKS).claim(name)
            if taken:
                self._claimed.add(name)
            return taken

        return self._do(claim)

    def release(self, name: str) -> None:
        def release() -> None:
            self._claimed.discard(name)
            self._caches.of(_LOCKS).release(name)

        self._do(release)

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

    def _put(self, job: Callable[[], object]) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="anabranch-cache", daemon=True
                )
                self._thread.start()
        self._jobs.put(job)

    # -- on the desk's thread -----------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=self._pause())
                if job is None:
                    break
                job()
            except queue.Empty:
                pass
            except Exception:
                logger.exception("A look into the cache failed")
            while self._later and self._later[0][0] <= time.monotonic():
                self._look(heapq.heappop(self._later)[-1])
        try:
            self._caches.close()
        except Exception as error:
            logger.warning("The cache was not closed: %s", error)

    def _pause(self) -> float | None:
        return max(0.0, self._later[0][0] - time.monotonic()) if self._later else None

    def _look(self, waiting: Waiting) -> None:
        run, call = waiting.run, waiting.call
        if run._phase == CANCELLING:
            self._stop(run)
        if run._phase >= SETTLED or run._attempt != call.attempt:
            return
        try:
            if run._key in self._leading:  # it tries again
                self._engine.launch(call)
                return
            key = waiting.key
            if key is None:
                key, parts = self._key(call)
                waiting = waiting._replace(key=key, parts=parts)
            if key is None:
                self._engine.launch(call)
            else:
                self._decide(key, waiting)
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
        computing = self._computing.get(key)
        if computing is not None:
            if self._is_below(call.scope, computing.leader):
                self._engine.launch(call)  # who computes the key waits for this one
            else:
                computing.followers.append(waiting._replace(refresh=False))
            return
        try:
            found, claimed = self._find_or_claim(key, waiting)
        except (TamperedResultError, StorageKeyError):
            raise
        except Exception as error:
            _caching_of(call.spec).refuse_unguarded(call.spec.name, str(error))
            logger.warning("%s runs without the cache: %s", run.name, error)
            self._engine.launch(call)
            return
        if found is not None:
            self._finish_found(call, found)
        elif claimed:
            self._computing[key] = Computing(run._key)
            self._leading[run._key] = key
            settled = partial(self._settled, key, waiting)
            if not self._engine.notify(run, settled):
                settled(run)
            self._engine.launch(call)
        else:
            first, longest = LOOK_SECONDS
            due = time.monotonic() + min(longest, first * 1.5**waiting.looks)
            again = waiting._replace(looks=waiting.looks + 1, refresh=False)
            heapq.heappush(self._later, (due, next(self._order), again))

    def _is_below(self, scope: Scope, leader: int) -> bool:
        """Whether what runs in this scope was called by that run, or below it."""
        above: Scope | None = scope
        while above is not None:
            key = above.parent_key
            if key is None:
                parent = None if above.flow_run is None else above.flow_run.parent_task_run_id
                if parent is None:
                    return False
                key = int(parent[-12:], 16)
            if key == leader:
                return True
            run = self._engine._tracker.live.get(key)
            shared: Any = None if run is None else run._shared  # futures know only the port
            above = None if run is None else shared.scope
        return False

    def _find_or_claim(self, key: str, waiting: Waiting) -> tuple[Found | None, bool]:
        """The result, or whether this engine is to compute it; neither where another does."""
        cache = self._caches.of(waiting.call.spec)
        if waiting.refresh:
            return None, cache.claim(key)
        transaction = waiting.call.scope.transaction
        held = None if transaction is None else transaction.held(key)
        found = held or cache.find(key)
        if found is not None or not cache.claim(key):
            return found, False
        try:
            found = cache.find(key)  # what came between the two
        finally:
            if found is not None:
                cache.release(key)
        return found, found is None

    def _finish_found(self, call: Call, found: Found) -> None:
        at, value = self._engine.clock.time(), found.value
        if not call.spec.in_memory and found.again is not None:
            value = Away(found.again)
        outcome = Outcome(
            call.key, call.attempt, COMPLETED, value, at, 0.0, None, "Cached", kept=found.kept
        )
        self._engine.finished([outcome])

    def _settled(self, key: str, waiting: Waiting, run: Run) -> None:
        """The run that computed a key has ended; on whatever thread ended it."""
        self._put(partial(self._keep, key, waiting, run, run._outcome))

    def _keep(self, key: str, waiting: Waiting, run: Run, outcome: Outcome | None) -> None:
        spec = waiting.call.spec
        cache = self._caches.of(spec)
        try:
            if outcome is not None and outcome.phase == COMPLETED and outcome.state_name is None:
                again = outcome.value.load if type(outcome.value) is Away else None
                found = Found(outcome.value, outcome.kept, again)
                about = About(spec.key, run.task_run_id, waiting.parts or {})
                put = partial(cache.put, key, found, _caching_of(spec).expiration, about)
                transaction = waiting.call.scope.transaction
                if transaction is None or not transaction.hold(key, found, put):
                    put()
        except Exception as error:
            logger.warning("The result of %s was not cached: %s", run.name, error)
        try:
            cache.release(key)
        except Exception as error:
            logger.warning("Others may wait for %s until this run ends: %s", run.name, error)
        del self._leading[run._key]
        for follower in self._computing.pop(key).followers:
            self._look(follower)

    def _put_all(self, puts: Sequence[Callable[[], None]]) -> None:
        for put in puts:
            try:
                put()
            except Exception as error:
                logger.warning("A result of a transaction was not cached: %s", error)

    def _drop(self, keys: frozenset[int]) -> None:
        for computing in self._computing.values():
            for waiting in [each for each in computing.followers if each.call.key in keys]:
                computing.followers.remove(waiting)
                self._stop(waiting.run)
        for waiting in [each[-1] for each in self._later if each[-1].call.key in keys]:
            self._stop(waiting.run)  # its next look finds it settled

    def _stop(self, run: Run) -> None:
        at = self._engine.clock.time()
        message = "Cancelled before it began."
        self._engine.finished([Outcome(run._key, run._attempt, CANCELLED, None, at, 0.0, message)])
