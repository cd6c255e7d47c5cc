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


def call_in_time(call: Callable[[], T], name: str, seconds: float) -> T:
    """What the call gives; raises `RunTimedOut`, which says `name`, if it takes so many seconds."""
    passed = arrived = False
    try:
        with Interruptible() as block:

            def passes() -> None:
                nonlocal passed
                passed = True
                block.interrupt()

            timer = threading.Timer(seconds, passes)
            timer.daemon = True
            timer.start()
            try:
                return call()
            except Interrupt:
                arrived = True
                raise
            finally:
                timer.cancel()
                block.settle(arrived)
    except Interrupt:  # also one that came when the call had just ended
        if not passed:  # the run was cancelled
            raise
        raise RunTimedOut(name, seconds) from None
