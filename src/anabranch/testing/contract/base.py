"""What the rooms of the contract stand on: which runner is tested, and what it says it can do."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, ClassVar

import pytest

from anabranch import flow
from anabranch.context import current_context
from anabranch.task_runners.base import Capabilities
from anabranch.testing.contract.tasks import close_gates, open_gates


def in_flow(runner: Any, body: Any, **options: Any) -> Any:
    """Run `body` as a flow on this runner."""
    return flow(task_runner=runner, name=body.__name__, **options)(body)()


class ContractTests:
    """Tests over `runner`, which is anything that `@flow(task_runner=...)` takes.

    The other attributes say what `Capabilities` do not. Where they are None, the tests that need
    them are skipped.
    """

    runner: ClassVar[Any]
    one_worker: ClassVar[Any] = None
    """The same runner, with room for a single call at a time."""
    two_gpus: ClassVar[Any] = None
    """The same runner, with room for several calls and `resources={"gpu": 2}`."""
    beside_the_flow: ClassVar[bool] = True
    """Whether calls run while the flow's function goes on."""
    replaces_workers: ClassVar[bool] = True
    """Whether there is a new worker process for one that was killed."""

    @pytest.fixture(autouse=True)
    def gates(self) -> Generator[None]:
        """Close the gates before each test; let go what still waits after it."""
        close_gates()
        yield
        open_gates()

    def in_flow(self, body: Any, **options: Any) -> Any:
        """Run `body` as a flow on the runner."""
        return in_flow(self.runner, body, **options)

    def capabilities(self) -> Capabilities:
        """What the runner says it can do, once it is open."""

        def body() -> Capabilities:
            return current_context().open_flow.runner.capabilities

        return self.in_flow(body)

    def needed(self, name: str) -> Any:
        """This attribute; the test is skipped where the runner has none."""
        value = getattr(self, name)
        if value is None:
            pytest.skip(f"{type(self).__name__} sets no {name}")
        return value

    def needs_work_beside_the_flow(self) -> None:
        if not self.beside_the_flow:
            pytest.skip("calls run only while the flow waits")

    def needs_one_process(self) -> None:
        """For tests whose tasks meet the flow in memory."""
        if self.capabilities().remote:
            pytest.skip("calls run in other processes")
