"""Ending user code that takes too long, in whatever thread it runs.

The same way as the timeouts of direct calls: the main thread of a process is interrupted by a signal,
also in a sleep; another thread at its next line of Python, so that a call in C ends first.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from anabranch.errors import RunTimedOut
from anabranch.execution.interrupts import Interrupt, Interruptible

T = TypeVar("T")

AGAIN_SECONDS = 0.5
"""From one interrupt to the next, where the call goes on all the same."""


def call_in_time(call: Callable[[], T], name: str, seconds: float) -> T:
    """What the call gives; raises `RunTimedOut`, which says `name`, if it takes so many seconds."""
    passed = arrived = False
    ended = threading.Event()
    block = Interruptible()

    def watch() -> None:
        nonlocal passed
        if ended.wait(seconds):
            return
        passed = True
        block.interrupt()
        while not ended.wait(AGAIN_SECONDS):
            block.insist()

    try:
        with block:
            threading.Thread(target=watch, name="anabranch-time-limit", daemon=True).start()
            try:
                return call()
            except Interrupt:
                arrived = True
                raise
            finally:
                ended.set()
                block.settle(arrived)
    except Interrupt:  # also one that came when the call had just ended
        ended.set()
        block.settle(True)
        if not passed:  # the run was cancelled
            raise
        raise RunTimedOut(name, seconds) from None
