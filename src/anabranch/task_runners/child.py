"""A pool's side of one child process: what it was sent, and what it still has to answer."""

from __future__ import annotations

import socket
from time import monotonic, time

from anabranch.errors import CrashedRun
from anabranch.execution import messages
from anabranch.execution.calls import Call, Scope
from anabranch.execution.messages import FrameReader, Message, pack
from anabranch.execution.pickling import dumps
from anabranch.outcomes import CANCELLED, CRASHED, Outcome

PIECE = 1 << 18
SPECS_KEPT = 1_000
"""Definitions of tasks that a child keeps; a bound method makes one for each access."""


class Definitions:
    """Tasks' definitions by number, pickled once for all children."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, object, bytes]] = {}  # by identity, the object kept alive
        self._next = 0

    def of(self, call: Call) -> tuple[int, bytes]:
        """Number and bytes; raises `UnpicklableError`."""
        spec = call.spec
        known = self._known.get(id(spec))
        if known is None:
            data = dumps(spec.for_worker(), f"Task {spec.name!r}", _SPEC_NAMES)
            self._next += 1
            known = self._known[id(spec)] = (self._next, spec, data)
            if len(self._known) > SPECS_KEPT:
                del self._known[next(iter(self._known))]
        return known[0], known[2]


_SPEC_NAMES = ("name", "key", "function name", "function", "kind", "tags")


class Child:
    """One process. Its calls run in the order of `flying`; only the first can have begun.

    `doomed` are keys whose end was asked for; `dying` is set once it was sent a signal.
    """

    def __init__(self, its_socket: socket.socket) -> None:
        self.socket = its_socket
        self.pid: int | None = None
        self.flying: dict[int, Call] = {}
        self.current: Call | None = None
        self.since = monotonic()
        self.began = time()
        self.doomed: set[int] = set()
        self.asked_back: float | None = None
        self.dying = False
        self.kill_at: float | None = None
        self.status: int | None = None
        self.at_end = False
        self.writes = False
        self._frames = FrameReader()
        self._messages: list[Message] = []
        self._bytes = bytearray()
        self._defined: dict[int, None] = {}
        self._scope: Scope | None = None
        its_socket.setblocking(False)

    # -- to the child ---------------------------------------------------------------------------

    def give(self, call: Call, number: int, definition: bytes) -> None:
        """Put a call into what is sent next; raises `UnpicklableError` and changes nothing."""
        spec = call.spec
        what = f"The arguments of {call.run_name}"
        data = dumps((call.args, call.kwargs), what, ("args", "kwargs"))
        if self._scope is not call.scope:
            scope = call.scope
            types = (scope.engine.__class__, scope.open_flow.__class__)
            packed = dumps((types, scope.for_worker()), f"The flow run of {call.run_name}")
            self._messages.append((messages.SCOPE, packed))
            self._scope = scope
        if number not in self._defined:
            self._messages.append((messages.DEFINE, number, definition))
            self._defined[number] = None
            if len(self._defined) > SPECS_KEPT:
                oldest = next(iter(self._defined))
                del self._defined[oldest]
                self._messages.append((messages.FORGET, oldest))
        name = call.name
        self._messages.append(
            (messages.CALL, call.key, call.attempt, number, data, name, spec.announces)
        )
        self.flying[call.key] = call
        if self.current is None:
            self.next_current()

    def ask_back(self) -> None:
        """Ask for the calls that have not begun."""
        if self.asked_back is None:
            self.asked_back = monotonic()
            self._messages.append((messages.TAKE_BACK,))

    def send(self) -> bool:
        """Write what is waiting; whether more is left than the socket takes."""
        if self._messages:
            self._bytes += pack(self._messages)
            self._messages = []
        try:
            while self._bytes:
                with memoryview(self._bytes) as view:
                    sent = self.socket.send(view[:PIECE])
                del self._bytes[:sent]
        except BlockingIOError:
            return True
        except OSError:  # it is gone; the server tells how
            self._bytes.clear()
        return False

    # -- from the child -------------------------------------------------------------------------

    def receive(self) -> list[Message]:
        """What it has told, as far as it can be read without blocking."""
        received: list[Message] = []
        try:
            while piece := self.socket.recv(PIECE):
                received += self._frames.feed(piece)
                if len(piece) < PIECE:
                    return received
            self.at_end = True
        except BlockingIOError:
            pass
        except OSError:
            self.at_end = True
        return received

    def next_current(self) -> None:
        """The first call of those that it has is the one that runs."""
        self.current = next(iter(self.flying.values()), None)
        self.since = monotonic()
        self.began = time()

    def close(self) -> None:
        self.socket.close()


def stopped(call: Call, child: Child) -> Outcome:
    """The outcome of a call that was ended since someone asked for it."""
    seconds = monotonic() - child.since
    message = "Cancelled while it ran."
    return Outcome(call.key, call.attempt, CANCELLED, None, child.began, seconds, message)


def lost(call: Call, child: Child, how: str) -> Outcome:
    """The outcome of a call whose child died under it."""
    message = f"Child process {child.pid} {how} while it ran {call.run_name}."
    seconds = monotonic() - child.since
    return Outcome(
        call.key,
        call.attempt,
        CRASHED,
        CrashedRun(message),
        child.began,
        seconds,
        message,
        lost=True,
    )
