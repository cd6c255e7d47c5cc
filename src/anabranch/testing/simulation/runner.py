"""The task runner of a simulated world: calls run on the thread of whoever waits."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from anabranch.execution.calls import Call
from anabranch.futures import TaskFuture
from anabranch.task_runners.base import Capabilities, Inbox, OpenRunnerBase, TaskRunner
from anabranch.testing.simulation.world import World
from anabranch.waiting import Waiter


class SimulatedTaskRunner(TaskRunner):
    """Runs calls in an order, with losses and delays, that its world draws from a seed."""

    scheme: ClassVar[str] = "simulated"

    def __init__(self, world: World) -> None:
        self._world = world

    @contextmanager
    def open(self, inbox: Inbox, loop: Any) -> Generator[OpenSimulation]:
        yield OpenSimulation(self._world, inbox)


class OpenSimulation(OpenRunnerBase):
    """One of possibly several in the same world: whoever waits, all of it turns."""

    capabilities = Capabilities(
        name="simulated",
        priority=True,
        stops_sync=True,
        stops_async=True,
        parallel=False,
        resources={"slot": 2},
    )

    def __init__(self, world: World, inbox: Inbox) -> None:
        self._world = world
        self._inbox = inbox

    def launch(self, calls: Sequence[Call]) -> None:
        self._world.launch(self._inbox, calls)

    def cancel(self, keys: Iterable[int]) -> None:
        self._world.cancel(keys)

    def wait(
        self, waiter: Waiter, futures: Sequence[TaskFuture[Any]], timeout: float | None
    ) -> bool:
        return self._world.wait(waiter, timeout)

    def running(self) -> Iterable[tuple[int, int]]:
        world = self._world
        return [*world.on_stack, *world.delayed, *world.ready, *world.hung]
