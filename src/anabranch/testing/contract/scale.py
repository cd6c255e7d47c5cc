"""Many runs, long chains, deep nesting."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from anabranch import as_completed, flow, unmapped
from anabranch.testing.contract.base import ContractTests
from anabranch.testing.contract.tasks import (
    after,
    inc,
    inc_async,
    maps_inside,
    nested,
    noted,
    notes,
    open_gates,
    total,
    waits_then_breaks,
)


class Scale(ContractTests):
    def test_map_of_a_thousand(self) -> None:
        def body() -> int:
            return sum(inc.map(range(1_000)).result())

        assert self.in_flow(body) == sum(range(1, 1_001))

    def test_async_map_of_a_thousand(self) -> None:
        def body() -> int:
            return sum(inc_async.map(range(1_000)).result())

        assert self.in_flow(body) == sum(range(1, 1_001))

    def test_chain_of_two_thousand(self) -> None:
        def body() -> int:
            future: Any = 0
            for _ in range(2_000):
                future = inc.submit(future)
            return future.result()

        assert self.in_flow(body) == 2_000

    def test_failure_at_the_head_of_a_long_chain(self) -> None:
        self.needs_work_beside_the_flow()
        self.needs_one_process()

        def body() -> str:
            future: Any = waits_then_breaks.submit()
            for _ in range(2_000):
                future = inc.submit(future)
            open_gates()
            future.wait()
            return future.state.name

        assert self.in_flow(body) == "NotReady"

    def test_fan_in_of_two_hundred(self, tmp_path: Path) -> None:
        path = tmp_path / "ran"

        def body() -> list[Any]:
            many = [noted.submit(path, str(n)) for n in range(200)]
            return [
                after.submit(path, wait_for=many).result(),
                total.submit(inc.map(range(200))).result(),
            ]

        assert self.in_flow(body) == [200, sum(range(1, 201))]

    def test_nested_submits_thirty_deep(self) -> None:
        def body() -> int:
            return nested.submit(30).result()

        assert self.in_flow(body) == 30

    def test_maps_inside_of_mapped_tasks(self) -> None:
        def body() -> list[int]:
            return maps_inside.map([3] * 8).result()

        assert self.in_flow(body) == [6] * 8

    def test_as_completed_gives_all(self) -> None:
        def body() -> list[int]:
            return sorted(future.result() for future in as_completed(inc.map(range(10))))

        assert self.in_flow(body) == list(range(1, 11))

    def test_async_as_completed_gives_all(self) -> None:
        @flow(task_runner=self.runner)
        async def census() -> list[int]:
            return sorted([await future async for future in as_completed(inc_async.map(range(10)))])

        assert asyncio.run(census()) == list(range(1, 11))

    def test_children_are_joined_before_the_flow_ends(self, tmp_path: Path) -> None:
        path = tmp_path / "ran"

        def body() -> str:
            noted.map(unmapped(path), [str(n) for n in range(20)])
            return "done"

        assert self.in_flow(body) == "done"
        assert len(notes(path)) == 20
