"""Flows that call flows."""

from __future__ import annotations

from typing import Any

from anabranch import flow
from anabranch.context import current_context
from anabranch.testing.contract.base import ContractTests
from anabranch.testing.contract.tasks import inc, large, length_of, total


def runner_at_work() -> Any:
    """The open runner of the calling flow."""
    return current_context().open_flow.runner


class Subflows(ContractTests):
    def test_a_subflow_uses_its_parents_runner(self) -> None:
        @flow
        def below(count: int) -> tuple[int, Any]:
            return sum(inc.map(range(count)).result()), runner_at_work()

        def body() -> list[Any]:
            summed, runner = below(10)
            return [summed, runner is runner_at_work()]

        assert self.in_flow(body) == [55, True]

    def test_a_subflow_with_a_runner_of_its_own(self) -> None:
        @flow(task_runner=self.runner)
        def below(value: int) -> list[Any]:
            return [inc.submit(value).result(), runner_at_work()]

        def body() -> list[Any]:
            first = inc.submit(1).result()
            value, runner = below(first)
            return [value, inc.submit(value).result(), runner is runner_at_work()]

        assert self.in_flow(body) == [3, 4, False]

    def test_results_go_from_flow_to_subflow_and_back(self) -> None:
        @flow
        def below(lengths: Any, value: bytes) -> Any:
            return [total.submit(lengths).result(), length_of.submit(value), large.submit(300_000)]

        def body() -> list[Any]:
            made = large.map([100_000, 200_000])
            summed, length, longest = below(length_of.map(made).result(), made[0].result())
            return [summed, length, length_of.submit(longest).result()]

        assert self.in_flow(body) == [300_000, 100_000, 300_000]
