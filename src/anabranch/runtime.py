"""The current run, as attributes: `runtime.flow_run.name`, `runtime.task_run.run_count`.

Outside of a run each attribute is None, an empty list or an empty dict.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from anabranch.context import TaskRunContext, current_context


class _FlowRun:
    """The flow run that the calling code belongs to."""

    @property
    def id(self) -> str | None:
        run = current_context().flow_run
        return None if run is None else run.id

    @property
    def name(self) -> str | None:
        run = current_context().flow_run
        return None if run is None else run.name

    @property
    def flow_name(self) -> str | None:
        run = current_context().flow_run
        return None if run is None else run.flow_name

    @property
    def tags(self) -> list[str]:
        run = current_context().flow_run
        return [] if run is None else sorted(run.tags)

    @property
    def parameters(self) -> Mapping[str, Any]:
        run = current_context().flow_run
        return {} if run is None else current_context().engine.flow_parameters(run)

    @property
    def run_count(self) -> int:
        run = current_context().flow_run
        return 0 if run is None else run.run_count

    @property
    def start_time(self) -> dt.datetime | None:
        run = current_context().flow_run
        return None if run is None else run.start_time

    @property
    def parent_task_run_id(self) -> str | None:
        run = current_context().flow_run
        return None if run is None else run.parent_task_run_id

    @property
    def parent_flow_run_id(self) -> str | None:
        run = current_context().flow_run
        return None if run is None else run.parent_flow_run_id


class _TaskRun:
    """The task run that the calling code belongs to."""

    @property
    def id(self) -> str | None:
        run = current_context().task_run
        return None if run is None else run.id

    @property
    def name(self) -> str | None:
        run = current_context().task_run
        return None if run is None else run.name

    @property
    def task_name(self) -> str | None:
        run = current_context().task_run
        return None if run is None else run.task_name

    @property
    def tags(self) -> list[str]:
        run = current_context().task_run
        return [] if run is None else sorted(run.tags)

    @property
    def parameters(self) -> Mapping[str, Any]:
        context = current_context()
        return context.parameters if isinstance(context, TaskRunContext) else {}

    @property
    def run_count(self) -> int:
        run = current_context().task_run
        return 0 if run is None else run.run_count


flow_run = _FlowRun()
task_run = _TaskRun()
