"""What runs on Ray's workers: calls, and seats.

A worker whose call waits for others is a seat: it takes another call meanwhile, on a thread. So what
tasks submit runs whatever else the cluster is busy with, and no process is started for it.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from types import FrameType
from typing import Any

import ray as typed_ray

from anabranch.execution import cluster_worker
from anabranch.execution.claims import Granted
from anabranch.execution.cluster_calls import Constants, Template
from anabranch.execution.cluster_worker import ClusterWorker, Ended
from anabranch.execution.interrupts import interrupts_handled
from anabranch.execution.messages import framed, joined, parted
from anabranch.task_runners.ray_mailbox import (
    Broke,
    EndedOnSeat,
    Given,
    Leave,
    Offered,
    Over,
    ReplyTo,
    Said,
)

ray: Any = typed_ray  # its own types are partly unknown


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
        self._over = False
        self._changing = threading.Condition()
        threading.Thread(target=self._read, name="anabranch-mailbox", daemon=True).start()

    # -- see `cluster_worker.Uplink` ----------------------------------------------------------------

    def send(self, key: int | None, frame: bytes) -> None:
        self._do("post", Said(self.worker, key, frame))

    def ends(self) -> bool:
        return _leaving.is_set()

    @contextmanager
    def lend(self) -> Generator[None]:
        """A call that waits says so, and is given others; see `ray_seats.Seats`."""
        yield

    def abandon(self, thread: int) -> None:
        """Ray ends the process."""

    # -- calls ------------------------------------------------------------------------------------

    def carry_out(
        self, token: str, constants: str | None, data: bytes, values: Sequence[Any]
    ) -> Ended:
        here, template, shared = self._ready(token, constants)
        return here.carry_out(template, data, shared, values)

    def carry_out_group(
        self, token: str, constants: str | None, number: int, calls: Sequence[bytes]
    ) -> Ended:
        here, template, shared = self._ready(token, constants)
        granted: Granted | None = _answer(self._do("claim", number, self.worker))

        def settle(place: int) -> None:
            _answer(self._do("settle", number, place))

        return here.carry_out_group(template, number, calls, shared, granted, settle)

    def _ready(
        self, token: str, constants: str | None
    ) -> tuple[ClusterWorker, Template, Constants | None]:
        template: Template = self._thing(token)
        here: ClusterWorker = cluster_worker.worker_for(template, self.worker, lambda: self)
        return here, template, None if constants is None else self._thing(constants)

    def _thing(self, token: str) -> Any:
        thing = self._things.get(token)
        if thing is None:
            (reference,) = _answer(self._do("thing", token))
            thing = self._things[token] = _answer(reference)
            if len(self._things) > cluster_worker.KEPT:
                del self._things[next(iter(self._things))]
        return thing

    def end(self, ended: Ended) -> None:
        """Tell the end of a call by the mailbox; its value is this process's until the flow has it."""
        boxed = None if ended.value is None else [ray.put(ended.value)]
        self._do("post", EndedOnSeat(self.worker, ended.key, framed(ended.said), boxed))

    def end_group(self, ended: Ended) -> None:
        """Tell what is left to be told of one; it has been when this is back."""
        _answer(self._do("post", Said(self.worker, None, framed(ended.said))))

    # -- seats ------------------------------------------------------------------------------------

    def empty_seats(self) -> bool:
        """Whether no call runs here on a seat."""
        return not self._seated

    def wait_for_seats(self) -> None:
        """Ray may end a process that it takes for idle: stay until the calls on seats have ended, or
        nobody wants them any more."""
        with self._changing:
            self._changing.wait_for(lambda: self._over or self.empty_seats())

    def _take(self, given: Given) -> None:
        with self._changing:
            self._seated += 1
        threading.Thread(
            target=self._carry_out, args=(given,), name="anabranch-seat", daemon=True
        ).start()

    def _carry_out(self, given: Given) -> None:
        try:
            values: list[Any] = ray.get(given.values) if given.values else []
            self.end(self.carry_out(given.token, given.constants, given.data, values))
        except BaseException as error:
            self._do("post", Broke(given.key, given.attempt, error))
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
            with self._changing:
                self._over = True
                self._changing.notify_all()
                for event in self.leaving.values():
                    event.set()
            _uplinks.pop(self._reply_to, None)
            cluster_worker.forget(self._reply_to)

    def _leaving(self, number: int) -> threading.Event:
        with self._changing:
            event = self.leaving.setdefault(number, threading.Event())
            if self._over:
                event.set()
        return event

    def sit(self, number: int) -> None:
        """Be a seat until told to leave."""
        leaving = self._leaving(number)
        self._do("post", Offered(self.worker, number))
        leaving.wait()
        self.wait_for_seats()
        del self.leaving[number]


def _answer(asked: Any) -> Any:
    """What is asked for, waited for without `ray.get`: Ray takes a call that waits there for one that
    needs its CPU no more, and starts processes for others, which take half a second of two CPUs."""
    return asked.future().result()


_uplinks: dict[ReplyTo, RayUplink] = {}
_changing = threading.Lock()
_lifetime = ExitStack()  # of this process
_leaving = threading.Event()
"""This process was told to end."""


def _uplink(reply_to: ReplyTo) -> RayUplink:
    uplink = _uplinks.get(reply_to)
    if uplink is None:
        signal.signal(signal.SIGTERM, _leave)
        _lifetime.enter_context(interrupts_handled())
        with _changing:
            uplink = _uplinks.get(reply_to)
            if uplink is None:
                uplink = _uplinks[reply_to] = RayUplink(reply_to)
    return uplink


def _leave(number: int, frame: FrameType | None) -> None:
    _leaving.set()
    raise SystemExit(1)


def carry_out(data: bytes, *values: Any) -> tuple[bytes | None, Any]:
    """A task of Ray's, a call or a group of them; the same function for both, since Ray has workers
    for each. All is bytes, which Ray takes as they are."""
    head, rest = parted(data)
    reply_to, token, constants, number = pickle.loads(head)
    uplink = _uplink(reply_to)
    if number is not None:
        return _carry_out_group(uplink, token, constants, number, pickle.loads(rest))
    ended = uplink.carry_out(token, constants, rest, values)
    if _leaving.is_set():
        raise SystemExit(1)  # the call has not ended, its process does: Ray starts it elsewhere
    if not uplink.empty_seats():
        uplink.end(ended)
        uplink.wait_for_seats()
    return joined(uplink.worker.encode(), framed(ended.said)), ended.value


def _carry_out_group(
    uplink: RayUplink, token: str, constants: str | None, number: int, calls: Sequence[bytes]
) -> tuple[bytes | None, Any]:
    """What they say, and the value of the last, if that stays. Where some of it was told before, the rest
    goes by the mailbox too, so that it comes after that, and before what a worker says that gets them
    anew."""
    ended = uplink.carry_out_group(token, constants, number, calls)
    at_once = ended.is_all and ended.value is None and uplink.empty_seats()
    if ended.value is not None and not uplink.empty_seats():
        uplink.end(ended)
    elif not at_once:
        uplink.end_group(ended)
    if _leaving.is_set():
        raise SystemExit(1)
    uplink.wait_for_seats()
    told = joined(uplink.worker.encode(), framed(ended.said)) if at_once else None
    return told, ended.value


def sit(reply_to: ReplyTo, number: int) -> None:
    """A task of Ray's: a seat for calls that are submitted by others."""
    _uplink(reply_to).sit(number)


def itself(value: Any) -> Any:
    """A task of Ray's: what comes out belongs to the flow's process."""
    return value
