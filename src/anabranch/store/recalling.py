"""What the store has of a flow run's calls, for a run that goes on from there."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

from anabranch.errors import ResultNotKeptError, TamperedResultError
from anabranch.outcomes import COMPLETED, JSON, NOT_KEPT, PICKLE, ROLLED_BACK, Kept
from anabranch.recorded import Calls, Recorded, RecordedCall, Row
from anabranch.results.persistence import recover
from anabranch.results.signing import verify
from anabranch.store.database import Database
from anabranch.store.rows import KEY_BITS

logger = logging.getLogger("anabranch.store")

PAGE = 10_000
"""Task runs that are read at a time."""


def recorded_calls(database: Database, secret: bytes, flow_run: int) -> Recorded:
    """The task runs and subflows of a flow run, by its place in the store."""
    calls: defaultdict[str, list[Calls]] = defaultdict(list)
    root = database.read("SELECT root FROM flow_run WHERE id = ?", (flow_run,))
    if root:
        for session, prefix in database.read(
            "SELECT id, prefix FROM session WHERE root = ? ORDER BY id", root[0]
        ):
            for key, found in _task_runs(database, secret, flow_run, session, prefix):
                calls[key].append(found)
        for key, found in _subflows(database, secret, flow_run):
            calls[key].append(found)
    return Recorded(calls)


def _task_runs(
    database: Database, secret: bytes, flow_run: int, session: int, prefix: str
) -> list[tuple[str, Calls]]:
    """Of each task, what this session has recorded; read in pages, which are not kept."""
    tasks: dict[int, tuple[str, Calls]] = {}
    row, end = (session << KEY_BITS) - 1, session + 1 << KEY_BITS
    while page := database.read(
        "SELECT id, task, inputs, phase, started, ended, attempt, state_name, name, form, "
        "CASE WHEN form = 'json' THEN result END FROM task_run "
        "WHERE id > ? AND id < ? AND flow_run = ? ORDER BY id LIMIT ?",
        (row, end, flow_run, PAGE),
    ):
        for row, task, inputs, phase, started, ended, attempt, state, name, form, data in page:
            if task not in tasks:
                key, source = database.read("SELECT key, source FROM task WHERE id = ?", (task,))[0]
                make = partial(_task_run, database, secret, prefix, bytes(source))
                tasks[task] = key, Calls(make)
            completed = phase == COMPLETED and state != ROLLED_BACK
            seconds = (ended or 0.0) - (started or 0.0)
            data = bytes(data) if form == JSON else None
            kept = (row, completed, started or 0.0, seconds, attempt, state, name, data)
            tasks[task][1].add(bytes(inputs or b""), kept)
    return list(tasks.values())


def _task_run(
    database: Database, secret: bytes, prefix: str, source: bytes, kept: Row
) -> RecordedCall:
    row, completed, started, seconds, attempt, state, name, data = kept
    value: Callable[[], Any] = partial(_value, database, secret, "task_run", row, str(row))
    if data is not None:
        value = partial(json.loads, data)
    run_id = _run_id(prefix, row & (1 << KEY_BITS) - 1)
    return RecordedCall(
        row, run_id, name, source, completed, started, seconds, attempt, state, value
    )


def _subflows(database: Database, secret: bytes, flow_run: int) -> list[tuple[str, Calls]]:
    """Those that each flow has recorded, in order."""
    calls: dict[str, Calls] = {}
    for key, inputs, *row in database.read(
        "SELECT flow_key, inputs, id, run_id, flow_source, state_type, state_name, started, ended, "
        "attempt, name FROM flow_run WHERE parent = ? ORDER BY id",
        (flow_run,),
    ):
        found = calls.setdefault(key, Calls(partial(_subflow, database, secret)))
        found.add(bytes(inputs or b""), tuple(row))
    return list(calls.items())


def _subflow(database: Database, secret: bytes, kept: Row) -> RecordedCall:
    row, run_id, source, kind, state, started, ended, attempt, name = kept
    return RecordedCall(
        row,
        run_id,
        name,
        bytes(source or b""),
        kind == "COMPLETED",
        started or 0.0,
        (ended or 0.0) - (started or 0.0),
        attempt,
        state,
        partial(_value, database, secret, "flow_run", row, run_id),
        partial(recorded_calls, database, secret, row),
    )


def _value(database: Database, secret: bytes, table: str, row: int, key: str) -> Any:
    """The recorded value; raises `ResultNotKeptError`, and `TamperedResultError`."""
    found = database.read(f"SELECT form, result, preview FROM {table} WHERE id = ?", (row,))
    form, data, preview = found[0] if found else (None, None, None)
    if form is None or form == NOT_KEPT or data is None:
        raise ResultNotKeptError((preview or "").removeprefix("not kept: ") or "it has none")
    data = bytes(data)
    if form == PICKLE:
        data = verify(secret, key, data, database.url)
    try:
        return recover(Kept(form, data, None, None, None))
    except TamperedResultError:
        raise
    except Exception as error:  # its class has moved, or a file is gone: it is computed again
        reason = f"{type(error).__name__}: {error}"
        logger.warning("A recorded result cannot be read, and counts as not kept: %s", reason)
        raise ResultNotKeptError(reason) from error


def _run_id(prefix: str, number: int) -> str:
    digits = f"{prefix}{number:012x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
