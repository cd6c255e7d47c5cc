"""Submitted subflows: each runs on a thread of its own, since it mostly waits for its tasks."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Any

from anabranch.engine.engine import Engine
from anabranch.execution.calls import Call
from anabranch.execution.run import run_call
from anabranch.task_runners.base import Capabilities, OpenRunner, OpenRunnerBase


class SubflowRunner(OpenRunnerBase):
    """Carries one submitted subflow; its end is asked for by ending its task runs."""

    capabilities = Capabilities(
        name="subflows", priority=False, stops_sync=False, stops_async=False, parallel=False
    )

    def __init__(self, engine: Engine, carries: OpenRunner | None) -> None:
        """`carries` is the parent's runner where the subflow's tasks go to that one."""
        self._engine = engine
        self._carries = carries
        self._running: list[tuple[int, int]] = []

    def launch(self, calls: Sequence[Call]) -> None:
        for call in calls:
            name = f"anabranch-subflow-{call.run_name}"
            threading.Thread(target=self._run, args=(call,), name=name, daemon=True).start()

    def _run(self, call: Call) -> None:
        place = (call.key, call.attempt)
        self._running.append(place)
        outcome = run_call(call)
        self._running.remove(place)
        self._engine.finished((outcome,))

    def cancel(self, keys: Iterable[int]) -> None:
        for key in keys:
            self._engine.cancel_below(key)

    def runs_on(self, loop: Any) -> bool:
        return self._carries is not None and self._carries.runs_on(loop)

    def running(self) -> Iterable[tuple[int, int]]:
        return list(self._running)
