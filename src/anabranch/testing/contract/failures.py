"""Failures: whose exception is raised, what depends on it, and what a worker survives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from anabranch import CrashedRun, UpstreamTaskError
from anabranch.testing.contract.base import ContractTests
from anabranch.testing.contract.tasks import (
    Broken,
    broken,
    broken_if,
    exits,
    inc,
    interrupts,
    noted,
    notes,
    recurses,
)


class Failures(ContractTests):
    def test_failure_raises_the_tasks_own_exception(self) -> None:
        def body() -> list[Any]:
            future = broken.submit("what went wrong")
            with pytest.raises(Broken, match="what went wrong"):
                future.result()
            error = future.result(raise_on_failure=False)
            assert isinstance(error, Broken)
            assert isinstance(future.exception(), Broken)
            state = future.state
            assert state.is_failed() and "what went wrong" in str(state.message)
            with pytest.raises(Broken):
                state.result()
            return [state.type.value, state.name, state.is_final()]

        assert self.in_flow(body) == ["FAILED", "Failed", True]

    def test_traceback_starts_in_the_users_function(self) -> None:
        def body() -> str:
            error = broken.submit().exception()
            assert error is not None
            told = error.__traceback__
            names: list[str] = []
            while told is not None:
                names.append(told.tb_frame.f_code.co_name)
                told = told.tb_next
            return names[0]

        assert self.in_flow(body) == "broken"

    def test_dependents_of_a_failure_are_not_ready(self, tmp_path: Path) -> None:
        path = tmp_path / "ran"

        def body() -> list[Any]:
            failed = broken.submit()
            dependent = noted.submit(path, "ran", after=failed)
            further = noted.submit(path, "ran", after=[dependent])
            with pytest.raises(
                UpstreamTaskError, match="'broken-0', which ended as Failed"
            ) as caught:
                dependent.result()
            assert isinstance(caught.value.__cause__, Broken)
            with pytest.raises(UpstreamTaskError, match="NotReady"):
                further.result()
            state = dependent.state
            return [
                dependent.done(),
                state.type.value,
                state.name,
                state.is_final(),
                further.done(),
            ]

        assert self.in_flow(body) == [True, "PENDING", "NotReady", False, True]
        assert notes(path) == []

    def test_map_with_failures_says_which(self) -> None:
        def body() -> list[Any]:
            futures = broken_if.map(range(4), bad=1)
            results = futures.result(raise_on_failure=False)
            with pytest.raises(Broken, match="1 is bad"):
                futures.result()
            return [type(each).__name__ for each in results]

        assert self.in_flow(body) == ["int", "Broken", "int", "int"]

    def test_system_exit_in_a_task_is_a_crash(self) -> None:
        def body() -> list[Any]:
            future = exits.submit()
            future.wait()
            assert isinstance(future.exception(), SystemExit | CrashedRun)
            assert inc.submit(1).result() == 2  # the worker lives on
            return [future.state.type.value, "SystemExit" in str(future.state.message)]

        assert self.in_flow(body) == ["CRASHED", True]

    def test_bare_base_exception_in_a_task(self) -> None:
        def body() -> str:
            future = interrupts.submit()
            future.wait()
            assert inc.submit(1).result() == 2
            return future.state.type.value

        assert self.in_flow(body) in ("CRASHED", "FAILED")

    def test_unbounded_recursion_in_a_task(self) -> None:
        def body() -> str:
            future = recurses.submit()
            assert isinstance(future.exception(), RecursionError)
            return future.state.name

        assert self.in_flow(body) == "Failed"
