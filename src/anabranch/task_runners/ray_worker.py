"""What runs on Ray's workers: calls, the mailbox between them and the flow, and seats.

A worker whose call waits for others is a seat: it takes another call meanwhile, on a thread. So what
tasks submit runs whatever else the cluster is busy with, and no process is started for it.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import threading
from collections import defaultdict
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any, NamedTuple

import ray as typed_ray

from anabranch.execution import cluster_worker
from anabranch.execution.cluster_calls import Constants, Template, split, versions
from anabranch.execution.cluster_worker import ClusterWorker, Ended
from anabranch.waiting import Waiter

ReplyTo = tuple[str, str, str]
"""Name and namespace of the actor, and the label of the mailbox."""

ray: Any = typed_ray  # its own types are partly unknown


class Said(NamedTuple):
    """From a worker: a frame, counted for a call."""

    worker: str
    key: int
    frame: bytes


class EndedOnSeat(NamedTuple):
    """From a worker: the frame that tells a call's end, and a list with its value's reference if that
    is to stay."""

    worker: str
    key: int
    frame: bytes
    boxed: list[Any] | None


class Broke(NamedTuple):
    """From a worker: a call that it was given could not be run."""

    key: int
    error: BaseException


class Offered(NamedTuple):
    """From a worker: a sitter is there."""

    worker: str
    number: int


class Given(NamedTuple):
    """A call for a seat; `values` are references in a list, so that they travel as such."""

    key: int
    token: str
    constants: str | None
    data: bytes
    values: list[Any]


class Leave(NamedTuple):
    """A seat that nobody needs any more."""

    number: int


class Over(NamedTuple):
    """To a worker: the flow is over."""


class PostOffice:
    """The actor through which flows and their calls talk while these run: a mailbox for each runner
    that is open. It takes a second to start, so flows of one process share it."""

    def __init__(self) -> None:
        self._mailboxes: dict[str, Mailbox | None] = {}

    async def do(self, label: str, what: str, *given: Any) -> Any:
        """Call this method of the mailbox with this label."""
        if label not in self._mailboxes:
            self._mailboxes[label] = Mailbox()
        mailbox = self._mailboxes[label]
        if mailbox is None:  # the flow is over, and nobody looks at what this gives but who listens
            return [Over()] if what == "told" else []
        return await getattr(mailbox, what)(*given)

    async def close(self, label: str) -> None:
        """Have who listens at this mailbox know that its flow is over."""
        mailbox, self._mailboxes[label] = self._mailboxes.get(label), None
        if mailbox is not None:
            mailbox.close()


class Mailbox:
    """Between one open runner and its calls."""

    def __init__(self) -> None:
        self._posts: list[Any] = []
        self._posted = asyncio.Event()
        self._boxes: defaultdict[str, asyncio.Queue[Any]] = defaultdict(asyncio.Queue)
        self._things: defaultdict[str, asyncio.Future[Any]] = defaultdict(_unknown)

    async def versions(self) -> Any:
        """Those of the process that it runs in."""
        return versions()

    async def keep(self, token: str, boxed: list[Any]) -> None:
        """Hold what many calls share: a reference in a list."""
        self._things[token].set_result(boxed)

    async def thing(self, token: str) -> list[Any]:
        """What many calls share, once it is there."""
        return await self._things[token]

    async def post(self, post: Any) -> None:
        """Take what a worker tells the flow, one of the above."""
        self._posts.append(post)
        self._posted.set()

    async def posts(self) -> list[Any]:
        """What workers have told, once there is any."""
        await self._posted.wait()
        self._posted.clear()
        posts, self._posts = self._posts, []
        return posts

    def close(self) -> None:
        """The flow is over."""
        self._posted.set()
        for box in self._boxes.values():
            box.put_nowait(Over())

    async def tell(self, worker: str, words: Any) -> None:
        """Take what the flow tells a worker."""
        self._boxes[worker].put_nowait(words)

    async def told(self, worker: str) -> list[Any]:
        """What the flow has told this worker, once there is any."""
        box = self._boxes[worker]
        words = [await box.get()]
        while not box.empty():
            words.append(box.get_nowait())
        return words


def _unknown() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()


class RayUplink:
    """One worker process's end of a mailbox."""

    def __init__(self, reply_to: ReplyTo) -> None:
        name, namespace, label = reply_to
        self._do: Any = partial(ray.get_actor(name, namespace).do.remote, label)
        self.worker = f"pid {os.getpid()} on {ray.util.get_node_ip_address()}"
        self.leaving: dict[int, threading.Event] = {}
        self._reply_to = reply_to
        self._things: dict[str, Any] = {}
        self._seated = 0
        self._changing = threading.Condition()
        threading.Thread(target=self._read, name="anabranch-mailbox", daemon=True).start()

    # -- see `cluster_worker.Uplink` ----------------------------------------------------------------

    def send(self, key: int, frame: bytes) -> None:
        self._do("post", Said(self.worker, key, frame))

    @contextmanager
    def lend(self) -> Generator[None]:
        """A call that waits says so, and is given others; see `ray_seats.Seats`."""
        yield

    def wait(self, waiter: Waiter, timeout: float | None) -> bool:
        return waiter.wait(timeout)

    def abandon(self, thread: int) -> None:
        """Ray ends the process."""

    # -- calls ------------------------------------------------------------------------------------

    def carry_out(
        self, token: str, constants: str | None, data: bytes, values: Sequence[Any]
    ) -> Ended:
        template: Template = self._thing(token)
        here: ClusterWorker = cluster_worker.worker_for(template, self.worker, lambda: self)
        shared: Constants | None = None if constants is None else self._thing(constants)
        return here.carry_out(template, data, shared, values)

    def _thing(self, token: str) -> Any:
        thing = self._things.get(token)
        if thing is None:
            (reference,) = ray.get(self._do("thing", token))
            thing = self._things[token] = ray.get(reference)
            if len(self._things) > cluster_worker.KEPT:
                del self._things[next(iter(self._things))]
        return thing

    def end(self, key: int, ended: Ended) -> None:
        """Tell the end of a call by the mailbox; its value is this process's until the flow has it."""
        boxed = None if ended.value is None else [ray.put(ended.value)]
        self._do("post", EndedOnSeat(self.worker, key, ended.frame, boxed))

    # -- seats ------------------------------------------------------------------------------------

    def empty_seats(self) -> bool:
        """Whether no call runs here on a seat."""
        return not self._seated

    def wait_for_seats(self) -> None:
        """Ray may end a process that it takes for idle: stay until the calls on seats have ended."""
        with self._changing:
            self._changing.wait_for(self.empty_seats)

    def _take(self, given: Given) -> None:
        with self._changing:
            self._seated += 1
        threading.Thread(
            target=self._carry_out, args=(given,), name="anabranch-seat", daemon=True
        ).start()

    def _carry_out(self, given: Given) -> None:
        try:
            values: list[Any] = ray.get(given.values) if given.values else []
            self.end(given.key, self.carry_out(given.token, given.constants, given.data, values))
        except BaseException as error:
            self._do("post", Broke(given.key, error))
        finally:
            with self._changing:
                self._seated -= 1
                self._changing.notify_all()

    def _read(self) -> None:
        try:
            while True:
                for words in ray.get(self._do("told", self.worker)):
                    if isinstance(words, Given):
                        self._take(words)
                    elif isinstance(words, Leave):
                        self._leaving(words.number).set()
                    elif isinstance(words, Over):
                        return
                    else:
                        cluster_worker.tell(self._reply_to, words)
        except BaseException:  # the actor is gone, and the flow with it
            return
        finally:
            for event in list(self.leaving.values()):
                event.set()
            _uplinks.pop(self._reply_to, None)
            cluster_worker.forget(self._reply_to)

    def _leaving(self, number: int) -> threading.Event:
        with self._changing:
            return self.leaving.setdefault(number, threading.Event())

    def sit(self, number: int) -> None:
        """Be a seat until told to leave."""
        leaving = self._leaving(number)
        self._do("post", Offered(self.worker, number))
        leaving.wait()
        self.wait_for_seats()
        del self.leaving[number]


_uplinks: dict[ReplyTo, RayUplink] = {}
_changing = threading.Lock()
_leaving = threading.Event()
"""This process was told to end."""


def _uplink(reply_to: ReplyTo) -> RayUplink:
    uplink = _uplinks.get(reply_to)
    if uplink is None:
        signal.signal(signal.SIGTERM, _leave)
        with _changing:
            uplink = _uplinks.get(reply_to)
            if uplink is None:
                uplink = _uplinks[reply_to] = RayUplink(reply_to)
    return uplink


def _leave(number: int, frame: FrameType | None) -> None:
    _leaving.set()
    raise SystemExit(1)


def carry_out(data: bytes, *values: Any) -> tuple[bytes, Any]:
    """A task of Ray's: the worker's name before the frame that tells the call's end, and the value if
    that stays. All is bytes, which Ray takes as they are."""
    (reply_to, token, constants), rest = unjoined(data)
    uplink = _uplink(reply_to)
    ended = uplink.carry_out(token, constants, rest, values)
    if _leaving.is_set():
        raise SystemExit(1)  # the call has not ended, its process does: Ray starts it elsewhere
    if not uplink.empty_seats():
        uplink.end(split(rest)[0].key, ended)
        uplink.wait_for_seats()
    return joined(uplink.worker, ended.frame), ended.value


def joined(head: Any, rest: bytes) -> bytes:
    """Something small before bytes; the other end is `unjoined`."""
    own = pickle.dumps(head, 5)
    return len(own).to_bytes(4, "big") + own + rest


def unjoined(data: bytes) -> tuple[Any, bytes]:
    """The other end of `joined`."""
    end = 4 + int.from_bytes(data[:4], "big")
    return pickle.loads(data[4:end]), data[end:]


def sit(reply_to: ReplyTo, number: int) -> None:
    """A task of Ray's: a seat for calls that are submitted by others."""
    _uplink(reply_to).sit(number)


def itself(value: Any) -> Any:
    """A task of Ray's: what comes out belongs to the flow's process."""
    return value
