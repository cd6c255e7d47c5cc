"""The log lines and artifacts of a run, as the store has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from anabranch.store.database import Database


@dataclass(frozen=True, slots=True)
class LogRow:
    """A log line; ids grow in the order of writing, `at` is in seconds since the epoch."""

    id: int
    flow_run: int | None
    task_run: int | None
    at: float
    level: int
    logger: str
    run_name: str | None
    message: str


@dataclass(frozen=True, slots=True)
class ArtifactRow:
    """An artifact; `data` is JSON, times are in seconds since the epoch."""

    id: str
    key: str | None
    type: str
    description: str | None
    data: str
    flow_run: int | None
    task_run: int | None
    created: float
    updated: float


def logs(
    database: Database,
    root: int,
    *,
    after_id: int = 0,
    min_level: int = 0,
    limit: int = 1000,
    flow_run: int | None = None,
    newest: bool = False,
) -> list[LogRow]:
    """Lines in the order in which they were written: the first `limit` of them after `after_id`, or
    with `newest` the last. `flow_run` keeps those of one flow run below the root."""
    where, values = "root = ? AND id > ? AND level >= ?", list[Any]([root, after_id, min_level])
    if flow_run is not None:
        where += " AND flow_run = ?"
        values.append(flow_run)
    rows = database.read(
        "SELECT id, flow_run, task_run, at, level, logger, run_name, message FROM log "
        f"WHERE {where} ORDER BY id {'DESC' if newest else 'ASC'} LIMIT ?",
        [*values, limit],
    )
    lines = [LogRow(*row) for row in rows]
    return lines[::-1] if newest else lines


def artifacts(database: Database, root: int, limit: int = 1000) -> list[ArtifactRow]:
    """The artifacts of a root run and all below it, in the order in which they were made."""
    rows = database.read(
        'SELECT id, "key", type, description, data, flow_run, task_run, created, updated '
        "FROM artifact WHERE root = ? ORDER BY created, id LIMIT ?",
        (root, limit),
    )
    return [ArtifactRow(*row) for row in rows]
