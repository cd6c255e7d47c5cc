"""A child process at work: calls come in on a socket, run on the main thread, and outcomes go out.

A second thread reads the socket, so that calls that have not begun can be taken back from under a
long one, and so that the process ends with its parent.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any, NamedTuple

from anabranch.clock import SystemClock
from anabranch.context import RunContext, current_context
from anabranch.errors import Terminated, UnpicklableError, UnsupportedOptionError
from anabranch.execution import messages
from anabranch.execution.calls import Call, Scope, TaskSpec
from anabranch.execution.messages import FrameReader, Message, pack
from anabranch.execution.pickling import dumps, loads, portable_exception
from anabranch.execution.remote_logs import forward_logs
from anabranch.execution.run import failure, run_call
from anabranch.logging import prints_logged
from anabranch.outcomes import FAILED, Outcome
from anabranch.runs import FlowRun

GRACE_SECONDS = 1.0
"""How long a call may go on after the parent is gone."""
TERMINATED = 128 + signal.SIGTERM
PIECE = 1 << 18
_PLAIN = frozenset({type(None), bool, int, float, str, bytes})


class Channel:
    """The socket to the parent. A frame is never torn by SIGTERM."""

    def __init__(self, its_socket: socket.socket) -> None:
        self.socket = its_socket
        self.sending = 0
        self._one_at_a_time = threading.RLock()

    def send(self, *its_messages: Message) -> None:
        data = pack(list(its_messages))
        self.sending += 1
        try:
            with self._one_at_a_time:
                self.socket.sendall(data)
        finally:
            self.sending -= 1


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
    data: bytes
    name: str | None
    announces: bool


class Worker:
    """The life of a child process, from its fork to its end."""

    def __init__(self, its_socket: socket.socket) -> None:
        self._channel = Channel(its_socket)
        self._calls: SimpleQueue[Received | None] = SimpleQueue()
        self._busy = False
        self._ending = False
        self._homes: dict[Any, Any] = {}
        self._scope_data: bytes | None = None
        self._scope: Any = None
        self._flow_open: Any = None

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
            return TERMINATED
        except OSError:  # nobody is left to tell
            return 1
        return 0

    # -- the main thread ------------------------------------------------------------------------

    def _carry_out(self, received: Received) -> bool:
        """Run a call and tell its outcome; False if the process was told to end meanwhile."""
        self._busy = True
        if received.announces:
            self._channel.send((messages.STARTED, received.key, received.attempt))
        outcome, name = self._outcome_of(received)
        self._ending = True  # a SIGTERM that comes now must not tear what follows
        _flush()
        self._channel.send(_ended(outcome, name))
        self._busy = False
        self._ending = False
        return not isinstance(outcome.value, Terminated)

    def _outcome_of(self, received: Received) -> tuple[Outcome, str]:
        started = time.time()
        try:
            call = self._call(received)
        except BaseException as error:  # imports run users' code
            spec = TaskSpec("", "", _nothing)
            scope = Scope(None, None, None, None, frozenset(), False, 0, 0, 0)
            call = Call(received.key, received.attempt, spec, scope, (), {}, received.name)
            return failure(call, error, started, time.time() - started), received.name or "a task"
        try:
            return run_call(call), call.run_name
        except Terminated as error:  # it came just after the task's own code
            return failure(call, error, started, time.time() - started), call.run_name

    def _call(self, received: Received) -> Call:
        spec = received.definition.spec()
        if received.scope is not self._scope_data:
            self._scope = self._made_scope(loads(received.scope))
            self._scope_data = received.scope
        args, kwargs = loads(received.data)
        return Call(
            received.key, received.attempt, spec, self._scope, args, kwargs, received.name, None
        )

    def _made_scope(self, sent: tuple[Any, ...]) -> Scope:
        """A scope whose engine is this process's own, for what tasks call directly."""
        (engine_type, open_flow_type), rest = sent
        engine = self._homes.get(engine_type)
        if engine is None:
            local_type: Any = type("WorkerEngine", (FlowlessEngine, engine_type), {})
            engine = self._homes[engine_type] = local_type(SystemClock())
        flow_run, log_prints = rest[2], rest[5]
        last = self._flow_open
        if last is None or last.flow_run != flow_run or last.log_prints != log_prints:
            self._flow_open = open_flow_type(flow_run, None, None, log_prints)
            self._flow_open.runner = NO_RUNNER
        return Scope(engine, self._flow_open, *rest[2:])

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        if not self._ending and not self._channel.sending:
            raise Terminated
        main = threading.main_thread().ident or 0
        again = threading.Timer(0.002, signal.pthread_kill, (main, number))
        again.daemon = True
        again.start()

    # -- the reading thread -----------------------------------------------------------------------

    def _read(self) -> None:
        definitions: dict[int, Definition] = {}
        scope = b""
        frames = FrameReader()
        while piece := self._receive():
            for message in frames.feed(piece):
                tag = message[0]
                if tag == messages.CALL:
                    _, key, attempt, number, data, name, announces = message
                    self._calls.put(
                        Received(key, attempt, definitions[number], scope, data, name, announces)
                    )
                elif tag == messages.SCOPE:
                    scope = message[1]
                elif tag == messages.DEFINE:
                    definitions[message[1]] = Definition(message[2])
                elif tag == messages.FORGET:
                    del definitions[message[1]]
                elif tag == messages.TAKE_BACK:
                    self._give_back()
        self._calls.put(None)
        if self._busy:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        time.sleep(GRACE_SECONDS)
        os._exit(1)

    def _receive(self) -> bytes:
        try:
            return self._channel.socket.recv(PIECE)
        except OSError:
            return b""

    def _give_back(self) -> None:
        keys: list[int] = []
        try:
            while (received := self._calls.get_nowait()) is not None:
                keys.append(received.key)
        except Empty:
            pass
        self._channel.send((messages.RETURNED, keys))


def _ended(outcome: Outcome, name: str) -> Message:
    """The message that carries an outcome."""
    key, attempt, phase, value, *rest = outcome[:8]
    form = messages.INLINE
    if isinstance(value, BaseException):
        form, value = messages.EXCEPTION, portable_exception(value)
    elif type(value) not in _PLAIN:
        try:
            form, value = messages.PICKLED, dumps(value, f"The result of {name}", ("result",))
        except UnpicklableError as error:
            form, phase, value = messages.EXCEPTION, FAILED, portable_exception(error)
            rest = [*rest[:2], None, None]
    return (messages.ENDED, key, attempt, phase, form, value, *rest)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):  # none, gone, or closed by the user
            pass


def _nothing() -> None:
    """Stands for a function that could not be loaded."""


# -- what a task on a worker has for an engine ------------------------------------------------------


class NoRunner:
    """Stands where a flow has its runner: tasks here are called directly, not submitted."""

    capabilities: Any = None

    def wait(self, waiter: Any, futures: Sequence[Any], timeout: float | None) -> bool:
        return waiter.wait(timeout)

    def lend(self) -> Any:
        return threading.Lock()  # a context manager that holds nobody up

    def running(self) -> Sequence[tuple[int, int]]:
        return ()

    def abandoned(self) -> list[str]:
        return []

    def runs_on(self, loop: Any) -> bool:
        return False


NO_RUNNER = NoRunner()


class FlowlessEngine:
    """Put before an engine's own class: refuses what only the flow's process can do."""

    def submit(self, spec: TaskSpec, *args: Any, **options: Any) -> Any:
        context: RunContext = options.get("context") or current_context()
        if options.get("runner") is None and context.open_flow.runner is NO_RUNNER:
            raise _refusal(spec.name, "submit() or map() inside a task")
        return super().submit(spec, *args, **options)  # type: ignore[misc]  # the engine's

    def submit_expansion(self, name: str, *args: Any) -> Any:
        if current_context().open_flow.runner is NO_RUNNER:
            raise _refusal(name, "map() inside a task")
        return super().submit_expansion(name, *args)  # type: ignore[misc]  # the engine's

    def flow_parameters(self, flow_run: FlowRun) -> Mapping[str, Any]:
        if current_context().open_flow.runner is NO_RUNNER:
            raise _refusal(flow_run.name, "the flow's parameters inside a task")
        return flow_run.parameters


def _refusal(name: str, what: str) -> UnsupportedOptionError:
    return UnsupportedOptionError(
        name,
        what,
        "processes",
        "A task on the processes runner cannot submit tasks yet, nor ask for its flow's "
        "parameters: call tasks directly there, submit them from the flow, or use threads.",
    )
