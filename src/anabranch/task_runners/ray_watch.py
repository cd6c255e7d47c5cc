"""Whether Ray is still there, and whether it has what calls ask for."""

from __future__ import annotations

import threading
from collections.abc import Collection
from time import monotonic

from anabranch.errors import ClusterConnectionError
from anabranch.task_runners.ray_addresses import reach
from anabranch.task_runners.ray_connection import Connection
from anabranch.task_runners.ray_seats import Asks
from anabranch.task_runners.reminders import Reminders

LOOK_SECONDS = 1.0
GONE_SECONDS = 4.0
"""A head that nobody answers at for so long is gone; Ray would end this process after 60 s."""


class Watch:
    """Looks until it is closed. `gone` says why nothing can be asked of Ray any more, `totals` are the
    amounts of all nodes together."""

    def __init__(self, connection: Connection) -> None:
        self.gone: BaseException | None = None
        self.totals: dict[str, float] = dict(connection.ray.cluster_resources())
        self._connection = connection
        self._reminders = Reminders()
        self._waiting: dict[str, tuple[str, Asks]] = {}  # by task: a call's name, what it asks
        self._closing = threading.Event()
        threading.Thread(target=self._look, name="anabranch-ray-watch", daemon=True).start()

    def waits(self, task: str, call: str, asks: Asks) -> None:
        """A call of this task waits for resources."""
        self._waiting.setdefault(task, (call, asks))

    def wait_only(self, tasks: Collection[str]) -> None:
        """No calls wait but those of these tasks."""
        for task in [task for task in self._waiting if task not in tasks]:
            del self._waiting[task]
            self._reminders.settle(task)

    def lose(self, problem: str) -> None:
        """Nothing can be asked of Ray any more."""
        way_out = "What completed is recorded: once it is back, resume the run."
        self.gone = ClusterConnectionError("Ray", self._connection.address, problem, way_out)

    def close(self) -> None:
        """Look no more."""
        self._closing.set()

    def _look(self) -> None:
        missed: float | None = None
        while not self._closing.wait(LOOK_SECONDS):
            try:
                for where in self._connection.places:
                    reach(where, LOOK_SECONDS)
            except OSError as error:
                missed = missed or monotonic()
                if monotonic() - missed >= GONE_SECONDS:
                    self.lose(f"its head is gone ({error})")
                    return
            else:
                missed = None
                self.totals = dict(self._connection.ray.cluster_resources())
                if self._waiting:
                    self._say_what_is_missing()

    def _say_what_is_missing(self) -> None:
        names = sorted(name for name in self.totals if ":" not in name)  # the others are Ray's own
        has = ", ".join(f"{name} {self.totals[name]:g}" for name in names)
        for task, (call, asks) in list(self._waiting.items()):
            short = {name: amount for name, amount in asks if self.totals.get(name, 0) < amount}
            if short:
                told = f"{call} waits for resources {short}, which Ray does not have"
                self._reminders.say(task, f"{told}; in all it has: {has}")
