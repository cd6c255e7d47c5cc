"""What Ray's tasks return, brought here: one by one as they come while few are out, else in bulk.

A callback of Ray's is prompt, and takes a fifth of the time of a whole task; asking for many at once
is cheap, and some milliseconds late.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Any

import ray as typed_ray

FEW = 100
OLDEST = 300
OTHERS = 100
"""So many are looked at each time: of the oldest, and of the others in turn."""
SLICE_SECONDS = 0.02
"""What has come in such a time is taken at once."""

ray: Any = typed_ray  # its own types are partly unknown

Returned = tuple[Any, Any, BaseException | None]
"""What was to be told with it, and what a task returned or raised."""
Take = Callable[[Sequence[Returned]], None]
"""Gets those that have come; may not raise itself."""


class Returns:
    """Collects until it is closed."""

    def __init__(self, take: Take) -> None:
        self._take = take
        self._prompt = 0
        self._out: dict[Any, Any] = {}
        self._changing = threading.Lock()
        self._some = threading.Event()
        self._closing = False
        self._turn = 0
        threading.Thread(target=self._collect, name="anabranch-ray-returns", daemon=True).start()

    def expect(self, reference: Any, with_it: Any) -> None:
        """Have what this task returns brought here."""
        with self._changing:
            promptly = self._prompt + len(self._out) < FEW
            if promptly:
                self._prompt += 1
            else:
                self._out[reference] = with_it
        if promptly:
            reference.future().add_done_callback(partial(self._came, with_it))
        elif not self._some.is_set():
            self._some.set()

    def close(self) -> None:
        """Collect no more."""
        self._closing = True
        self._some.set()

    def _came(self, with_it: Any, future: Any) -> None:
        with self._changing:
            self._prompt -= 1
        error = future.exception()
        self._take([(with_it, None if error else future.result(), error)])

    def _collect(self) -> None:
        while not self._closing:
            self._some.wait()
            window = self._window()
            if not window:
                continue
            try:
                ready, _ = ray.wait(
                    window, num_returns=len(window), timeout=SLICE_SECONDS, fetch_local=False
                )
                if ready:
                    self._bring(ready)
            except Exception:  # Ray is gone: who is asked for it says so
                return

    def _window(self) -> list[Any]:
        with self._changing:
            window = list(islice(self._out, OLDEST))
            left = len(self._out) - len(window)
            if left:
                self._turn = (self._turn + OTHERS) % left
                first = OLDEST + self._turn
                window += islice(self._out, first, first + OTHERS)
            elif not window:
                self._some.clear()
        return window

    def _bring(self, ready: list[Any]) -> None:
        with self._changing:
            with_them = [self._out.pop(each) for each in ready]
        try:
            returned: list[tuple[Any, BaseException | None]] = [
                (each, None) for each in ray.get(ready)
            ]
        except Exception:  # that of one of them
            returned = [_got(each) for each in ready]
        self._take([(it, *each) for it, each in zip(with_them, returned, strict=True)])


def _got(reference: Any) -> tuple[Any, BaseException | None]:
    try:
        return ray.get(reference), None
    except Exception as error:
        return None, error
