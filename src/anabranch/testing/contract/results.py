"""Results: what submit, map and direct calls give back, for every kind of function."""

from __future__ import annotations

import asyncio
from typing import Any

from anabranch import flow
from anabranch.futures import FutureList, TaskFuture
from anabranch.testing.contract.base import ContractTests
from anabranch.testing.contract.tasks import add, inc, inc_async, kind_of, three, three_async


class Results(ContractTests):
    def test_submit_gives_a_future_with_the_result(self) -> None:
        def body() -> list[Any]:
            future: Any = inc.submit(1)
            assert type(future).__name__ == TaskFuture.__name__
            return [future.result(), future.done(), future.state.name, future.exception()]

        assert self.in_flow(body) == [2, True, "Completed", None]

    def test_submit_takes_keywords_and_defaults(self) -> None:
        def body() -> list[int]:
            return [
                add.submit(1).result(),
                add.submit(1, y=2).result(),
                add.submit(x=3, y=4).result(),
            ]

        assert self.in_flow(body) == [11, 3, 7]

    def test_direct_call_gives_the_value(self) -> None:
        def body() -> list[Any]:
            state = inc(2, return_state=True)
            return [inc(1), state.name, state.result()]

        assert self.in_flow(body) == [2, "Completed", 3]

    def test_map_keeps_the_order(self) -> None:
        def body() -> list[int]:
            futures: Any = inc.map(range(20))
            assert type(futures).__name__ == FutureList.__name__
            assert len(futures) == 20
            assert futures[3].result() == 4
            assert futures[1:3].result() == [2, 3]
            return futures.result()

        assert self.in_flow(body) == list(range(1, 21))

    def test_map_of_several_arguments(self) -> None:
        def body() -> list[Any]:
            return [
                add.map([1, 2], [10, 20]).result(),
                add.map([1, 2], 5).result(),
                add.map([1, 2], y=[7, 8]).result(),
                add.map([1, 2]).result(),
                add.map(x=(n for n in (1, 2)), y=1).result(),
                add.map({3}, y=1).result(),
            ]

        assert self.in_flow(body) == [[11, 22], [6, 7], [8, 10], [11, 12], [2, 3], [4]]

    def test_text_and_mappings_are_not_mapped_over(self) -> None:
        def body() -> list[Any]:
            return add.map(["a", "b"], "xyz").result() + kind_of.map([{"k": 1}, {"k": 2}]).result()

        assert self.in_flow(body) == ["axyz", "bxyz", "dict", "dict"]

    def test_async_tasks(self) -> None:
        def body() -> list[Any]:
            return [inc_async.submit(1).result(), inc_async.map([1, 2, 3]).result()]

        assert self.in_flow(body) == [2, [2, 3, 4]]

    def test_generators_submitted_give_lists(self) -> None:
        def body() -> list[Any]:
            return [
                three.submit(1).result(),
                three_async.submit(1).result(),
                three.map([0, 10]).result(),
            ]

        assert self.in_flow(body) == [[1, 2, 3], [1, 2, 3], [[0, 1, 2], [10, 11, 12]]]

    def test_tasks_from_an_async_flow(self) -> None:
        @flow(task_runner=self.runner)
        async def census() -> list[Any]:
            first = inc_async.submit(1)
            second = inc.submit(first)
            mapped = inc_async.map([1, 2])
            return [await first, await second, await mapped, await inc_async(5)]

        assert asyncio.run(census()) == [2, 3, [2, 3], 6]
