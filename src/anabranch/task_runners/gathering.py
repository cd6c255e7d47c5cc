"""A thread that hands things on: all at once that have come meanwhile, which is cheaper than each."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")
MOST_AT_ONCE = 1_000


class Gathering(Generic[T]):
    """Calls `hand_on` with what was put, in that order."""

    def __init__(self, hand_on: Callable[[list[T]], object], name: str) -> None:
        self._hand_on = hand_on
        self._put: SimpleQueue[list[T] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, things: list[T]) -> None:
        self._put.put(things)

    def close(self) -> None:
        """Hand on what is left, then stop."""
        self._put.put(None)
        self._thread.join()

    def _run(self) -> None:
        while self._hand_on_what_is_there():  # which holds nothing while the next is waited for
            pass

    def _hand_on_what_is_there(self) -> bool:
        more = self._put.get()
        things = more or []
        try:
            while more is not None and len(things) < MOST_AT_ONCE:
                more = self._put.get_nowait()
                things += more or ()
        except Empty:
            pass
        if things:
            self._hand_on(things)
        return more is not None
