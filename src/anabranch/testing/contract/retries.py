"""Retries: how many, how late, and who may say no."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from anabranch.testing.contract.base import ContractTests, in_flow
from anabranch.testing.contract.tasks import (
    FOREVER,
    Broken,
    fails_until,
    fails_until_async,
    inc,
    notes,
)


class Retries(ContractTests):
    def test_retries_until_it_works(self, tmp_path: Path) -> None:
        path = tmp_path / "attempts"
        patient = fails_until.with_options(retries=3)

        def body() -> list[Any]:
            future = patient.submit(path, 3)
            return [future.result(), future.state.name, future.task_run.run_count]

        assert self.in_flow(body) == [3, "Completed", 3]
        assert len(notes(path)) == 3

    def test_retries_used_up(self, tmp_path: Path) -> None:
        path = tmp_path / "attempts"
        patient = fails_until.with_options(retries=2, retry_delay_seconds=[0, 0.01])

        def body() -> None:
            with pytest.raises(Broken, match="attempt 3"):
                patient.submit(path, 99).result()

        self.in_flow(body)
        assert len(notes(path)) == 3

    def test_retries_of_async_tasks(self, tmp_path: Path) -> None:
        path = tmp_path / "attempts"
        patient = fails_until_async.with_options(retries=3, retry_delay_seconds=0.01)

        def body() -> int:
            return patient.submit(path, 3).result()

        assert self.in_flow(body) == 3

    def test_retries_of_a_direct_call(self, tmp_path: Path) -> None:
        path = tmp_path / "attempts"
        patient = fails_until.with_options(retries=3, retry_delay_seconds=0.01)

        def body() -> int:
            return patient(path, 3)

        assert self.in_flow(body) == 3

    def test_retry_delay_is_kept(self, tmp_path: Path) -> None:
        patient = fails_until.with_options(retries=1, retry_delay_seconds=0.15)

        def body() -> float:
            began = time.monotonic()
            patient.submit(tmp_path / "attempts", 2).result()
            return time.monotonic() - began

        assert self.in_flow(body) >= 0.15

    def test_waiting_retry_holds_no_worker(self, tmp_path: Path) -> None:
        impatient = fails_until.with_options(retries=1, retry_delay_seconds=FOREVER)

        def body() -> int:
            future = impatient.submit(tmp_path / "attempts", 99)
            result = inc.submit(1).result(timeout=30)
            future.cancel()
            return result

        assert in_flow(self.needed("one_worker"), body) == 2

    def test_retry_condition_says_no(self, tmp_path: Path) -> None:
        path = tmp_path / "attempts"
        asked: list[tuple[str, str, str]] = []

        def condition(its_task: Any, run: Any, state: Any) -> bool:
            asked.append((its_task.name, run.task_name, state.name))
            return "attempt 1" in state.message

        choosy = fails_until.with_options(retries=5, retry_condition_fn=condition)

        def body() -> None:
            with pytest.raises(Broken, match="attempt 2"):
                choosy.submit(path, 99).result()

        self.in_flow(body)
        assert len(notes(path)) == 2
        assert asked == [("fails_until", "fails_until", "Failed")] * 2

    def test_retry_condition_that_raises_means_no(self, tmp_path: Path) -> None:
        path = tmp_path / "attempts"

        def condition(its_task: Any, run: Any, state: Any) -> bool:
            raise ValueError("I cannot say")

        choosy = fails_until.with_options(retries=5, retry_condition_fn=condition)

        def body() -> None:
            with pytest.raises(Broken, match="attempt 1"):
                choosy.submit(path, 99).result()

        self.in_flow(body)
        assert len(notes(path)) == 1
