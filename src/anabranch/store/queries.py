"""What the store knows of flow runs: lists of them, one of them, those below it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from anabranch.errors import AmbiguousRunError, UnknownRunError
from anabranch.store.database import Database, Row, clean
from anabranch.store.rows import KEY_BITS

SHORTEST_START: Final = 4
"""Digits of an id that are taken for the start of one."""
NEAREST_OF: Final = 500
"""Of how many of the latest runs the nearest are looked for."""
IN_A_STATEMENT: Final = 500
"""Values in one `IN (...)`, below what each database takes."""


@dataclass(frozen=True, slots=True)
class FlowRunRow:
    """A flow run as the store has it. Times are in seconds since the epoch, `row` is its place."""

    row: int
    id: str
    root: int
    parent: int | None
    parent_task_run: str | None
    name: str
    flow: str
    flow_key: str
    entrypoint: str | None
    runner: str | None
    tags: tuple[str, ...]
    parameters: str | None
    not_resumable: str | None
    state: str
    state_name: str
    message: str | None
    created: float
    started: float | None
    ended: float | None
    attempt: int
    preview: str | None

    @property
    def is_root(self) -> bool:
        return self.row == self.root

    @property
    def short_id(self) -> str:
        """Enough to find it by; the ids of subflows differ in their ends only."""
        return self.id[:8] if self.is_root else self.id


@dataclass(frozen=True, slots=True)
class TransitionRow:
    """A change of a run's state; `at` in seconds since the epoch."""

    at: float
    state: str
    state_name: str
    message: str | None
    attempt: int


_COLUMNS = (
    "id, run_id, root, parent, parent_task_run, name, flow_name, flow_key, entrypoint, runner, "
    "tags, parameters_preview, not_resumable, state_type, state_name, message, created, started, "
    "ended, attempt, preview"
)
_TAGS = 10  # the place of the tags in it


def _flow_run(row: Row) -> FlowRunRow:
    values = list(row)
    values[_TAGS] = tuple(json.loads(values[_TAGS]))
    return FlowRunRow(*values)


def flow_runs(
    database: Database,
    *,
    limit: int,
    state: str | None = None,
    flow: str | None = None,
    name: str | None = None,
    since: float | None = None,
    roots_only: bool = True,
) -> list[FlowRunRow]:
    """The newest runs first. `state` is a type or a name, in any case; `since` in seconds since the
    epoch."""
    wanted, values = ["id = root"] if roots_only else [], list[Any]()
    if state is not None:
        wanted.append("(state_type = ? OR lower(state_name) = ?)")
        values += [state.upper(), state.lower()]
    for column, value in (("flow_name", flow), ("name", name)):
        if value is not None:
            wanted.append(f"{column} = ?")
            values.append(value)
    if since is not None:
        wanted.append("created >= ?")
        values.append(since)
    where = f" WHERE {' AND '.join(wanted)}" if wanted else ""
    sql = f"SELECT {_COLUMNS} FROM flow_run{where} ORDER BY created DESC, id DESC LIMIT ?"
    return [_flow_run(row) for row in database.read(sql, [*values, limit])]


def find_flow_run(database: Database, given: str) -> FlowRunRow:
    """The run with this id, or the start of one that no other has, or the newest with this name.

    Raises `UnknownRunError` and `AmbiguousRunError`.
    """
    text = clean(given.strip()) or ""
    by_id = f"SELECT {_COLUMNS} FROM flow_run WHERE run_id = ?"
    rows = database.read(by_id, (text.lower(),))
    if rows:
        return _flow_run(rows[0])
    starting = [_flow_run(row) for row in _starting(database, text.lower())]
    likely = [run for run in starting if run.is_root] or starting  # subflows' ids begin alike
    if len(likely) == 1:
        return likely[0]
    named = flow_runs(database, limit=1, name=text, roots_only=False)
    if named:
        return named[0]
    if likely:
        raise AmbiguousRunError(given, [run.id for run in likely])
    raise UnknownRunError(given, _nearest(database, text))


def _starting(database: Database, start: str) -> list[Row]:
    if len(start) < SHORTEST_START or not set(start) <= set("0123456789abcdef-"):
        return []
    order = "CASE WHEN id = root THEN 0 ELSE 1 END, created DESC"
    sql = f"SELECT {_COLUMNS} FROM flow_run WHERE run_id LIKE ? ORDER BY {order} LIMIT 4"
    return database.read(sql, (start + "%",))


def _nearest(database: Database, text: str) -> list[str]:
    """Known runs that look like it by their name, flow or id, as `"name (id)"`."""
    latest = flow_runs(database, limit=NEAREST_OF, roots_only=False)
    known: dict[str, FlowRunRow] = {}
    for run in latest:  # the newest wins
        for each in (run.name, run.flow, run.id[: max(len(text), SHORTEST_START)]):
            known.setdefault(each, run)
    near = difflib.get_close_matches(text, known, n=3, cutoff=0.6)
    found = {known[each].row: known[each] for each in near}
    return [f"{run.name} ({run.short_id})" for run in found.values()]


def subflow_runs(database: Database, flow_run: FlowRunRow, limit: int = 10_000) -> list[FlowRunRow]:
    """All the flow runs below this one, in the order in which they were made."""
    sql = f"SELECT {_COLUMNS} FROM flow_run WHERE root = ? AND id <> ? ORDER BY created, id LIMIT ?"
    rows = database.read(sql, (flow_run.root, flow_run.root, limit))
    below = [_flow_run(row) for row in rows]
    if flow_run.is_root:
        return below
    inside = {flow_run.row}
    for run in below:  # parents come first
        if run.parent in inside:
            inside.add(run.row)
    return [run for run in below if run.row in inside and run.row != flow_run.row]


def transitions(
    database: Database, *, flow_run: int | None = None, task_run: int | None = None
) -> list[TransitionRow]:
    """The states that a flow run or a task run went through, where they were worth a row."""
    column, row = ("task_run", task_run) if flow_run is None else ("flow_run", flow_run)
    alone = "" if flow_run is None else " AND task_run IS NULL"
    rows = database.read(
        "SELECT at, state_type, state_name, message, attempt FROM transition "
        f"WHERE {column} = ?{alone} ORDER BY at, id",
        (row,),
    )
    return [TransitionRow(*each) for each in rows]


# -- ids ------------------------------------------------------------------------------------------


def session_prefixes(database: Database, root: int) -> dict[int, str]:
    """The sessions that worked on a root run, and what the ids of their runs begin with."""
    rows = database.read("SELECT id, prefix FROM session WHERE root = ? ORDER BY id", (root,))
    return dict(rows)


def run_ids(database: Database, rows: Iterable[int]) -> dict[int, str]:
    """The ids of task runs by their rows; those of a session that is gone are left out."""
    wanted = list(rows)
    sessions = sorted({row >> KEY_BITS for row in wanted})
    prefixes: dict[int, str] = {}
    for start in range(0, len(sessions), IN_A_STATEMENT):
        some = sessions[start : start + IN_A_STATEMENT]
        marks = ",".join("?" * len(some))
        prefixes |= dict(
            database.read(f"SELECT id, prefix FROM session WHERE id IN ({marks})", some)
        )
    return {row: run_id_of(row, prefixes) for row in wanted if row >> KEY_BITS in prefixes}


def run_id_of(row: int, prefixes: Mapping[int, str]) -> str:
    """The id of a run as its engine made it, from its row."""
    digits = f"{prefixes[row >> KEY_BITS]}{row & ((1 << KEY_BITS) - 1):012x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def ranges(sessions: Iterable[int]) -> list[tuple[int, int]]:
    """Where the runs of these sessions stand in the tables: from, and up to but without."""
    return [(session << KEY_BITS, (session + 1) << KEY_BITS) for session in sessions]
