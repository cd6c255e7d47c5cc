"""A lock for short stretches of Python that many threads go through all the time.

With `threading.Lock`, a thread that sleeps for the lock is handed it when the owner lets go, long
before it gets the interpreter lock; the next one that comes, which may be the old owner, has to
sleep in its turn. Once two threads are in that step, each use of the lock costs a switch between
them, some 20 µs, and it does not end by itself. Here nobody sleeps for the lock: who finds it taken
gives the interpreter up to its owner, which then goes on for a whole switch interval.
"""

from __future__ import annotations

import threading
from time import sleep


class YieldingLock:
    """Not reentrant; a `with` block that it guards must not block. On the hottest paths, `take` and
    `release` come without the two calls of a `with`:

        if not lock.take(False):
            lock.wait()
        try: ...
        finally:
            lock.release()
    """

    __slots__ = ("release", "take")

    def __init__(self) -> None:
        lock = threading.Lock()
        self.take = lock.acquire
        self.release = lock.release

    def wait(self) -> None:
        """Take it as soon as it is free."""
        while not self.take(False):
            sleep(0)

    def __enter__(self) -> None:
        if not self.take(False):
            self.wait()

    def __exit__(self, *_: object) -> None:
        self.release()
