"""A Ray cluster at work for one flow: what it is asked, and what it says of calls."""

from __future__ import annotations

import itertools
import pickle
import threading
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import ray as typed_ray
from ray import exceptions

from anabranch.execution import messages
from anabranch.execution.cluster_calls import Constants, Sent, Template
from anabranch.execution.messages import framed, joined, parted
from anabranch.execution.pickling import PROTOCOL
from anabranch.runs import run_id
from anabranch.task_runners import ray_worker
from anabranch.task_runners.cluster_port import Flying, Group, Problem, members_by_group
from anabranch.task_runners.cluster_runner import ClusterRunner, Heard
from anabranch.task_runners.ray_connection import Connection, Office, brief
from anabranch.task_runners.ray_mailbox import Broke, EndedOnSeat, Given, Leave, Offered, PostOffice
from anabranch.task_runners.ray_returns import Returned, Returns
from anabranch.task_runners.ray_seats import Asks, Seat, Seats, asks_of, covers, options_of
from anabranch.task_runners.ray_versions import refuse_versions
from anabranch.task_runners.ray_watch import Watch

ray: Any = typed_ray  # its own types are partly unknown
_carry_out = ray.remote(ray_worker.carry_out)  # one for all flows: Ray has workers for each

NAMESPACE = "anabranch"
RETRIES = 2
"""How often Ray itself starts a call anew whose worker died, or makes a lost result again."""
FETCH_SLICE_SECONDS = 1.0
LEAVE_SECONDS = 2.0
"""The last answer of the actor is waited for so long."""

_LOST = (
    exceptions.WorkerCrashedError,
    exceptions.OutOfMemoryError,
    exceptions.NodeDiedError,
    exceptions.ObjectLostError,
    exceptions.LocalRayletDiedError,
)


class RayCluster:
    """See `cluster_port.Cluster`; a handle is a reference to a call's value."""

    counts_frames = True  # a task's return and what it told before come by different ways

    def __init__(self, connection: Connection, runner: ClusterRunner) -> None:
        label = uuid.uuid4().hex
        office = self._office = connection.office_made_by(_open_office)
        self.reply_to = (office.name, NAMESPACE, label)
        self._connection = connection
        self._runner = runner
        self._carry_out: dict[tuple[str, Asks], Any] = {}
        self._own: Any = ray.remote(ray_worker.itself).options(num_cpus=0, max_retries=RETRIES)
        self._shared: dict[str, Any] = {}  # references to templates and constants, by token
        self._changing = threading.RLock()
        self._seats = Seats()
        # The groups and workers of calls that Ray runs and that are seats.
        self._bases: dict[int, tuple[Group | None, str]] = {}
        self._sitters: dict[int, tuple[Any, Asks, str | None]] = {}
        self._numbers = itertools.count(1)
        self._problems: deque[Problem] = deque()
        self._closing = threading.Event()
        self._do: Any = partial(office.actor.do.remote, label)
        refuse_versions(connection, self._do("versions"))
        self._watch = Watch(connection)
        self._returns = Returns(self._returned)
        self._hearing = threading.Thread(target=self._hear, name="anabranch-ray", daemon=True)
        self._hearing.start()

    # -- calls ------------------------------------------------------------------------------------

    def slots(self) -> int | None:
        return max(1, int(self._watch.totals.get("CPU", 1)))

    def start(self, groups: Sequence[tuple[Group, Sequence[Sent]]]) -> Iterator[Any]:
        inner = False
        for group, calls in groups:
            first = calls[0]
            call = first.call
            self._share(first.template)
            if first.constants is not None:
                self._share(first.constants)
            asks = asks_of(call.spec.resources)
            if call.spec.resources:
                self._watch.waits(call.spec.name, call.run_name, asks)
            if call.scope.parent_key is not None:  # such go alone
                inner = True
                with self._changing:
                    self._seats.hold(first)
                yield None
                continue
            constants = None if first.constants is None else first.constants.token
            token, name = first.template.token, call.spec.name
            number, rest = None, first.data
            if group.size > 1:
                number = group.number
                rest = pickle.dumps([sent.data for sent in calls], PROTOCOL)
            head = pickle.dumps((self.reply_to, token, constants, number), PROTOCOL)
            values = [each.handle for each in first.values]
            told, value = self._remote(name, asks).remote(joined(head, rest), *values)
            yield value  # known to the runner by the time that this goes on, and its end can come
            places = [(sent.call.key, sent.call.attempt) for sent in calls]
            self._returns.expect(told, (group, places))
        if inner:
            self._distribute()

    def _remote(self, name: str, asks: Asks) -> Any:
        known = self._carry_out.get((name, asks))
        if known is None:
            options = options_of(asks)
            known = self._carry_out[name, asks] = _carry_out.options(
                name=name, num_returns=2, max_retries=RETRIES, **options
            )
        return known

    def _share(self, thing: Template | Constants) -> None:
        """Have what many calls share ready for workers, once."""
        if thing.token not in self._shared:
            reference = self._shared[thing.token] = ray.put(thing)
            self._do("keep", thing.token, [reference])

    def _returned(self, calls: Sequence[Returned]) -> None:
        """Calls that Ray ran are over, each with a frame or an error; a group without either has told
        all by the mailbox."""
        ends: list[Heard] = []
        for (group, places), returned, error in calls:
            bases = [self._base_in(group, key) for key, _ in places]
            if error is not None:
                self._broke(group, places, error, bases)
            elif returned is not None:
                worker, frame = parted(returned)
                ends.append(Heard(worker.decode(), frame))
        if ends:
            self._runner.heard(*ends)

    def _base_in(self, group: Group, key: int) -> str | None:
        """Take out the worker on which a call is a seat; None where it is none, or goes in another
        group by now."""
        its_group, worker = self._bases.get(key, (None, None))
        if its_group is not group:
            return None
        del self._bases[key]
        return worker

    def _broke(
        self,
        group: Group,
        places: Sequence[tuple[int, int]],
        error: BaseException,
        workers: Sequence[str | None],
    ) -> None:
        lost = isinstance(error, _LOST)
        if isinstance(error, exceptions.RayTaskError):
            error = getattr(error, "cause", None) or error
            lost = isinstance(error, _LOST)
        self._problems += [Problem(*place, error, lost, group) for place in places]
        for worker in {worker for worker in workers if worker is not None}:
            self._worker_died(worker, error)

    def _worker_died(self, worker: str, error: BaseException) -> None:
        with self._changing:
            for call in self._seats.on(worker):
                self._problems.append(Problem(call.key, call.attempt, error, True))
            for place in [
                place for place, seat in self._seats.seats.items() if seat.worker == worker
            ]:
                self._seats.withdraw(place)
        self._runner.gone(worker)

    def cancel(self, flying: Sequence[Flying]) -> None:
        for each in flying:
            call = each.call
            if each.is_grouped:
                continue
            with self._changing:
                worker = self._seats.worker_of(call.key)
                if worker is None:
                    self._seats.drop(call.key)
            if worker is not None:  # it may have begun
                self.tell(worker, framed([(messages.INTERRUPT, call.key, call.attempt)]))
            elif each.handle is not None and self._watch.gone is None:
                ray.cancel(each.handle, recursive=False)
        members = members_by_group(flying)
        if members and self._watch.gone is None:
            keys = {number: [each.call.key for each in some] for number, some in members.items()}
            asked = self._do("strike", keys)
            asked.future().add_done_callback(partial(self._struck, members))

    def _struck(self, members: dict[int, list[Flying]], asked: Any) -> None:
        """A group that no worker has claimed begins without the struck calls, or not at all; who has
        claimed it is told."""
        if asked.exception() is not None or self._watch.gone is not None:
            return  # the actor is gone, and they with it
        for number, (worker, struck) in asked.result().items():
            some = members[number]
            group, handle = some[0].group, some[0].handle
            if worker is not None:
                calls = [(each.call.key, each.call.attempt) for each in some]
                self.tell(worker, framed([(messages.INTERRUPT, *place) for place in calls]))
            elif handle is not None and group is not None and struck == group.size:
                ray.cancel(handle, recursive=False)

    def kill(self, flying: Flying) -> None:
        """End its process, unless that is others' too."""
        if flying.handle is not None and self._seats.worker_of(flying.call.key) is None:
            ray.cancel(flying.handle, force=True, recursive=False)

    def fetch(self, handle: Any) -> Any:
        while self._watch.gone is None:
            try:
                return ray.get(handle, timeout=FETCH_SLICE_SECONDS)
            except exceptions.GetTimeoutError:
                pass
        raise self._watch.gone

    # -- seats ------------------------------------------------------------------------------------

    def waits(self, flying: Flying) -> None:
        call = flying.call
        with self._changing:
            if flying.waits and flying.worker is not None:
                has = asks_of(call.spec.resources)
                seat = Seat(flying.worker, has, run_id(call.scope.prefix, call.key))
                self._seats.offer(("call", call.key), seat)
                if self._seats.worker_of(call.key) is None:
                    self._bases[call.key] = flying.group, flying.worker
            else:
                self._seats.withdraw(("call", call.key))
        if flying.waits:
            self._distribute()

    def ended(self, flying: Flying) -> None:
        key = flying.call.key
        if self._seats.unused:
            return
        with self._changing:
            sat = self._seats.worker_of(key) is not None
            self._seats.withdraw(("call", key))
            self._seats.drop(key)
        if sat:
            self._distribute()

    def is_gone(self, worker: str) -> None:
        """Ray has started a call anew, and says nothing of others that sat in its process."""
        self._worker_died(worker, exceptions.WorkerCrashedError())

    def _distribute(self) -> None:
        """Give calls that wait for a seat the seats there are, and ask for more."""
        if self._watch.gone is not None:
            return
        with self._changing:
            for sent, seat in self._seats.matched():
                call = sent.call
                values = [each.handle for each in sent.values]
                constants = None if sent.constants is None else sent.constants.token
                token = sent.template.token
                given = Given(call.key, call.attempt, token, constants, sent.data, values)
                self._do("tell", seat.worker, given)
            for number in self._seats.empty_sitters():
                _, _, worker = self._sitters[number]
                self._do("tell", worker, Leave(number))
            for asks, queue in self._seats.queues.items():
                asked = sum(
                    1 for _, has, worker in self._sitters.values() if has == asks and not worker
                )
                for _ in range(asked, min(len(queue.held), self._places(asks))):
                    self._ask_sitter(asks)

    def _places(self, asks: Asks) -> int:
        """How many calls that ask so much the whole cluster could run at once; 1 at least."""
        shares = [int(self._watch.totals.get(name, 0) // amount) for name, amount in asks if amount]
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
        if self._watch.gone is None:
            self._do("tell", worker, frame)

    def _hear(self) -> None:
        try:
            while not self._closing.is_set():
                for post in ray.get(self._do("posts")):
                    self._take(post)
        except (Exception, SystemExit) as error:  # the last in a process that Ray disconnects
            if not self._closing.is_set():
                self._connection.office = None
                self._watch.lose(f"the actor that carries what tasks say is gone ({brief(error)})")

    def _take(self, post: Any) -> None:
        if isinstance(post, Offered):
            self._offered(post)
        elif isinstance(post, Broke):
            self._problems.append(Problem(post.key, post.attempt, post.error, True))
        elif isinstance(post, EndedOnSeat):
            # A value that a worker has put belongs to that worker, and would die with it.
            handle = None if post.boxed is None else self._own.remote(post.boxed[0])
            self._runner.heard(Heard(post.worker, post.frame, post.key, handle))
        else:
            self._runner.heard(Heard(post.worker, post.frame, post.key))

    # -- what Ray says ----------------------------------------------------------------------------

    def look(self, flying: Iterable[Flying]) -> list[Problem]:
        flying = list(flying)
        gone = self._watch.gone
        if gone is not None:
            return [
                Problem(each.call.key, each.call.attempt, gone, False, each.group)
                for each in flying
            ]
        self._watch.wait_only({each.call.spec.name for each in flying if each.began is None})
        return [self._problems.popleft() for _ in range(len(self._problems))]

    def close(self) -> None:
        self._closing.set()
        self._returns.close()
        self._watch.close()
        if self._watch.gone is not None:
            return
        # Sitters hear of it and leave, also those that only come now. Ray ends this process where one
        # that it has just sent to a worker is cancelled: "Tried to complete task that was not pending".
        self._office.actor.close.remote(self.reply_to[2])
        self._hearing.join(LEAVE_SECONDS)
        self._shared.clear()


def _open_office() -> Office:
    name = f"anabranch-{uuid.uuid4().hex[:12]}"
    actor: Any = ray.remote(PostOffice).options(
        name=name, namespace=NAMESPACE, num_cpus=0, max_concurrency=10_000
    )
    return Office(name, actor.remote())
