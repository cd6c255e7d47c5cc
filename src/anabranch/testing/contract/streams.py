"""Streams: items of a source that may have no end, few of them in memory."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from anabranch import allow_failure, flow
from anabranch.testing.contract.base import ContractTests
from anabranch.testing.contract.tasks import (
    Broken,
    add,
    broken_if,
    inc,
    inc_async,
    kind_of,
    streams_inside,
)


class Streams(ContractTests):
    def test_a_stream_gives_each_item_once(self) -> None:
        def body() -> list[int]:
            return [future.result() for future in inc.stream(n for n in range(300))]

        assert sorted(self.in_flow(body)) == list(range(1, 301))

    def test_an_ordered_stream(self) -> None:
        def body() -> list[int]:
            stream = add.stream(range(100), ordered=True, max_in_flight=7, y=1)
            return [future.result() for future in stream]

        assert self.in_flow(body) == list(range(1, 101))

    @pytest.mark.parametrize("most", [1, 2, 10])
    def test_few_items_are_taken_ahead(self, most: int) -> None:
        def body() -> list[int]:
            taken: list[int] = []

            def source() -> Iterator[int]:
                for n in range(40):
                    taken.append(n)
                    yield n

            stream = inc.stream(source(), max_in_flight=most)
            return [len(taken) - given for given, _ in enumerate(stream)]

        ahead = self.in_flow(body)
        assert len(ahead) == 40
        assert max(ahead) <= most

    def test_a_stream_without_end_that_is_left(self) -> None:
        def body() -> int:
            total = 0
            for future in inc.stream(itertools.count(), max_in_flight=20):
                total += future.result() > 0
                if total == 50:
                    break
            return total

        assert self.in_flow(body) == 50

    def test_a_stream_goes_on_past_failures(self) -> None:
        def body() -> list[str]:
            stream = broken_if.stream(range(10), ordered=True, bad=4)
            return [future.state.name for future in stream]

        names = self.in_flow(body)
        assert names == [*["Completed"] * 4, "Failed", *["Completed"] * 5]

    def test_a_source_that_raises(self) -> None:
        def source() -> Iterator[int]:
            yield from range(5)
            raise Broken("dry")

        def body() -> list[int]:
            found: list[int] = []
            with pytest.raises(Broken, match="dry"):
                for future in inc.stream(source()):
                    found.append(future.result())
            return sorted(found)

        assert self.in_flow(body) == [1, 2, 3, 4, 5]

    def test_a_stream_of_a_stream(self) -> None:
        def body() -> list[int]:
            first = inc.stream(range(60), max_in_flight=10)
            return [future.result() for future in inc.stream(first, max_in_flight=10)]

        assert sorted(self.in_flow(body)) == list(range(2, 62))

    def test_a_stream_of_failures_that_are_allowed(self) -> None:
        def body() -> list[Any]:
            first = broken_if.stream(range(3), bad=1, ordered=True)
            kinds = kind_of.stream((allow_failure(future) for future in first), ordered=True)
            return [future.result() for future in kinds]

        assert self.in_flow(body) == ["int", "Broken", "int"]

    def test_an_async_stream(self) -> None:
        async def source() -> AsyncIterator[int]:
            for n in range(50):
                yield n

        async def body() -> list[list[int]]:
            found = [future.result() async for future in inc.stream(range(50))]
            more = [f.result() async for f in inc_async.stream(source(), ordered=True)]
            return [sorted(found), more]

        import asyncio

        result: Any = asyncio.run(flow(task_runner=self.runner)(body)())
        assert result == [list(range(1, 51))] * 2

    def test_a_stream_inside_a_task(self) -> None:
        def body() -> list[int]:
            return streams_inside.map([10, 20]).result()

        assert self.in_flow(body) == [sum(range(1, 11)), sum(range(1, 21))]
