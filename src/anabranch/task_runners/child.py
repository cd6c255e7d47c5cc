"""A pool's side of one child process: what it was sent, and what it still has to answer."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Sequence
from mmap import mmap
from time import monotonic, time
from typing import Any, NamedTuple

from anabranch.errors import CrashedRun
from anabranch.execution import messages
from anabranch.execution.calls import Call, Scope
from anabranch.execution.messages import FrameReader, Message, pack
from anabranch.execution.pickling import dumps
from anabranch.execution.worker import key_at_work
from anabranch.outcomes import CANCELLED, CRASHED, Outcome
from anabranch.task_runners.base import Desk

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


_SPEC_NAMES = (
    "name",
    "key",
    "function name",
    "function",
    "kind",
    "tags",
    "persistence",
    "in memory",
)


class Begun(NamedTuple):
    """A call that runs in a child; times are those at which it became its turn."""

    call: Call
    nested: bool
    since: float  # monotonic
    at: float  # since the epoch


class Child:
    """One process. `flying` are the calls that it was sent and has not ended, in that order.

    Of those that are not nested one has begun, the first, and the others follow. `waiting` are keys
    of begun calls that wait for others, `doomed` of those whose end was asked for; `dying` is set
    once the process was sent a signal.
    """

    def __init__(self, its_socket: socket.socket, shared: mmap, desk: Desk) -> None:
        self.socket = its_socket
        self.shared = shared
        self.desk = desk
        self.pid: int | None = None
        self.flying: dict[int, Call] = {}
        self.begun: dict[int, Begun] = {}
        self.waiting: set[int] = set()
        self.doomed: set[int] = set()
        self.asked_back: float | None = None
        self.dying = False
        self.kill_at: float | None = None
        self.at_end = False
        self.writes = False
        self._main: int | None = None
        self._frames = FrameReader()
        self._messages: list[Message] = []
        self._calls: list[tuple[int, int, tuple[Any, ...]]] | None = None  # of the last message
        self._number = 0  # of their definition
        self._bytes = bytearray()
        self._defined: dict[int, None] = {}
        self._scope: Scope | None = None
        its_socket.setblocking(False)

    @property
    def usable(self) -> bool:
        """Whether it can be given calls."""
        return not self.dying and not self.at_end and self.asked_back is None

    @property
    def busy(self) -> bool:
        """Whether a call runs in it that does not wait for others."""
        return len(self.begun) > len(self.waiting)

    @property
    def behind(self) -> int:
        """How many calls wait for their turn in it."""
        return len(self.flying) - len(self.begun)

    @property
    def main(self) -> Begun | None:
        """What runs on its main thread."""
        return None if self._main is None else self.begun[self._main]

    # -- to the child ---------------------------------------------------------------------------

    def give(self, call: Call, number: int, definition: bytes, nested: bool) -> None:
        """Put a call into what is sent next; raises `UnpicklableError` and changes nothing.

        A nested one runs at once, beside those that wait.
        """
        key, attempt, spec, scope, args, kwargs, name, _ = call
        plain = not (nested or kwargs or name or spec.announces)
        plain = plain and messages.PLAIN_TYPES.issuperset(map(type, args))
        data = b""
        if not plain:
            names = ("args", "kwargs")
            data = dumps((args, kwargs), lambda: f"The arguments of {call.run_name}", names)
        if self._scope is not scope:
            packed = dumps(scope.for_worker(), f"The flow run of {call.run_name}")
            self._say(messages.SCOPE, packed)
            self._scope = scope
        if number not in self._defined:
            self._define(number, definition)
        if not plain:
            self._say(messages.CALL, key, attempt, number, data, name, spec.announces, nested)
        else:
            if self._calls is None or self._number != number:
                calls: list[tuple[int, int, tuple[Any, ...]]] = []
                self._say(messages.CALLS, number, calls)
                self._calls, self._number = calls, number
            self._calls.append((key, attempt, args))
        self.flying[key] = call
        if nested:
            self._begin(call, nested)
        elif self._main is None:
            self.next_main()

    def _define(self, number: int, definition: bytes) -> None:
        self._say(messages.DEFINE, number, definition)
        self._defined[number] = None
        if len(self._defined) > SPECS_KEPT:
            oldest = next(iter(self._defined))
            del self._defined[oldest]
            self._say(messages.FORGET, oldest)

    def _say(self, *message: Any) -> None:
        self._messages.append(message)
        self._calls = None

    def tell(self, notice: bytes) -> None:
        """Put a notice of the engine into what is sent next."""
        self._say(messages.NOTICE, notice)

    def interrupt(self, key: int) -> None:
        """Ask for the end of a nested call."""
        self._say(messages.INTERRUPT, key)

    def ask_back(self) -> None:
        """Ask for the calls that have not begun."""
        if self.asked_back is None:
            self.asked_back = monotonic()
            self._say(messages.TAKE_BACK)

    def send(self) -> bool:
        """Write what is waiting; whether more is left than the socket takes."""
        if self._messages:
            self._bytes += pack(self._messages)
            self._messages = []
            self._calls = None
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

    def ended(self, key: int) -> Begun | Call | None:
        """A call has ended. One that had not begun as far as was known here has, after others that
        ended a moment ago; whose turn it is now, `next_main` says once all ends are known."""
        call = self.flying.pop(key, None)
        self.doomed.discard(key)
        if key not in self.begun:
            return call
        self.waiting.discard(key)
        if key == self._main:
            self._main = None
        return self.begun.pop(key)

    def returned(self, keys: Sequence[int]) -> list[Call]:
        """Calls that it gives back; none of them has begun, whatever was thought here."""
        calls = [self.flying.pop(key) for key in keys if key in self.flying]
        for call in calls:
            self.begun.pop(call.key, None)
        if self._main in keys:
            self._main = None
            self.next_main()
        return calls

    def untold(self) -> list[Call]:
        """Take out the calls that its main thread has ended, as the one that it is at shows, and whose
        ends have not come: it is gone, and they with it."""
        at_work = key_at_work(self.shared)
        if at_work not in self.flying or self._main is None:
            return []
        before = itertools.takewhile(lambda key: key != at_work, self.flying)
        return self.returned([key for key in before if key == self._main or key not in self.begun])

    def next_main(self) -> None:
        """The first call that has not begun is the one that its main thread runs now."""
        if self._main is None:
            for key, call in self.flying.items():
                if key not in self.begun:
                    self._main = key
                    self._begin(call, False)
                    return

    def _begin(self, call: Call, nested: bool) -> None:
        self.begun[call.key] = Begun(call, nested, monotonic(), time())

    def was_born(self, pid: int) -> None:
        self.pid = pid
        for key, begun in self.begun.items():
            self.begun[key] = begun._replace(since=monotonic(), at=time())

    def close(self) -> None:
        self.socket.close()
        self.shared.close()


def begun_of(found: Begun | Call) -> Begun:
    """A call that has ended, though nobody here knew that it had begun, has begun just now."""
    return found if isinstance(found, Begun) else Begun(found, False, monotonic(), time())


def stopped(begun: Begun) -> Outcome:
    """The outcome of a call that was ended since someone asked for it."""
    call = begun.call
    message = "Cancelled while it ran."
    return Outcome(call.key, call.attempt, CANCELLED, None, begun.at, _length(begun), message)


def lost(begun: Begun, pid: int | None, how: str) -> Outcome:
    """The outcome of a call whose child died under it."""
    call = begun.call
    message = f"Child process {pid} {how} while it ran {call.run_name}."
    error = CrashedRun(message)
    return Outcome(
        call.key, call.attempt, CRASHED, error, begun.at, _length(begun), message, lost=True
    )


def _length(begun: Begun) -> float:
    return monotonic() - begun.since
