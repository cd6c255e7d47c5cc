"""What the store knows of the task runs of a flow run: lists, counts, and when they ran.

A map has one row for all its runs, and each run gets its own once it has settled or has run for a
while. So runs without a row are pending, and are counted from how many were submitted.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from anabranch.execution.names import default_name
from anabranch.outcomes import PHASE_STATES
from anabranch.store.database import Database, Row
from anabranch.store.queries import FlowRunRow, ranges, run_id_of, session_prefixes

PENDING_PHASE: Final = 0


@dataclass(frozen=True, slots=True)
class TaskRunRow:
    """A task run as the store has it. Times are in seconds since the epoch, `row` is its place."""

    row: int
    id: str
    name: str
    task: str
    task_key: str
    phase: int
    state: str
    state_name: str
    attempt: int
    started: float | None
    ended: float | None
    submitted: float | None
    message: str | None
    preview: str | None
    parent: int | None


class TaskCount(NamedTuple):
    """How many runs of a task are in a phase. Times in seconds since the epoch, of those that have
    any."""

    task: str
    task_key: str
    phase: int
    runs: int
    first_start: float | None
    last_end: float | None


class Stretch(NamedTuple):
    """Runs of a task that began and ended in these slices of the time: how many, and how many
    seconds they ran, all together. `until` is None for what still runs."""

    task_key: str
    task: str
    begin: int
    until: int | None
    runs: int
    seconds: float | None


_IN_SESSION = "t.id >= ? AND t.id < ?"
_OF_RUN = f"{_IN_SESSION} AND t.flow_run = ?"
_COLUMNS = (
    't.id, t.number, t.name, k.name, k."key", t.phase, t.state_name, t.attempt, t.started, '
    "t.ended, t.submitted, t.message, t.preview, t.parent"
)


def task_runs(
    database: Database,
    flow_run: FlowRunRow,
    *,
    phases: Collection[int] = (),
    limit: int = 100,
    offset: int = 0,
    of_subflows: bool = False,
) -> list[TaskRunRow]:
    """Task runs that have a row, in the order of their ids; `phases` are those wanted, or all.

    `of_subflows` are those of all that belongs to the run's root, too.
    """
    prefixes = session_prefixes(database, flow_run.root)
    wanted = f" AND t.phase IN ({','.join('?' * len(phases))})" if phases else ""
    sql = (
        f"SELECT {_COLUMNS} FROM task_run t JOIN task k ON k.id = t.task "
        f"WHERE {_IN_SESSION if of_subflows else _OF_RUN}{wanted} ORDER BY t.id LIMIT ?"
    )
    its_own = [] if of_subflows else [flow_run.row]
    found: list[Row] = []
    for start, end in ranges(prefixes):
        left = offset + limit - len(found)
        if left > 0:
            found += database.read(sql, (start, end, *its_own, *phases, left))
    return [_task_run(row, prefixes) for row in found[offset : offset + limit]]


def _task_run(row: Row, prefixes: dict[int, str]) -> TaskRunRow:
    place, number, name, task, key, phase, state_name, attempt = row[:8]
    started, ended, submitted, message, preview, parent = row[8:]
    state, usual = PHASE_STATES[int(phase)]
    return TaskRunRow(
        row=place,
        id=run_id_of(place, prefixes),
        name=name or default_name(task, number),
        task=task,
        task_key=key,
        phase=phase,
        state=state,
        state_name=state_name or usual,
        attempt=attempt,
        started=started,
        ended=ended,
        submitted=submitted,
        message=message,
        preview=preview,
        parent=parent,
    )


def task_counts(database: Database, flow_run: FlowRunRow) -> list[TaskCount]:
    """How many runs of each task are in each phase, those without a row counted as pending."""
    sessions = list(session_prefixes(database, flow_run.root))
    counts: dict[tuple[str, str, int], TaskCount] = {}
    for start, end in ranges(sessions):
        for row in database.read(
            'SELECT k.name, k."key", c.phase, c.runs, c.first_start, c.last_end FROM ('
            "SELECT t.task, t.phase, count(*) AS runs, min(t.started) AS first_start, "
            f"max(t.ended) AS last_end FROM task_run t WHERE {_OF_RUN} GROUP BY t.task, t.phase"
            ") c JOIN task k ON k.id = c.task ORDER BY c.task, c.phase",
            (start, end, flow_run.row),
        ):
            _add(counts, TaskCount(*row))
    for (task, key), count in _without_row(database, flow_run, sessions).items():
        _add(counts, TaskCount(task, key, PENDING_PHASE, count, None, None))
    return list(counts.values())


def _add(counts: dict[tuple[str, str, int], TaskCount], new: TaskCount) -> None:
    key = new.task_key, new.task, new.phase
    old = counts.get(key)
    if old is not None:
        starts = [each for each in (old.first_start, new.first_start) if each is not None]
        ends = [each for each in (old.last_end, new.last_end) if each is not None]
        new = new._replace(
            runs=old.runs + new.runs,
            first_start=min(starts, default=None),
            last_end=max(ends, default=None),
        )
    counts[key] = new


def _without_row(
    database: Database, flow_run: FlowRunRow, sessions: Sequence[int]
) -> dict[tuple[str, str], int]:
    """How many runs of maps have no row yet, by task.

    A resume submits anew what has not completed before, so that only the last session counts.
    """
    found: dict[tuple[str, str], int] = {}
    for start, end in ranges(sessions[-1:]):
        for task, key, left in database.read(
            'SELECT k.name, k."key", sum(m.count - m.known) FROM ('
            "SELECT s.task, s.count, (SELECT count(*) FROM task_run r WHERE r.id >= s.id "
            "AND r.id < s.id + s.count) AS known FROM submission s "
            "WHERE s.id >= ? AND s.id < ? AND s.flow_run = ?"
            ') m JOIN task k ON k.id = m.task GROUP BY k.name, k."key"',
            (start, end, flow_run.row),
        ):
            if left > 0:
                found[task, key] = int(left)
    return found


def stretches(
    database: Database, flow_run: FlowRunRow, start: float, seconds: float
) -> list[Stretch]:
    """When runs of each task ran, in slices of `seconds` from `start` on: to draw them, whatever
    their number. Those that began before `start` count as of the first slice."""
    found: list[Stretch] = []
    slice_of = "CAST((t.{} - ?) / ? AS INTEGER)"  # SQLite cuts, PostgreSQL rounds: half a slice
    begin, until = slice_of.format("started"), slice_of.format("ended")
    for first, last in ranges(session_prefixes(database, flow_run.root)):
        rows = database.read(
            'SELECT k."key", k.name, c.b, c.u, c.runs, c.seconds FROM ('
            f"SELECT t.task, {begin} AS b, {until} AS u, count(*) AS runs, "
            f"sum(t.ended - t.started) AS seconds FROM task_run t "
            f"WHERE {_OF_RUN} AND t.started IS NOT NULL GROUP BY 1, 2, 3"
            ") c JOIN task k ON k.id = c.task",
            (start, seconds, start, seconds, first, last, flow_run.row),
        )
        found += [
            Stretch(key, task, max(b, 0), None if u is None else max(u, 0), count, seconds)
            for key, task, b, u, count, seconds in rows
        ]
    return found
