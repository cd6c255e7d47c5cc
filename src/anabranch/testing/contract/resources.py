"""Priority and counted resources: kept, or refused before anything runs."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from anabranch import task
from anabranch.errors import UnsupportedOptionError
from anabranch.testing.contract.base import ContractTests, in_flow
from anabranch.testing.contract.tasks import inc


class Resources(ContractTests):
    def test_priority_is_taken_or_refused(self) -> None:
        urgent = inc.with_options(priority=5)
        can = self.capabilities()

        def body() -> Any:
            if can.priority:
                return urgent.submit(1).result()
            with pytest.raises(
                UnsupportedOptionError,
                match=f"'inc' asks for priority=5.*{can.name}",
            ):
                urgent.submit(1)
            with pytest.raises(UnsupportedOptionError):
                urgent.map([1, 2])
            return 2

        assert self.in_flow(body) == 2

    def test_resources_that_the_runner_does_not_have(self) -> None:
        heavy = inc.with_options(resources={"gpu": 1})
        name = self.capabilities().name
        if self.capabilities().resources is None:
            pytest.skip("an engine counts them, and may come to have them")

        def body() -> None:
            with pytest.raises(UnsupportedOptionError, match="1 of resource 'gpu'.*" + name):
                heavy.submit(1)

        self.in_flow(body)

    def test_counted_resources_are_a_limit(self) -> None:
        self.needs_one_process()
        two_gpus = self.needed("two_gpus")
        at_once, most = [0], [0]
        lock = threading.Lock()
        # Two meet at the barrier, so two do run side by side; a third would be counted.
        barrier = threading.Barrier(2)

        @task(resources={"gpu": 1})
        def on_gpu(n: int) -> int:
            with lock:
                at_once[0] += 1
                most[0] = max(most[0], at_once[0])
            barrier.wait(30)
            with lock:
                at_once[0] -= 1
            return n

        def body() -> list[int]:
            return on_gpu.map(range(10)).result()

        assert in_flow(two_gpus, body) == list(range(10))
        assert most[0] == 2

    def test_higher_priority_goes_first(self) -> None:
        self.needs_one_process()
        if not self.capabilities().priority:
            pytest.skip(f"{self.capabilities().name} has no priorities")
        one_worker = self.needed("one_worker")
        order: list[str] = []
        began = threading.Event()
        gate = threading.Event()

        @task
        def holds() -> None:
            began.set()
            gate.wait(30)

        @task
        def step(name: str) -> None:
            order.append(name)

        urgent = step.with_options(priority=3)

        def body() -> None:
            holds.submit()
            assert began.wait(30)
            step.submit("first plain")
            step.submit("second plain")
            urgent.submit("urgent")
            gate.set()

        in_flow(one_worker, body)
        assert order == ["urgent", "first plain", "second plain"]
