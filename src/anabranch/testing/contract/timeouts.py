"""Timeouts: of a task's attempt, and of those who wait for it."""

from __future__ import annotations

from pathlib import Path
from time import sleep
from typing import Any

import pytest

from anabranch import task, wait
from anabranch.errors import RunTimedOut
from anabranch.testing.contract.base import ContractTests
from anabranch.testing.contract.tasks import (
    FOREVER,
    endless,
    fails_until,
    inc,
    open_gates,
    waits_at_gate,
)


class LoadsSlowly:
    """Takes its time wherever it is brought to."""

    def __setstate__(self, state: object) -> None:
        sleep(0.4)

    def __getstate__(self) -> str:
        return "anything but nothing"


class Timeouts(ContractTests):
    def test_timeout_of_an_async_task(self) -> None:
        hasty = endless.with_options(timeout_seconds=0.1)

        def body() -> list[Any]:
            future = hasty.submit()
            with pytest.raises(
                RunTimedOut, match=r"'endless-0' passed its timeout of 0\.1 seconds"
            ):
                future.result(timeout=30)
            open_gates()
            return [future.state.type.value, future.state.name]

        assert self.in_flow(body) == ["FAILED", "TimedOut"]

    def test_timeout_of_a_sync_task(self) -> None:
        hasty = waits_at_gate.with_options(timeout_seconds=0.1)

        def body() -> list[Any]:
            future = hasty.submit()
            assert isinstance(future.exception(timeout=30), RunTimedOut)
            told = [future.state.type.value, future.state.name]
            open_gates()
            return [*told, inc.submit(1).result()]

        assert self.in_flow(body) == ["FAILED", "TimedOut", 2]

    def test_timeout_is_tried_again(self) -> None:
        hasty = waits_at_gate.with_options(timeout_seconds=0.05, retries=1)

        def body() -> list[Any]:
            future = hasty.submit()
            assert isinstance(future.exception(timeout=30), RunTimedOut)
            open_gates()
            return [future.task_run.run_count]

        assert self.in_flow(body) == [2]

    def test_a_function_may_load_for_longer_than_its_timeout(self) -> None:
        weights = LoadsSlowly()

        @task(timeout_seconds=0.2)
        def uses() -> str:
            return type(weights).__name__

        assert self.in_flow(lambda: uses.submit().result(timeout=30)) == "LoadsSlowly"

    def test_result_of_what_goes_on_times_out(self, tmp_path: Path) -> None:
        impatient = fails_until.with_options(retries=1, retry_delay_seconds=FOREVER)

        def body() -> list[Any]:
            future = impatient.submit(tmp_path / "attempts", 99)
            with pytest.raises(
                TimeoutError, match=r"'fails_until-0' has not ended after 0\.05 seconds"
            ):
                future.result(timeout=0.05)
            told = [future.wait(0.01), future.done()]
            done, not_done = wait([future, inc.submit(1)], return_when="FIRST_COMPLETED")
            told += [len(done), len(not_done)]
            future.cancel()
            return told

        assert self.in_flow(body) == [False, False, 1, 1]
