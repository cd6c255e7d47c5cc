"""Futures as arguments: found wherever they stand, waited for, replaced by their values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anabranch import allow_failure, quote, unmapped
from anabranch.testing.contract.base import ContractTests
from anabranch.testing.contract.tasks import (
    Box,
    Model,
    Pair,
    broken,
    inc,
    kind_of,
    noted,
    noted_kind,
    notes,
    numbers,
    pair,
    same,
    total,
)


class Dependencies(ContractTests):
    def test_futures_nested_in_arguments(self) -> None:
        def body() -> list[Any]:
            one = inc.submit(0)
            return [
                same.submit([one, [one, (one,)]]).result(),
                same.submit({"a": one, "b": {"c": [one]}}).result(),
                same.submit({one: 1}).result(),
                same.submit({one}).result(),
                same.submit(value=[one]).result(),
                same.submit(Pair(one, 2)).result(),
                same.submit(Box([one])).result(),
                same.submit(Model(item=one)).result(),
                same.submit(Model(item={"deep": Box(Pair(one, one))})).result(),
            ]

        assert self.in_flow(body) == [
            [1, [1, (1,)]],
            {"a": 1, "b": {"c": [1]}},
            {1: 1},
            {1},
            [1],
            Pair(1, 2),
            Box([1]),
            Model(item=1),
            Model(item={"deep": Box(Pair(1, 1))}),
        ]

    def test_chain_of_futures(self) -> None:
        def body() -> int:
            return inc.submit(inc.submit(inc.submit(0))).result()

        assert self.in_flow(body) == 3

    def test_list_of_a_map_as_an_argument(self) -> None:
        def body() -> int:
            return total.submit(inc.map(range(5))).result()

        assert self.in_flow(body) == 15

    def test_futures_given_to_a_direct_call(self) -> None:
        def body() -> list[int]:
            return [inc(inc.submit(0)), total([inc.submit(0), inc.submit(1)])]

        assert self.in_flow(body) == [2, 3]

    def test_wait_for_orders_runs(self, tmp_path: Path) -> None:
        path = tmp_path / "order"

        def body() -> None:
            first = noted.submit(path, "first")
            second = noted.submit(path, "second", wait_for=[first])
            noted.submit(path, "third", wait_for=[first, second]).result()

        self.in_flow(body)
        assert notes(path) == ["first", "second", "third"]

    def test_wait_for_of_a_map(self, tmp_path: Path) -> None:
        path = tmp_path / "order"

        def body() -> None:
            first = noted.submit(path, "first")
            noted.map(unmapped(path), ["a", "b"], wait_for=[first]).wait()

        self.in_flow(body)
        assert notes(path)[0] == "first"
        assert sorted(notes(path)[1:]) == ["a", "b"]

    def test_wait_for_a_failure_stops_the_dependent(self, tmp_path: Path) -> None:
        path = tmp_path / "ran"

        def body() -> str:
            return noted.submit(path, "ran", wait_for=[broken.submit()], return_state=True).name

        assert self.in_flow(body) == "NotReady"
        assert notes(path) == []

    def test_unmapped(self) -> None:
        def body() -> list[Any]:
            return pair.map([1, 2], unmapped([8, 9])).result()

        assert self.in_flow(body) == [(1, [8, 9]), (2, [8, 9])]

    def test_unmapped_future(self) -> None:
        def body() -> list[Any]:
            return pair.map([1, 2], unmapped(numbers.submit(2))).result()

        assert self.in_flow(body) == [(1, [0, 1]), (2, [0, 1])]

    def test_allow_failure_hands_the_exception_over(self) -> None:
        def body() -> list[str]:
            failed = broken.submit()
            fine = inc.submit(1)
            return [
                kind_of.submit(allow_failure(failed)).result(),
                kind_of.submit(allow_failure(fine)).result(),
                kind_of.map(allow_failure([failed, fine])).result(),
                noted_kind.submit(wait_for=[allow_failure(failed)]).result(),
            ]

        assert self.in_flow(body) == ["Broken", "int", ["Broken", "int"], "ran"]

    def test_quote_is_not_searched(self) -> None:
        plain = [1, [2, {"three": 3}]]

        def body() -> Any:
            return same.submit(quote(plain)).result()

        assert self.in_flow(body) == plain

    def test_quoted_future_stays_a_future(self) -> None:
        self.needs_one_process()

        def body() -> str:
            return kind_of.submit(quote(inc.submit(1))).result()

        assert self.in_flow(body) == "TaskFuture"
