"""Cancellation: of what runs, of what is queued, of what waits to be tried again."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from anabranch import CancelledRun, UpstreamTaskError, task
from anabranch.testing.contract.base import ContractTests, in_flow
from anabranch.testing.contract.tasks import (
    FOREVER,
    endless,
    fails_until,
    inc,
    open_gates,
    settled,
    waits_at_gate,
)


class Cancellation(ContractTests):
    def test_cancel_of_a_waiting_retry(self, tmp_path: Path) -> None:
        impatient = fails_until.with_options(retries=1, retry_delay_seconds=FOREVER)

        def body() -> list[Any]:
            future = impatient.submit(tmp_path / "attempts", 99)
            dependent = inc.submit(future)
            assert future.cancel()
            with pytest.raises(CancelledRun, match="fails_until-0"):
                future.result(timeout=30)
            with pytest.raises(UpstreamTaskError, match="Cancelled"):
                dependent.result(timeout=30)
            return [future.state.name, future.cancelled(), dependent.state.name, future.cancel()]

        assert self.in_flow(body) == ["Cancelled", True, "NotReady", False]

    def test_cancel_of_a_running_async_task(self) -> None:
        self.needs_work_beside_the_flow()
        if not self.capabilities().stops_async:
            pytest.skip(f"{self.capabilities().name} cannot end an async function")

        def body() -> list[Any]:
            future = endless.submit()
            assert future.cancel()
            future.wait(30)
            return [future.state.name, future.cancelled()]

        assert self.in_flow(body) == ["Cancelled", True]

    def test_cancel_of_a_running_thread(self) -> None:
        self.needs_work_beside_the_flow()
        self.needs_one_process()
        if self.capabilities().stops_sync:
            pytest.skip(f"{self.capabilities().name} ends a sync function")

        began = threading.Event()
        gate = threading.Event()

        @task
        def work() -> str:
            began.set()
            gate.wait(30)
            return "dropped"

        def body() -> list[Any]:
            future = work.submit()
            assert began.wait(30)
            assert future.state.name == "Running"
            assert future.cancel()
            told = [future.state.name]
            gate.set()
            with pytest.raises(CancelledRun):
                future.result(timeout=30)
            return [*told, future.state.name]

        assert self.in_flow(body) == ["Cancelling", "Cancelled"]

    def test_cancel_of_a_queued_call(self) -> None:
        self.needs_work_beside_the_flow()
        self.needs_one_process()

        def body() -> list[Any]:
            first = waits_at_gate.submit()
            queued = inc.map(range(5))
            count = queued.cancel()
            states = [state.name for state in settled(queued)]
            open_gates()
            return [count, set(states), first.result()]

        assert in_flow(self.needed("one_worker"), body) == [5, {"Cancelled"}, "through"]
