"""Ctrl-C and SIGTERM while a flow runs: when they take effect, and what they become.

A handler's exception can land between any two steps of Python, also where our code has taken a
lock and no `with` owns it yet. So it is raised only where the main thread is in user code or
sleeps in a wait of ours, and put off for a moment anywhere else.
"""

from __future__ import annotations

import _thread
import signal
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from time import monotonic, sleep
from types import FrameType
from typing import Any

from anabranch.context import RunContext
from anabranch.errors import Interrupted, Terminated
from anabranch.states import State
from anabranch.waiting import SLICE, Waiter

PUT_OFF_SECONDS = 0.002
PUT_OFF_TIMES = 500
"""After a second of this the signal takes effect wherever it is: our code waits for user code."""

OWN_SECONDS = 0.5

_RESTING = frozenset({Waiter.block.__code__})


class Told:
    """Which signal came; `again` once the flow has begun to end because of it.

    `pending` is one that came while our code ran: whichever of our code is about to return to the
    user's calls `check`.
    """

    def __init__(self, tell: Callable[[int], object]) -> None:
        self.signal: int | None = None
        self.again = False
        self.put_off = 0
        self.pending: int | None = None
        self._sent = 0  # signals that we have sent ourselves, and those of them that have come
        self._seen = 0
        self._deciding = threading.Lock()  # whether to send one; no handler takes it
        self._tell = tell

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The handler of both signals."""
        if self._sent > self._seen:
            self._seen = self._sent
            if self.pending is None:
                return  # it was put off, and has had its effect meanwhile
        if not _may_raise(frame) and self.put_off < PUT_OFF_TIMES:
            self.put_off += 1
            self.pending = number
            _thread.start_new_thread(self._send_later, (number,))
        else:
            self._arrive(number)

    def check(self) -> None:
        """Raise what a pending signal raises, where that may happen now."""
        if threading.get_ident() != threading.main_thread().ident:
            return
        with self._deciding:
            number, self.pending = self.pending, None
        if number is not None:
            self._arrive(number)

    def await_own(self) -> None:
        """Until those that we have sent have come, so that nobody else takes them for others'; but
        for one that has had no effect yet."""
        until = monotonic() + OWN_SECONDS
        while self._sent > self._seen and self.pending is None and monotonic() < until:
            sleep(PUT_OFF_SECONDS / 2)

    def _send_later(self, number: int) -> None:
        sleep(PUT_OFF_SECONDS)
        with self._deciding:
            if self.pending is not None:
                self._sent += 1
                signal.pthread_kill(threading.main_thread().ident or 0, number)

    def _arrive(self, number: int) -> None:
        self.put_off = 0
        self.pending = None
        if self.again:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(143)
        self.signal = number
        self._tell(number)


@contextmanager
def signals_told(context: RunContext, tell: Callable[[int], object]) -> Generator[Told]:
    """While a root flow runs on the main thread, a signal goes to `tell`, and one that comes when
    the flow is ending leaves at once; the old handlers are put back."""
    told = Told(tell)
    if context.engine is not None or threading.current_thread() is not threading.main_thread():
        yield told
        return

    old = {number: signal.signal(number, told.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield told
    finally:
        told.await_own()
        for number, handler in old.items():
            signal.signal(number, handler)


@contextmanager
def kept_awake(loop: Any) -> Generator[None]:
    """Have the loop turn now and then: a signal that Python notes just before the loop's sleep does
    not end that sleep, as with `Waiter.block`."""

    def turn() -> None:
        nonlocal next_turn
        next_turn = loop.call_later(SLICE, turn)

    next_turn = loop.call_later(SLICE, turn)
    try:
        yield
    finally:
        next_turn.cancel()


def send_again(number: int) -> None:
    """Send the main thread this signal in a moment; can be called by a handler.

    A `threading.Timer` cannot: to start a thread takes a lock of that module, which the main thread
    may hold where the handler came up.
    """
    _thread.start_new_thread(_send_later, (number,))


def _send_later(number: int) -> None:
    sleep(PUT_OFF_SECONDS)
    signal.pthread_kill(threading.main_thread().ident or 0, number)


def _may_raise(frame: FrameType | None) -> bool:
    """Whether an exception may come up here; the standard library's frames count as its caller's."""
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        top = module.partition(".")[0]
        if top == "anabranch":
            return frame.f_code in _RESTING
        if top not in sys.stdlib_module_names:
            return True
        frame = frame.f_back
    return True


def exception_for(number: int) -> BaseException:
    """What a flow sees of a signal."""
    return Interrupted() if number == signal.SIGINT else Terminated()


def raise_in_main(number: int) -> None:
    raise exception_for(number)


def leave_as_told(state: State[Any], context: RunContext) -> None:
    """After the root run is recorded, a signal has the effect that it has without us."""
    if isinstance(state.data, Interrupted | Terminated) and context.engine is not None:
        raise state.data  # the flow around this one has to see it too
    if isinstance(state.data, Interrupted):
        raise KeyboardInterrupt from None
    if isinstance(state.data, Terminated):
        raise SystemExit(state.data.code) from None
