"""An async-first, distributed task runner: plain functions become flows and tasks."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from anabranch.lazy import lazy
from anabranch.version import __version__ as __version__

if TYPE_CHECKING:
    from anabranch import runtime as runtime
    from anabranch.annotations import allow_failure as allow_failure
    from anabranch.annotations import opaque as opaque
    from anabranch.annotations import quote as quote
    from anabranch.annotations import unmapped as unmapped
    from anabranch.artifacts import create_image_artifact as create_image_artifact
    from anabranch.artifacts import create_link_artifact as create_link_artifact
    from anabranch.artifacts import create_markdown_artifact as create_markdown_artifact
    from anabranch.artifacts import create_progress_artifact as create_progress_artifact
    from anabranch.artifacts import create_table_artifact as create_table_artifact
    from anabranch.artifacts import update_progress_artifact as update_progress_artifact
    from anabranch.concurrency import concurrency as concurrency
    from anabranch.concurrency import rate_limit as rate_limit
    from anabranch.context import tags as tags
    from anabranch.errors import AnabranchError as AnabranchError
    from anabranch.errors import CancelledRun as CancelledRun
    from anabranch.errors import CrashedRun as CrashedRun
    from anabranch.errors import FailedRun as FailedRun
    from anabranch.errors import UpstreamTaskError as UpstreamTaskError
    from anabranch.flows import Flow as Flow
    from anabranch.flows import flow as flow
    from anabranch.futures import FutureList as FutureList
    from anabranch.futures import TaskFuture as TaskFuture
    from anabranch.futures import as_completed as as_completed
    from anabranch.futures import wait as wait
    from anabranch.logging import get_run_logger as get_run_logger
    from anabranch.retries import exponential_backoff as exponential_backoff
    from anabranch.states import State as State
    from anabranch.streams import FutureStream as FutureStream
    from anabranch.tasks import Task as Task
    from anabranch.tasks import task as task
    from anabranch.transactions import transaction as transaction


# What loads when it is first used, and where it lives.
_LAZY = {
    "AnabranchError": "errors",
    "CancelledRun": "errors",
    "CrashedRun": "errors",
    "FailedRun": "errors",
    "Flow": "flows",
    "FutureList": "futures",
    "FutureStream": "streams",
    "State": "states",
    "Task": "tasks",
    "TaskFuture": "futures",
    "UpstreamTaskError": "errors",
    "allow_failure": "annotations",
    "as_completed": "futures",
    "concurrency": "concurrency",
    "create_image_artifact": "artifacts",
    "create_link_artifact": "artifacts",
    "create_markdown_artifact": "artifacts",
    "create_progress_artifact": "artifacts",
    "create_table_artifact": "artifacts",
    "exponential_backoff": "retries",
    "flow": "flows",
    "get_run_logger": "logging",
    "opaque": "annotations",
    "quote": "annotations",
    "rate_limit": "concurrency",
    "runtime": "",
    "tags": "context",
    "task": "tasks",
    "transaction": "transactions",
    "unmapped": "annotations",
    "update_progress_artifact": "artifacts",
    "wait": "futures",
}

__all__ = sorted(_LAZY)  # pyright: ignore[reportUnsupportedDunderAll]  # the same names as above, held by a test


_find = lazy(__name__, _LAZY, globals())


def __getattr__(name: str) -> Any:
    return importlib.import_module(f"{__name__}.runtime") if name == "runtime" else _find(name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
