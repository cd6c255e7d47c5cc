"""What the writer puts into the store: the columns of each kind of row."""

from __future__ import annotations

from typing import Final

from anabranch.outcomes import COMPLETED, JSON
from anabranch.store.database import Insert, InsertAlike

COMPLETED_RUN: Final = InsertAlike(
    "task_run",
    (("phase", COMPLETED), ("attempt", 1), ("form", JSON)),
    ("flow_run", "task"),
    ("id", "number", "started", "ended", "inputs", "result"),
    ("inputs", "result"),
    "id",
    ("phase", "attempt", "form", "started", "ended", "result"),
)
"""What most runs come to: the first attempt gave a plain value."""
COMPLETED_CHILD: Final = COMPLETED_RUN._replace(own=(*COMPLETED_RUN.own, "parent"))
"""The same where a task run has started it."""

ANY_RUN: Final = Insert(
    "task_run",
    (
        "id",
        "flow_run",
        "task",
        "number",
        "phase",
        "attempt",
        "started",
        "ended",
        "inputs",
        "form",
        "result",
        "name",
        "state_name",
        "message",
        "parent",
        "preview",
        "submitted",
    ),
    "id",
    (
        "phase",
        "attempt",
        "started",
        "ended",
        "form",
        "result",
        "name",
        "state_name",
        "message",
        "preview",
    ),
)
SUBMISSION: Final = Insert(
    "submission",
    ("id", "flow_run", "parent", "task", "count", "first_index", "map_id", "submitted"),
    "id",
    (),
)
DEPENDENCY: Final = Insert("dependency", ("task_run", "upstream"), "task_run, upstream")
TRANSITION: Final = Insert(
    "transition",
    ("flow_run", "task_run", "at", "state_type", "state_name", "message", "attempt"),
)
LOG: Final = Insert(
    "log",
    ("root", "flow_run", "task_run", "at", "level", "logger", "run_name", "message"),
)
ARTIFACT: Final = Insert(
    "artifact",
    (
        "id",
        "key",
        "type",
        "description",
        "data",
        "root",
        "flow_run",
        "task_run",
        "created",
        "updated",
    ),
    "id",
    ("description", "data", "updated"),
)
FLOW_RUN: Final = Insert(
    "flow_run",
    (
        "id",
        "run_id",
        "root",
        "parent",
        "parent_task_run",
        "name",
        "flow_name",
        "flow_key",
        "flow_source",
        "entrypoint",
        "runner",
        "tags",
        "inputs",
        "parameters",
        "parameters_preview",
        "not_resumable",
        "state_type",
        "state_name",
        "created",
        "started",
        "attempt",
    ),
    "id",
    (
        "flow_source",
        "entrypoint",
        "runner",
        "parameters",
        "parameters_preview",
        "not_resumable",
        "state_type",
        "state_name",
    ),
)

KEY_BITS: Final = 32


def row_id(session: int, key: int) -> int:
    """The id of a run in the store."""
    return session << KEY_BITS | key
