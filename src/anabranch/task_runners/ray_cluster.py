"""A Ray cluster at work for one flow: what it is asked, and what it says of calls."""

from __future__ import annotations

import itertools
import logging
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from time import monotonic
from typing import Any

import ray as typed_ray
from ray import exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from anabranch.errors import ClusterConnectionError, WorkerVersionError
from anabranch.execution.cluster_calls import Constants, Sent, Template, versions
from anabranch.runs import run_id
from anabranch.task_runners import ray_worker
from anabranch.task_runners.cluster_runner import ClusterRunner, Flying, Problem
from anabranch.task_runners.ray_connection import Connection, PostOffice, reach
from anabranch.task_runners.ray_returns import Returns
from anabranch.task_runners.ray_seats import Asks, Seat, Seats, asks_of, covers, options_of
from anabranch.task_runners.ray_worker import (
    Broke,
    EndedOnSeat,
    Given,
    Leave,
    Offered,
    joined,
    unjoined,
)

ray: Any = typed_ray  # its own types are partly unknown
logger = logging.getLogger("anabranch.runs")

NAMESPACE = "anabranch"
RETRIES = 2
"""How often Ray itself starts a call anew whose worker died, or makes a lost result again."""
WATCH_SECONDS = 1.0
GONE_SECONDS = 4.0
"""A head that nobody answers at for so long is gone; Ray would end this process after 60 s."""
SAY_SECONDS = 2.0
SAY_AGAIN_SECONDS = 30.0
FETCH_SLICE_SECONDS = 1.0

_LOST = (
    exceptions.WorkerCrashedError,
    exceptions.OutOfMemoryError,
    exceptions.NodeDiedError,
    exceptions.ObjectLostError,
    exceptions.LocalRayletDiedError,
)


class RayCluster:
    """See `cluster_runner.Cluster`; a handle is a reference to a call's value."""

    def __init__(self, connection: Connection, runner: ClusterRunner) -> None:
        label = uuid.uuid4().hex
        office = self._office = connection.post_office(_open_post_office)
        self.reply_to = (office.name, NAMESPACE, label)
        self._connection = connection
        self._runner = runner
        runner.counts_frames = True
        self._carry_out: dict[tuple[str, Asks], Any] = {}
        self._shared: dict[str, Any] = {}  # references to templates and constants, by token
        self._changing = threading.RLock()
        self._seats = Seats()
        self._seated: set[int] = set()
        self._bases: dict[int, str] = {}  # the workers of calls that Ray runs and that are seats
        self._sitters: dict[int, tuple[Any, Asks, str | None]] = {}
        self._numbers = itertools.count(1)
        self._problems: list[Problem] = []
        self._killed: set[int] = set()
        self._gone: BaseException | None = None
        self._closing = threading.Event()
        self._returns = Returns(self._returned)
        self._totals: dict[str, float] = dict(ray.cluster_resources())
        self._waiting: dict[str, tuple[str, Asks]] = {}  # by task: a call's name, what it asks
        self._do: Any = partial(office.actor.do.remote, label)
        if not connection.is_known:
            self._refuse_workers()
            connection.is_known = True
        for work in (self._hear, self._watch):
            threading.Thread(target=work, name="anabranch-ray", daemon=True).start()

    def _refuse_workers(self) -> None:
        """Raise `ClusterConnectionError` or `WorkerVersionError` where one cannot take calls."""
        self._refuse_versions(self._do("versions"), "the head")
        here = ray.get_runtime_context().get_node_id()
        probe = ray.remote(versions)
        probes: list[tuple[str, Any]] = []
        for node in ray.nodes():
            if node["Alive"] and node["NodeID"] != here:
                where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=True)
                reference = probe.options(num_cpus=0, scheduling_strategy=where).remote()
                probes.append((node["NodeManagerAddress"], reference))
        for address, reference in probes:
            self._refuse_versions(reference, address)

    def _refuse_versions(self, reference: Any, where: str) -> None:
        began, said = monotonic(), False
        while True:
            try:
                its = tuple(ray.get(reference, timeout=FETCH_SLICE_SECONDS))
                break
            except exceptions.GetTimeoutError:
                if not said and monotonic() - began > SAY_SECONDS:
                    said = True
                    logger.info("Ray gets a worker ready on %s ...", where)
            except exceptions.RayError as error:
                problem = f"no worker with anabranch could be had on {where} ({_brief(error)})"
                way_out = (
                    f"Install anabranch {versions()[1]} there: workers need nothing else of ours."
                )
                raise ClusterConnectionError(
                    "Ray", self._connection.address, problem, way_out
                ) from error
        if its != versions():
            raise WorkerVersionError(where, its, versions())

    # -- calls ------------------------------------------------------------------------------------

    def start(self, calls: Sequence[Sent]) -> Iterator[Any]:
        inner = False
        for sent in calls:
            call = sent.call
            self._share(sent.template)
            if sent.constants is not None:
                self._share(sent.constants)
            asks = asks_of(call.spec.resources)
            if call.spec.resources:
                self._waiting[call.spec.name] = call.name or call.spec.name, asks
            if call.scope.parent_task_run_id is not None:
                inner = True
                with self._changing:
                    self._seats.hold(sent)
                yield None
                continue
            constants = None if sent.constants is None else sent.constants.token
            data = joined((self.reply_to, sent.template.token, constants), sent.data)
            values = [each.handle for each in sent.values]
            frame, value = self._remote(call.spec.name, asks).remote(data, *values)
            yield value  # known to the runner by the time that this goes on, and its end can come
            self._returns.expect(frame, call.key, call.attempt)
        if inner:
            self._distribute()

    def _remote(self, name: str, asks: Asks) -> Any:
        known = self._carry_out.get((name, asks))
        if known is None:
            known = self._carry_out[name, asks] = ray.remote(ray_worker.carry_out).options(
                name=name,
                num_returns=2,
                max_retries=RETRIES,
                **options_of(asks),
            )
        return known

    def _share(self, thing: Template | Constants) -> None:
        """Have what many calls share ready for workers, once."""
        if thing.token not in self._shared:
            reference = self._shared[thing.token] = ray.put(thing)
            self._do("keep", thing.token, [reference])

    def _returned(self, key: int, attempt: int, returned: Any, error: BaseException | None) -> None:
        """A call that Ray ran is over, with a frame or an error."""
        with self._changing:
            worker = self._bases.pop(key, None)
        if error is None:
            self._runner.heard(*unjoined(returned))
        else:
            self._broke(key, attempt, error, worker)

    def _broke(self, key: int, attempt: int, error: BaseException, worker: str | None) -> None:
        lost = isinstance(error, _LOST)
        if isinstance(error, exceptions.RayTaskError):
            error = getattr(error, "cause", None) or error
            lost = isinstance(error, _LOST)
        self._problems.append(Problem(key, attempt, error, lost))
        if worker is not None:
            self._worker_died(worker, error)

    def _worker_died(self, worker: str, error: BaseException) -> None:
        with self._changing:
            for key in self._seats.on(worker):
                self._problems.append(Problem(key, 0, error, True))
            for place in [
                place for place, seat in self._seats.seats.items() if seat.worker == worker
            ]:
                self._seats.withdraw(place)
        self._runner.gone(worker)

    def cancel(self, flying: Sequence[Flying]) -> None:
        for each in flying:
            with self._changing:
                self._seats.drop(each.call.key)
            if each.handle is not None and self._gone is None:
                ray.cancel(each.handle, recursive=False)

    def interrupt(self, flying: Flying, last: bool) -> bool:
        """By the worker itself first, whose process is ended at last, unless it is others' too."""
        key = flying.call.key
        if (
            last
            and flying.handle is not None
            and key not in self._seated
            and key not in self._killed
        ):
            self._killed.add(key)
            ray.cancel(flying.handle, force=True, recursive=False)
        return False

    def fetch(self, handle: Any) -> Any:
        while self._gone is None:
            try:
                return ray.get(handle, timeout=FETCH_SLICE_SECONDS)
            except exceptions.GetTimeoutError:
                pass
        raise self._gone

    # -- seats ------------------------------------------------------------------------------------

    def waits(self, flying: Flying) -> None:
        call = flying.call
        with self._changing:
            if flying.waits and flying.worker is not None:
                has = asks_of(call.spec.resources)
                seat = Seat(flying.worker, has, run_id(call.scope.prefix, call.key))
                self._seats.offer(("call", call.key), seat)
                if call.key not in self._seated:
                    self._bases[call.key] = flying.worker
            else:
                self._seats.withdraw(("call", call.key))
        if flying.waits:
            self._distribute()

    def ended(self, flying: Flying) -> None:
        key = flying.call.key
        with self._changing:
            self._seats.withdraw(("call", key))
            self._seats.drop(key)
            sat = key in self._seated
            self._seated.discard(key)
            self._killed.discard(key)
        if sat:
            self._distribute()

    def is_gone(self, worker: str) -> None:
        """Ray has started a call anew, and says nothing of others that sat in its process."""
        self._worker_died(worker, exceptions.WorkerCrashedError())

    def _distribute(self) -> None:
        """Give calls that wait for a seat the seats there are, and ask for more."""
        if self._gone is not None:
            return
        with self._changing:
            for sent, seat in self._seats.matched():
                self._seated.add(sent.call.key)
                values = [each.handle for each in sent.values]
                constants = None if sent.constants is None else sent.constants.token
                given = Given(sent.call.key, sent.template.token, constants, sent.data, values)
                self._do("tell", seat.worker, given)
            for number in self._seats.empty_sitters():
                _, _, worker = self._sitters[number]
                self._do("tell", worker, Leave(number))
            for asks, group in self._seats.groups.items():
                asked = sum(
                    1 for _, has, worker in self._sitters.values() if has == asks and not worker
                )
                for _ in range(asked, min(len(group.held), self._places(asks))):
                    self._ask_sitter(asks)

    def _places(self, asks: Asks) -> int:
        """How many calls that ask so much the whole cluster could run at once; 1 at least."""
        shares = [int(self._totals.get(name, 0) // amount) for name, amount in asks if amount]
        return max(1, min(shares, default=1))

    def _ask_sitter(self, asks: Asks) -> None:
        number = next(self._numbers)
        # One that asks for more than its parent holds must not wait for what the parent holds.
        needs = asks if covers(asks_of({}), asks) else frozenset({**dict(asks), "CPU": 0}.items())
        reference = (
            ray.remote(ray_worker.sit)
            .options(name="anabranch seat", max_retries=RETRIES, **options_of(needs))
            .remote(self.reply_to, number)
        )
        self._sitters[number] = reference, asks, None
        reference.future().add_done_callback(partial(self._left, number))

    def _left(self, number: int, future: Any) -> None:
        """A sitter has left, or its worker died."""
        with self._changing:
            _, _, worker = self._sitters.pop(number, (None, None, None))
            self._seats.withdraw(("sitter", number))
        error = future.exception()
        if error is not None and worker is not None:
            self._worker_died(worker, error)
        if not self._closing.is_set():
            self._distribute()

    def _offered(self, offered: Offered) -> None:
        with self._changing:
            if offered.number in self._sitters:
                reference, asks, before = self._sitters[offered.number]
                if before is not None and before != offered.worker:
                    self.is_gone(before)
                self._sitters[offered.number] = reference, asks, offered.worker
                self._seats.offer(("sitter", offered.number), Seat(offered.worker, asks))
        self._distribute()

    # -- the channel ------------------------------------------------------------------------------

    def tell(self, worker: str, frame: bytes) -> None:
        if self._gone is None:
            self._do("tell", worker, frame)

    def _hear(self) -> None:
        own = ray.remote(ray_worker.itself).options(num_cpus=0, max_retries=RETRIES)
        while not self._closing.is_set():
            try:
                posts: list[Any] = ray.get(self._do("posts"))
            except BaseException as error:
                if not self._closing.is_set():
                    self._connection.office = None
                    self._lose(f"the actor that carries what tasks say is gone ({_brief(error)})")
                return
            for post in posts:
                if isinstance(post, Offered):
                    self._offered(post)
                elif isinstance(post, Broke):
                    self._problems.append(Problem(post.key, 0, post.error, True))
                elif isinstance(post, EndedOnSeat):
                    # A value that a worker has put belongs to that worker, and would die with it.
                    handle = None if post.boxed is None else own.remote(post.boxed[0])
                    self._runner.heard(post.worker, post.frame, post.key, handle)
                else:
                    self._runner.heard(post.worker, post.frame, post.key)

    # -- what Ray says ----------------------------------------------------------------------------

    def look(self, flying: Iterable[Flying]) -> list[Problem]:
        flying = list(flying)
        if self._gone is not None:
            return [Problem(each.call.key, each.call.attempt, self._gone, False) for each in flying]
        if self._waiting:
            wait = {each.call.spec.name for each in flying if each.began is None}
            self._waiting = {name: told for name, told in self._waiting.items() if name in wait}
        problems, self._problems = self._problems, []
        attempts = {each.call.key: each.call.attempt for each in flying}
        return [
            each._replace(attempt=each.attempt or attempts.get(each.key, 0)) for each in problems
        ]

    def _watch(self) -> None:
        """See whether the head and this machine's part of Ray are there, and what they have."""
        missed: float | None = None
        said: dict[str, float] = {}
        while not self._closing.wait(WATCH_SECONDS):
            try:
                for where in self._connection.places:
                    reach(where, WATCH_SECONDS)
                missed = None
            except OSError as error:
                missed = missed or monotonic()
                if monotonic() - missed >= GONE_SECONDS:
                    self._lose(f"its head is gone ({_brief(error)})")
                    return
                continue
            if self._waiting:
                self._say_what_is_missing(said)

    def _say_what_is_missing(self, said: dict[str, float]) -> None:
        self._totals = dict(ray.cluster_resources())
        has = ", ".join(
            f"{name} {amount:g}" for name, amount in sorted(self._totals.items()) if ":" not in name
        )
        for name, (call, asks) in list(self._waiting.items()):
            short = {name: amount for name, amount in asks if self._totals.get(name, 0) < amount}
            now = monotonic()
            if short and now >= said.setdefault(name, now + SAY_SECONDS):
                said[name] = now + SAY_AGAIN_SECONDS
                logger.warning(
                    "%s waits for resources %s, which Ray does not have; in all it has: %s",
                    call,
                    short,
                    has,
                )

    def _lose(self, problem: str) -> None:
        way_out = "What completed is recorded: once it is back, resume the run."
        self._gone = ClusterConnectionError("Ray", self._connection.address, problem, way_out)

    def close(self) -> None:
        self._closing.set()
        self._returns.close()
        if self._gone is not None:
            return
        with self._changing:
            for reference, _, _ in self._sitters.values():
                ray.cancel(reference, recursive=False)
        self._office.actor.close.remote(self.reply_to[2])
        self._shared.clear()


def _open_post_office() -> PostOffice:
    name = f"anabranch-{uuid.uuid4().hex[:12]}"
    actor: Any = ray.remote(ray_worker.PostOffice).options(
        name=name, namespace=NAMESPACE, num_cpus=0, max_concurrency=10_000
    )
    return PostOffice(name, actor.remote())


def _brief(error: BaseException) -> str:
    """What an error of Ray's says in the end, without the advice around it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
