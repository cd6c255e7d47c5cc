"""What the store has of a flow run's calls, for a run that goes on from there."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from anabranch.errors import ResultNotKeptError, TamperedResultError
from anabranch.outcomes import COMPLETED, JSON, NOT_KEPT, PICKLE, ROLLED_BACK, Kept
from anabranch.recorded import CallKey, Recorded, RecordedCall
from anabranch.results.persistence import recover
from anabranch.results.signing import verify
from anabranch.store.database import Database
from anabranch.store.rows import KEY_BITS

logger = logging.getLogger("anabranch.store")


def recorded_calls(database: Database, secret: bytes, flow_run: int) -> Recorded:
    """The task runs and subflows of a flow run, by its place in the store."""
    return Recorded(_calls(database, secret, flow_run))


def _calls(
    database: Database, secret: bytes, flow_run: int
) -> Iterator[tuple[CallKey, RecordedCall]]:
    root = database.read("SELECT root FROM flow_run WHERE id = ?", (flow_run,))
    if not root:
        return
    sessions = database.read("SELECT id, prefix FROM session WHERE root = ? ORDER BY id", root[0])
    for session, prefix in sessions:
        yield from _task_runs(database, secret, flow_run, session, prefix)
    yield from _subflows(database, secret, flow_run)


def _task_runs(
    database: Database, secret: bytes, flow_run: int, session: int, prefix: str
) -> Iterator[tuple[CallKey, RecordedCall]]:
    found = database.read(
        "SELECT r.id, t.key, t.source, r.inputs, r.phase, r.started, r.ended, r.attempt, "
        "r.state_name, r.name, r.form, CASE WHEN r.form = 'json' THEN r.result END "
        "FROM task_run r JOIN task t ON t.id = r.task "
        "WHERE r.id >= ? AND r.id < ? AND r.flow_run = ? ORDER BY r.id",
        (session << KEY_BITS, session + 1 << KEY_BITS, flow_run),
    )
    for row, key, source, inputs, phase, started, ended, attempt, state, name, form, data in found:
        value: Callable[[], Any]
        if form == JSON:
            value = partial(json.loads, bytes(data))
        else:
            value = partial(_value, database, secret, "task_run", row, str(row))
        number = row & (1 << KEY_BITS) - 1
        yield (
            (key, bytes(inputs or b"")),
            RecordedCall(
                row,
                _run_id(prefix, number),
                name,
                bytes(source),
                phase == COMPLETED and state != ROLLED_BACK,
                started or 0.0,
                (ended or 0.0) - (started or 0.0),
                attempt,
                state,
                value,
            ),
        )


def _subflows(
    database: Database, secret: bytes, flow_run: int
) -> Iterator[tuple[CallKey, RecordedCall]]:
    found = database.read(
        "SELECT id, run_id, flow_key, flow_source, inputs, state_type, state_name, started, ended, "
        "attempt, name FROM flow_run WHERE parent = ? ORDER BY id",
        (flow_run,),
    )
    for row, run_id, key, source, inputs, kind, state, started, ended, attempt, name in found:
        yield (
            (key, bytes(inputs or b"")),
            RecordedCall(
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
            ),
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
