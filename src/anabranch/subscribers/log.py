"""Log lines about runs: what began, what failed and why, what was tried again, how it ended."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from anabranch.errors import CrashedRun
from anabranch.events import Event, FlowRunChanged, TaskRunChanged
from anabranch.outcomes import (
    CANCELLED,
    COMPLETED,
    CRASHED,
    FAILED,
    PHASE_STATES,
    RETRY_WAIT,
    TIMED_OUT,
)

logger = logging.getLogger("anabranch.runs")

FAILURES = frozenset({FAILED, TIMED_OUT, CRASHED})


def _crashed_of(event: TaskRunChanged) -> int | None:
    """What stands for the error that a run crashed of, which others may have crashed of too."""
    error = None if event.outcome is None else event.outcome.value
    if event.phase != CRASHED or not isinstance(error, CrashedRun) or error.__cause__ is None:
        return None
    return id(error.__cause__)


class LogSubscriber:
    """Writes a line for each change that someone should hear of, and one for all that crash at once
    of one cause; completions only at DEBUG."""

    submissions = False

    def __init__(self) -> None:
        detail = logger.isEnabledFor(logging.DEBUG)
        self.phases = FAILURES | {RETRY_WAIT} | ({COMPLETED, CANCELLED} if detail else set[int]())

    def receive(self, events: Sequence[Event]) -> None:
        together: dict[int, list[TaskRunChanged]] = {}
        for event in events:
            if isinstance(event, FlowRunChanged):
                self._flow_run(event)
            elif isinstance(event, TaskRunChanged):
                cause = _crashed_of(event)
                if cause is None or cause not in together:
                    self._task_run(event)
                if cause is not None:
                    together.setdefault(cause, []).append(event)
        for _, *others in together.values():
            if others:
                name = others[0].run.name
                named = name if len(others) == 1 else f"{name} and {len(others) - 1} others"
                about = {"run_label": named, "flow_run_id": others[0].run.task_run.flow_run_id}
                logger.error("%s | Crashed: of the same cause", named, extra=about)

    def close(self) -> None:
        """Nothing is held back."""

    def _task_run(self, event: TaskRunChanged) -> None:
        outcome = event.outcome
        reason = ""
        if outcome is not None:
            error = outcome.value
            raised = isinstance(error, BaseException)
            reason = f"{type(error).__name__}: {error}" if raised else outcome.message or ""
        name = event.run.name
        run = event.run.task_run
        about = {
            "run_label": name,
            "flow_run_id": run.flow_run_id,
            "task_run_id": run.id,
            "task_run_name": name,
        }
        if event.phase == RETRY_WAIT and outcome is not None and outcome.lost:
            logger.warning("%s | %s; it runs again", name, reason, extra=about)
        elif event.phase == RETRY_WAIT:
            logger.warning(
                "%s | attempt failed, will be tried again: %s", name, reason, extra=about
            )
        elif event.phase in FAILURES:
            stack: Any = None
            if outcome is not None and isinstance(outcome.value, Exception):
                if isinstance(outcome.value, CrashedRun) and outcome.traceback is None:  # says all
                    reason = str(outcome.value)
                else:
                    stack = type(outcome.value), outcome.value, outcome.traceback
            state = PHASE_STATES[event.phase][1]
            logger.error("%s | %s: %s", name, state, reason, exc_info=stack, extra=about)
        else:
            logger.debug("%s | %s", name, PHASE_STATES[event.phase][1], extra=about)

    def _flow_run(self, event: FlowRunChanged) -> None:
        state = event.state
        level = logging.INFO
        if state.is_failed() or state.is_crashed():
            level = logging.ERROR
        elif state.is_cancelled():
            level = logging.WARNING
        text = f"{state.name}: {state.message}" if state.message else state.name
        name = event.run.name
        about = {"run_label": name, "flow_run_id": event.run.id, "flow_run_name": name}
        logger.log(level, "%s | flow %r: %s", name, event.run.flow_name, text, extra=about)
