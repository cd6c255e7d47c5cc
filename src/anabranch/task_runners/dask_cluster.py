"""A Dask cluster at work for one flow: the client, what it is asked, and what it says of calls."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

from dask.task_spec import TaskRef
from distributed import KilledWorker

from anabranch.errors import ClusterConnectionError
from anabranch.execution import claims, cluster_worker
from anabranch.execution.cluster_calls import Constants, Sent, Template
from anabranch.task_runners.cluster_port import Flying, Group, Problem, members_by_group
from anabranch.task_runners.cluster_runner import ClusterRunner, Heard
from anabranch.task_runners.dask_worker import carry_out, carry_out_group
from anabranch.task_runners.reminders import Reminders

if TYPE_CHECKING:
    pass

logger = logging.getLogger("anabranch.runs")

LOOK_SECONDS = 0.5
"""How often the states of all calls that are out are looked at."""
HEARD_SECONDS = 10.0
"""A call that Dask has finished and that was not heard of for so long is lost."""
LEAVE_SECONDS = 5.0
"""Workers are told for so long that the flow is over, where nobody answers."""


class DaskCluster:
    """See `cluster_port.Cluster`; a handle is a Dask future."""

    counts_frames = False  # Dask's events keep their order

    def __init__(self, client: Any, runner: ClusterRunner) -> None:
        self.client = client
        self.reply_to = client.id
        self._runner = runner
        self._label = f"anabranch-{uuid.uuid4().hex[:12]}"  # unique to the flow, for keys
        self._shared: dict[str, Any] = {}  # templates and constants, by token
        self._sharing = Lock()
        self._notices: dict[str, list[bytes]] = {}  # by worker, while one tells it
        self._slots: int | None = None  # not asked for yet
        self._looked = 0.0
        # What Dask has finished, unheard of: key, attempt and group, since when.
        self._finished: dict[tuple[int, int, int], float] = {}
        self._reminders = Reminders()
        self._surveying = False
        self._let_go = False
        self._address: str = client.scheduler.address
        cluster_worker.flows_here.add(self.reply_to)  # threads of this process may be its workers
        client.subscribe_topic(client.id, self._event)
        client.subscribe_topic("all", self._cluster_event)

    # -- calls ------------------------------------------------------------------------------------

    def slots(self) -> int | None:
        if self._slots is None:
            self._slots = self._asked_for_slots()
        return self._slots or None

    def _asked_for_slots(self) -> int:
        """Of all workers; 0 where calls cannot be grouped, for which the scheduler has to know this
        package."""
        try:
            self.client.run_on_scheduler(claims.open_claims, self.reply_to)
        except (ImportError, AttributeError) as error:
            logger.debug("Calls go one by one, the scheduler cannot keep claims: %s", error)
            return 0
        return max(1, self.client.scheduler_info(n_workers=0)["total_threads"])

    def start(self, groups: Sequence[tuple[Group, Sequence[Sent]]]) -> Iterator[Any]:
        for _, alike in groupby(groups, _shape):
            yield from self._start_alike(list(alike))

    def _start_alike(self, groups: Sequence[tuple[Group, Sequence[Sent]]]) -> list[Any]:
        """One `map` of Dask's: the scheduler makes the tasks, in the order in which they stand."""
        first, count = groups[0][1][0], len(groups)
        spec, constants = first.call.spec, first.constants
        columns: list[Sequence[Any]] = [[TaskRef(self._share(first.template))] * count]
        if groups[0][0].size > 1:
            columns.append([group.number for group, _ in groups])
            columns.append([[sent.data for sent in calls] for _, calls in groups])
        else:
            columns.append([sent.data for _, (sent,) in groups])
        if constants is not None or first.values:
            columns.append([None if constants is None else TaskRef(self._share(constants))] * count)
            heads = [calls[0] for _, calls in groups]  # only who goes alone has such values
            handles: list[list[Any]] = [[each.handle for each in sent.values] for sent in heads]
            columns += zip(*([TaskRef(each.key) for each in row] for row in handles), strict=True)
        name = f"{spec.name}-{self._label}"
        futures: list[Any] = self.client.map(
            carry_out_group if groups[0][0].size > 1 else carry_out,
            *columns,
            key=[(name, group.number) for group, _ in groups],
            pure=False,
            resources=dict(spec.resources) or None,
            priority=spec.priority,
        )
        return futures

    def _share(self, thing: Template | Constants) -> str:
        """The Dask key of what many calls share, sent once."""
        with self._sharing:
            future: Any = self._shared.get(thing.token)
            if future is None:
                future = self.client.submit(
                    _itself, thing, key=f"anabranch-shared-{thing.token}", pure=False
                )
                self._shared[thing.token] = future
        return future.key

    def cancel(self, flying: Sequence[Flying]) -> None:
        out = [each for each in flying if each.handle is not None]
        if out:
            self.client.loop.add_callback(self._cancel, out)

    async def _cancel(self, flying: Sequence[Flying]) -> None:
        try:
            await self._cancel_alone([each for each in flying if not each.is_grouped])
            await self._strike([each for each in flying if each.is_grouped])
        except Exception as error:  # the connection is gone, and they with it
            logger.debug("Dask could not be asked to cancel: %s", error)

    async def _cancel_alone(self, flying: Sequence[Flying]) -> None:
        """Dask forgets a cancelled call that has begun, and takes its thread for idle: workers say
        first what they have begun."""
        if flying:
            begun = await self._stop(flying)
            idle = [each.handle for each in flying if each.call.key not in begun]
            await self.client.cancel(idle, asynchronous=True)

    async def _stop(self, flying: Sequence[Flying], *workers: str) -> set[int]:
        """Have these workers, or all, stop calls; the keys of those that have begun."""
        calls = [(each.call.key, each.call.attempt) for each in flying]
        told: dict[str, list[int]] = await self.client.run(
            _stop, self.reply_to, calls, workers=list(workers) or None, on_error="ignore"
        )
        return {key for keys in told.values() for key in keys}

    async def _strike(self, flying: Sequence[Flying]) -> None:
        """A group that no worker has claimed begins without them, or not at all; who has claimed it
        is told."""
        members = members_by_group(flying)
        if not members:
            return
        keys = {number: [each.call.key for each in some] for number, some in members.items()}
        answers = await self.client.run_on_scheduler(claims.strike, self.reply_to, keys)
        begun: dict[str, list[Flying]] = {}
        idle: list[Any] = []
        for number, (worker, struck) in answers.items():
            some = members[number]
            if worker is not None:
                begun.setdefault(worker, []).extend(some)
            elif some[0].group is not None and struck == some[0].group.size:
                idle.append(some[0].handle)
        await self.client.cancel(idle, asynchronous=True)
        for worker, some in begun.items():
            await self._stop(some, worker)

    def kill(self, flying: Flying) -> None:
        """Dask has no way."""

    def fetch(self, handle: Any) -> Any:
        return handle.result()

    def waits(self, flying: Flying) -> None:
        """The worker has lent its thread to Dask."""

    def ended(self, flying: Flying) -> None:
        """Dask knows."""

    def is_gone(self, worker: str) -> None:
        """Dask says so itself."""

    # -- the channel ------------------------------------------------------------------------------

    def _event(self, event: tuple[float, Any]) -> None:
        message = _told(event)
        if "anabranch" in message:
            worker = message["worker"]
            self._runner.heard(*[Heard(worker, frame) for frame in message["anabranch"]])

    def _cluster_event(self, event: tuple[float, Any]) -> None:
        message = _told(event)
        if message.get("action") == "remove-worker":
            self._runner.gone(message["worker"])

    def tell(self, worker: str, frame: bytes) -> None:
        with self._sharing:
            waiting = self._notices.get(worker)
            if waiting is not None:
                waiting.append(frame)
                return
            self._notices[worker] = [frame]
        self.client.loop.add_callback(self._keep_telling, worker)

    async def _keep_telling(self, worker: str) -> None:
        while True:
            with self._sharing:
                frames = self._notices[worker]
                if not frames:
                    del self._notices[worker]
                    return
                self._notices[worker] = []
            try:
                await self.client.run(
                    _tell, self.reply_to, frames, workers=[worker], on_error="ignore"
                )
            except Exception as error:  # it is gone, and what waits there with it
                logger.debug("Worker %s could not be told: %s", worker, error)

    # -- what Dask says ---------------------------------------------------------------------------

    def look(self, flying: Iterable[Flying]) -> list[Problem]:
        now = monotonic()
        if now - self._looked < LOOK_SECONDS:
            return []
        self._looked = now
        flying = list(flying)
        if self.client.status != "running":
            gone = self._gone()
            if not self._let_go:
                self._let_go = True
                self.client.loop.add_callback(self.client.close)  # it would try again for 10 s
            return [
                Problem(each.call.key, each.call.attempt, gone, False, each.group)
                for each in flying
            ]
        problems: list[Problem] = []
        finished: dict[tuple[int, int, int], float] = {}
        for each in flying:
            if each.handle is None:
                continue
            status, call = each.handle.status, each.call
            if status in ("pending", "lost"):  # the value of one that is lost is made again
                continue
            if status == "finished":
                place = call.key, call.attempt, 0 if each.group is None else each.group.number
                finished[place] = self._finished.get(place, now)
                if now - finished[place] > HEARD_SECONDS:
                    error: BaseException = ConnectionError("its end was not heard of")
                    problems.append(Problem(call.key, call.attempt, error, True, each.group))
                continue
            if each.doomed_at is not None and status == "cancelled":
                continue
            error = each.handle.exception() if status == "error" else self._gone()
            lost = isinstance(error, KilledWorker)
            problems.append(Problem(call.key, call.attempt, error, lost, each.group))
        self._finished = finished
        if flying and not self._surveying:
            self._surveying = True
            self.client.loop.add_callback(self._survey, flying)
        return problems

    def _gone(self) -> BaseException:
        problem = "its scheduler is gone, or has dropped this run's tasks"
        way_out = "What completed is recorded: once it is back, resume the run."
        return ClusterConnectionError("Dask", self._address, problem, way_out)

    async def _survey(self, flying: list[Flying]) -> None:
        """Say why calls wait, once the scheduler has told what workers there are; one that is gone
        tells nothing for a long time."""
        try:
            info = await self.client.scheduler.identity(n_workers=-1)
            self._slots = self._slots and max(1, info["total_threads"])
            self._say_why_they_wait(flying, info["workers"])
        except Exception as error:
            logger.debug("Dask could not be asked for its workers: %s", error)
        finally:
            self._surveying = False

    def _say_why_they_wait(self, flying: list[Flying], workers: dict[str, Any]) -> None:
        """There are no workers, or none with what they ask for."""
        if not workers:
            told = f"{len(flying)} calls wait: the Dask cluster has no workers yet"
            self._reminders.say("no workers", told)
            return
        self._reminders.settle("no workers")
        waiting = {
            each.call.spec.name: each
            for each in reversed(flying)
            if each.call.spec.resources and each.began is None
        }
        for name, first in waiting.items():
            asks = first.call.spec.resources
            if not any(_has(worker["resources"], asks) for worker in workers.values()):
                has = sorted({str(worker["resources"] or "none") for worker in workers.values()})
                told = (
                    f"{first.call.run_name} waits for resources {dict(asks)}, which no worker has"
                )
                self._reminders.say(
                    name, f"{told}; the {len(workers)} workers have: {', '.join(has)}"
                )

    def close(self) -> None:
        cluster_worker.flows_here.discard(self.reply_to)
        for topic in (self.client.id, "all"):
            try:
                self.client.unsubscribe_topic(topic)
            except Exception:  # the connection is gone
                pass
        self._shared.clear()
        try:
            self.client.sync(self._take_leave)
        except Exception as error:
            logger.debug("Workers could not be told that the flow is over: %s", error)

    async def _take_leave(self) -> None:
        if self.client.status == "running":
            telling = self.client.run(_forget, self.reply_to, on_error="ignore")
            await asyncio.wait_for(telling, LEAVE_SECONDS)
            if self._slots:
                await self.client.run_on_scheduler(claims.close_claims, self.reply_to)


def _shape(group: tuple[Group, Sequence[Sent]]) -> tuple[str, str | None, int, bool]:
    """What groups must have in common to be started together."""
    sent = group[1][0]
    constants = None if sent.constants is None else sent.constants.token
    return sent.template.token, constants, len(sent.values), group[0].size > 1


def _told(event: tuple[float, Any]) -> dict[str, Any]:
    """What an event says; its topics are Dask's, which has others on them too."""
    message: Any = event[1]
    if not isinstance(message, dict):
        message = {}
    return cast("dict[str, Any]", message)


def _has(resources: dict[str, float], asks: Any) -> bool:
    return all(resources.get(name, 0) >= amount for name, amount in asks.items())


def _itself(thing: Any) -> Any:
    return thing


def _tell(reply_to: str, frames: list[bytes]) -> None:
    for frame in frames:
        cluster_worker.tell(reply_to, frame)


def _stop(reply_to: str, calls: list[tuple[int, int]]) -> list[int]:
    return cluster_worker.stop(reply_to, calls)


def _forget(reply_to: str) -> None:
    cluster_worker.forget(reply_to)
