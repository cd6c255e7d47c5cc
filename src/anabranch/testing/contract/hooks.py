"""Hooks and done-callbacks: called once each, and harmless when they raise."""

from __future__ import annotations

from typing import Any

import pytest

from anabranch.futures import TaskFuture
from anabranch.testing.contract.base import ContractTests
from anabranch.testing.contract.tasks import broken_if, inc


class Hooks(ContractTests):
    def test_hooks_are_called(self) -> None:
        told: list[tuple[str, str, str, str]] = []

        def hook(what: str) -> Any:
            def note_it(its_task: Any, run: Any, state: Any) -> None:
                told.append((what, its_task.name, run.name, state.name))

            return note_it

        hooked = broken_if.with_options(
            on_running=[hook("running")],
            on_completion=[hook("completion"), hook("again")],
            on_failure=[hook("failure")],
        )

        def body() -> None:
            hooked.submit(1, 1).wait()
            hooked.submit(0, 1).wait()

        self.in_flow(body)
        name = "broken_if"
        assert sorted(told) == sorted(
            [
                ("running", name, "broken_if-0", "Running"),
                ("failure", name, "broken_if-0", "Failed"),
                ("running", name, "broken_if-1", "Running"),
                ("completion", name, "broken_if-1", "Completed"),
                ("again", name, "broken_if-1", "Completed"),
            ]
        )

    def test_hook_that_raises_changes_nothing(self, caplog: pytest.LogCaptureFixture) -> None:
        def bad_hook(its_task: Any, run: Any, state: Any) -> None:
            raise ValueError("a bad hook")

        hooked = inc.with_options(on_completion=[bad_hook])

        def body() -> int:
            return hooked.submit(1).result()

        assert self.in_flow(body) == 2
        assert "a bad hook" in caplog.text
        assert "on_completion hook of task 'inc'" in caplog.text

    def test_done_callbacks(self, caplog: pytest.LogCaptureFixture) -> None:
        told: list[str] = []

        def raising(future: TaskFuture[Any]) -> None:
            raise ValueError("a bad callback")

        def noting(future: TaskFuture[Any]) -> None:
            told.append(f"{future.name} {future.state.name}")

        def body() -> None:
            future = inc.submit(1)
            future.add_done_callback(raising)
            future.add_done_callback(noting)
            future.wait()

        self.in_flow(body)
        assert told == ["inc-0 Completed"]
        assert "a bad callback" in caplog.text
