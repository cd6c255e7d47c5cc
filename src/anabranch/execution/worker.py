"""A child process at work: calls come in on a socket, run on the main thread, and outcomes go out.

A second thread reads the socket, so that calls that have not begun can be taken back from under a
long one, and so that the process ends with its parent. While the call on the main thread waits for
others, calls that come in run beside it on threads of their own.
"""

from __future__ import annotations

import mmap
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any, NamedTuple

from anabranch.errors import Terminated
from anabranch.execution import messages
from anabranch.execution.calls import Call, Scope, TaskSpec
from anabranch.execution.interrupts import raise_in_thread
from anabranch.execution.messages import FrameReader, Message, pack
from anabranch.execution.pickling import loads
from anabranch.execution.portable import packed
from anabranch.execution.remote_engine import RemoteEngine
from anabranch.execution.remote_logs import forward_logs
from anabranch.execution.remote_runs import FlowStandIn
from anabranch.execution.run import failure, run_call
from anabranch.logging import prints_logged
from anabranch.outcomes import Outcome
from anabranch.records import made_of
from anabranch.signals import send_again
from anabranch.waiting import Waiter

GRACE_SECONDS = 1.0
"""How long a call may go on after the parent is gone."""
TERMINATED = 128 + signal.SIGTERM
PIECE = 1 << 18
HOLD_SECONDS = 0.002
"""Ends of calls go together for so long, where others wait for their turn."""
_KEY = struct.Struct("<q")
SHARED_BYTES = _KEY.size
"""Of the memory that the parent shares: the key of the call whose turn it is, on the main thread."""


class Channel:
    """The socket to the parent. A frame is never torn by SIGTERM.

    What is `held` goes with the next that is sent, or soon; as long as somebody looks after it.
    """

    def __init__(self, its_socket: socket.socket) -> None:
        self.socket = its_socket
        self.sending = 0
        self.held: list[Message] = []
        self.is_watched = False
        self._told = time.monotonic()
        self._one_at_a_time = threading.RLock()

    def send(self, *its_messages: Message) -> None:
        self.sending += 1
        try:
            with self._one_at_a_time:
                held, self.held = self.held, []
                self._told = time.monotonic()
                if held or its_messages:
                    self.socket.sendall(pack([*held, *its_messages]))
        finally:
            self.sending -= 1

    def send_soon(self, message: Message) -> None:
        with self._one_at_a_time:
            self.held.append(message)
            late = time.monotonic() - self._told > HOLD_SECONDS
        if late or not self.is_watched:
            self.send()


class Definition:
    """A task's definition as it came, loaded by the first call that needs it."""

    __slots__ = ("_data", "_spec")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._spec: TaskSpec | None = None

    def spec(self) -> TaskSpec:
        if self._spec is None:
            self._spec = TaskSpec.on_worker(loads(self._data))
        return self._spec


class Received(NamedTuple):
    """A call that waits for its turn."""

    key: int
    attempt: int
    definition: Definition
    scope: bytes
    data: bytes | tuple[Any, ...]  # the arguments; as they are, where those are plain
    name: str | None = None
    announces: bool = False


class Worker:
    """The life of a child process, from its fork to its end; a `remote_engine.Line`."""

    def __init__(self, its_socket: socket.socket, shared: mmap.mmap) -> None:
        self._channel = Channel(its_socket)
        self._shared = shared
        self._readable = select.poll()
        self._readable.register(its_socket, select.POLLIN)
        self._calls: SimpleQueue[Received | None] = SimpleQueue()
        self._busy = False
        self._ending = False
        self._engine = RemoteEngine(self)
        self._scopes: dict[bytes, Scope] = {}
        self._base: ContextVar[int] = ContextVar("anabranch_base_call")
        self._main_call: int | None = None
        self._main_waits = 0
        self._lending = threading.Lock()
        self._threads: dict[int, int] = {}  # of nested calls, by key

    def run(self, levels: Mapping[str, int]) -> int:
        """Work until the parent closes the socket; gives the exit code."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the parent cancels what runs
        signal.signal(signal.SIGTERM, self._terminate)
        forward_logs(levels, lambda data: self._channel.send((messages.LOG, data)))
        threading.Thread(target=self._read, name="anabranch-reader", daemon=True).start()
        try:
            with prints_logged():
                while (received := self._calls.get()) is not None:
                    if not self._carry_out(received):
                        return TERMINATED
        except Terminated:  # while idle
            self._ending = True
            self._channel.send()  # what is held
            return TERMINATED
        except OSError:  # nobody is left to tell
            return 1
        return 0

    # -- the main thread ------------------------------------------------------------------------

    def _carry_out(self, received: Received) -> bool:
        """Run a call and tell its outcome; False if the process was told to end meanwhile."""
        self._busy = True
        self._main_call = received.key
        _KEY.pack_into(self._shared, 0, received.key)
        outcome, call = self._outcome_of(received)
        self._ending = True  # a SIGTERM that comes now must not tear what follows
        self._tell_end(outcome, call)
        self._main_call = None
        self._busy = False
        self._ending = False
        return not isinstance(outcome.value, Terminated)

    def _outcome_of(self, received: Received) -> tuple[Outcome, Call]:
        started = time.time()
        self._base.set(received.key)
        try:
            call = self._call(received)
        except BaseException as error:  # imports run users' code
            spec = TaskSpec("", "", _nothing)
            scope = Scope(None, None, None, None, frozenset(), False, 0, 0, 0)
            call = Call(received.key, received.attempt, spec, scope, (), {}, received.name)
            return failure(call, error, started, time.time() - started), call
        try:
            return run_call(call), call
        except Terminated as error:  # it came just after the task's own code
            return failure(call, error, started, time.time() - started), call

    def _tell_end(self, outcome: Outcome, call: Call) -> None:
        _flush()
        message: Message = (messages.ENDED, packed(outcome, lambda: call.run_name))
        if self._calls.empty() or isinstance(outcome.value, Terminated):
            self._channel.send(message)
        else:
            self._channel.send_soon(message)

    def _call(self, received: Received) -> Call:
        spec = received.definition.spec()  # its imports are no part of the call's time
        if received.announces:
            self._channel.send((messages.STARTED, received.key, received.attempt))
        scope = self._scopes.get(received.scope)
        if scope is None:
            *sent, joins = loads(received.scope)
            open_flow = FlowStandIn(flow_run=sent[0], log_prints=sent[3])
            around = self._engine.around() if joins else None
            scope = Scope(self._engine, open_flow, *sent, transaction=around)
            self._scopes = {received.scope: scope}  # calls of one submission come together
        data = received.data
        args: tuple[Any, ...]
        kwargs: dict[str, Any]
        args, kwargs = loads(data, self._engine) if isinstance(data, bytes) else (data, {})
        place = (received.key, received.attempt)
        return made_of(Call, (*place, spec, scope, args, kwargs, received.name, None))

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        if not self._ending and not self._channel.sending:
            raise Terminated
        send_again(number)

    # -- calls that run beside one that waits ------------------------------------------------------

    def _run_nested(self, received: Received) -> None:
        self._threads[received.key] = threading.get_ident()
        outcome, call = self._outcome_of(received)
        del self._threads[received.key]
        self._tell_end(outcome, call)

    def _interrupt(self, key: int) -> None:
        thread = self._threads.get(key)
        if thread is not None:
            raise_in_thread(thread, Terminated)

    # -- what the engine's stand-in needs, see `remote_engine.Line` --------------------------------

    def ask(self, request: bytes) -> None:
        """Send a request of the call that the calling code belongs to."""
        key = self._base.get(self._main_call)
        self._channel.send((messages.REQUEST, key, request))

    @contextmanager
    def lend(self) -> Generator[None]:
        key = self._base.get(None)
        if key is None:  # a thread of the user's own, which holds no slot
            yield
            return
        on_main = key == self._main_call
        with self._lending:
            self._main_waits += on_main
            back = self._take_back() if on_main else []
            self._channel.send((messages.RETURNED, back, False), (messages.WAITS, key))
        try:
            yield
        finally:
            with self._lending:
                self._main_waits -= on_main
                self._channel.send((messages.GOES_ON, key))

    def wait(self, waiter: Waiter, timeout: float | None) -> bool:
        with self.lend():
            return waiter.wait(timeout)

    # -- the reading thread -----------------------------------------------------------------------

    def _read(self) -> None:
        definitions: dict[int, Definition] = {}
        scope = b""
        frames = FrameReader()
        while piece := self._receive():
            for message in frames.feed(piece):
                tag = message[0]
                if tag == messages.CALL:
                    _, key, attempt, number, data, name, announces, nested = message
                    self._accept(
                        Received(key, attempt, definitions[number], scope, data, name, announces),
                        nested,
                    )
                elif tag == messages.CALLS:
                    definition = definitions[message[1]]
                    self._accept_all(
                        [
                            Received(key, attempt, definition, scope, args)
                            for key, attempt, args in message[2]
                        ]
                    )
                elif tag == messages.SCOPE:
                    scope = message[1]
                elif tag == messages.DEFINE:
                    definitions[message[1]] = Definition(message[2])
                elif tag == messages.FORGET:
                    del definitions[message[1]]
                elif tag == messages.NOTICE:
                    self._engine.told(message[1])
                elif tag == messages.TAKE_BACK:
                    with self._lending:
                        self._channel.send((messages.RETURNED, self._take_back(), True))
                elif tag == messages.INTERRUPT:
                    self._interrupt(message[1])
        self._calls.put(None)
        if self._busy:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        time.sleep(GRACE_SECONDS)
        os._exit(1)

    def _accept(self, received: Received, nested: bool) -> None:
        if nested:
            name = f"anabranch-nested-{received.key}"
            threading.Thread(
                target=self._run_nested, args=(received,), name=name, daemon=True
            ).start()
            return
        self._accept_all([received])

    def _accept_all(self, received: Sequence[Received]) -> None:
        with self._lending:
            if self._main_waits:  # they were sent before the parent knew
                self._channel.send((messages.RETURNED, [each.key for each in received], False))
                return
            for each in received:
                self._calls.put(each)

    def _receive(self) -> bytes:
        channel = self._channel
        channel.is_watched = True
        while not self._readable.poll(1_000 * HOLD_SECONDS):
            if channel.held:
                channel.send()
                continue
            channel.is_watched = False  # from here on nothing is held
            if not channel.held:
                break
        try:
            return channel.socket.recv(PIECE)
        except OSError:
            return b""

    def _take_back(self) -> list[int]:
        """The keys of calls that have not begun, which will not begin here."""
        keys: list[int] = []
        try:
            while (received := self._calls.get_nowait()) is not None:
                keys.append(received.key)
        except Empty:
            pass
        return keys


def key_at_work(shared: mmap.mmap) -> int:
    """The key of the call that a process with this memory runs on its main thread, or ran last."""
    return _KEY.unpack_from(shared)[0]


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):  # none, gone, or closed by the user
            pass


def _nothing() -> None:
    """Stands for a function that could not be loaded."""
