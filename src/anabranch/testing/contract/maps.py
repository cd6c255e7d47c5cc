"""Maps over futures: child by child, or once the items are known."""

from __future__ import annotations

from typing import Any

import pytest

from anabranch import UpstreamTaskError
from anabranch.testing.contract.base import ContractTests
from anabranch.testing.contract.tasks import (
    Broken,
    broken,
    broken_if,
    inc,
    numbers,
    open_gates,
    settled,
    total,
    waits_at_gate,
)


class Maps(ContractTests):
    def test_map_over_futures_links_child_by_child(self) -> None:
        def body() -> list[Any]:
            first = broken_if.map(range(4), bad=2)
            second = inc.map(first)
            return [state.name for state in settled(second)]

        assert self.in_flow(body) == ["Completed", "Completed", "NotReady", "Completed"]

    def test_map_over_a_single_future_is_deferred(self) -> None:
        def body() -> list[Any]:
            futures = inc.map(numbers.submit(4))
            return [futures.result(), len(futures), [f.result() for f in futures]]

        assert self.in_flow(body) == [[1, 2, 3, 4], 4, [1, 2, 3, 4]]

    def test_map_over_a_future_does_not_block(self) -> None:
        self.needs_work_beside_the_flow()
        self.needs_one_process()

        def body() -> list[int]:
            gated = waits_at_gate.submit()
            futures = inc.map(numbers.submit(3, wait_for=[gated]))
            assert not futures.is_known()
            assert not futures.done()
            open_gates()
            return futures.result()

        assert self.in_flow(body) == [1, 2, 3]

    def test_map_over_a_map_over_a_future(self) -> None:
        def body() -> list[Any]:
            first = inc.map(numbers.submit(3))
            second = inc.map(first)
            return [second.result(), total.submit(second).result()]

        assert self.in_flow(body) == [[2, 3, 4], 9]

    def test_map_over_a_failed_future(self) -> None:
        def body() -> str:
            futures = inc.map(broken.submit())
            with pytest.raises((Broken, UpstreamTaskError)) as caught:
                futures.result()
            return type(caught.value).__name__

        assert self.in_flow(body) in ("UpstreamTaskError", "Broken")

    def test_map_over_a_future_of_something_else_names_the_trouble(self) -> None:
        def body() -> None:
            with pytest.raises(
                ValueError, match=r"inc\.map\(\) found nothing to map over \(x: int\)"
            ):
                inc.map(inc.submit(1)).result()

        self.in_flow(body)

    def test_empty_map(self) -> None:
        def body() -> list[Any]:
            futures = inc.map([])
            assert futures.done()
            return [
                len(futures),
                futures.result(),
                futures.states(),
                inc.map(numbers.submit(0)).result(),
            ]

        assert self.in_flow(body) == [0, [], [], []]
