"""Why the task runs of a flow run wait: for other runs, for a retry, for a slot, for a worker."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from anabranch.execution.names import default_name
from anabranch.outcomes import COMPLETED, DORMANT, PHASE_STATES, RUNNING, SETTLED
from anabranch.store.database import Database
from anabranch.store.queries import FlowRunRow, ranges, run_id_of, session_prefixes
from anabranch.store.rows import KEY_BITS

_KEY: Final = (1 << KEY_BITS) - 1
_AWAITING = ("AwaitingRetry", "AwaitingConcurrencySlot")


class Upstream(NamedTuple):
    """A run that another waits for."""

    id: str
    name: str
    state_name: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """A task run that has not started, or waits to start again, and why.

    `reason` is `"upstream"`, `"AwaitingRetry"`, `"AwaitingConcurrencySlot"` or `"queued"`, which is
    with its runner. `since` is in seconds since the epoch, `message` of the attempt that failed.
    """

    id: str
    name: str
    task: str
    reason: str
    upstream: tuple[Upstream, ...] = ()
    since: float | None = None
    attempt: int = 0
    message: str | None = None


class _Run(NamedTuple):
    task: str
    name: str
    phase: int
    state_name: str | None
    submitted: float | None


def waiting(database: Database, flow_run: FlowRunRow, limit: int = 100) -> list[Waiting]:
    """Task runs that wait, in the order of their ids, at most `limit` of them; none once the flow
    run has ended.

    A map's runs that only wait for a worker have no row, and are not among them: see `task_counts`.
    """
    if flow_run.ended is not None:
        return []
    prefixes = session_prefixes(database, flow_run.root)
    found: list[Waiting] = []
    for start, end in ranges(list(prefixes)[-1:]):  # those before it wait for nothing any more
        blocked = _blocked(database, start, end, flow_run.row, limit)
        lined_up = _lined_up(database, start, end, flow_run.row, limit)
        awaiting = _awaiting(database, start, end, flow_run.row, limit)
        rows = sorted({*blocked, *lined_up, *awaiting})[:limit]
        upstream = {each for row in rows for each in blocked.get(row, ())}
        known = _runs(database, {*rows, *upstream})
        for row in rows:
            run = known.get(row)
            if run is None:
                continue
            its_own = tuple(
                Upstream(
                    run_id_of(each, prefixes),
                    known[each].name,
                    awaiting[each][0] if each in awaiting else _state_name(known[each]),
                )
                for each in blocked.get(row, ())
                if each in known and each >> KEY_BITS in prefixes
            )
            about = run_id_of(row, prefixes), run.name, run.task
            if its_own:
                found.append(Waiting(*about, "upstream", its_own, run.submitted))
            elif row in awaiting:
                found.append(Waiting(*about, awaiting[row][0], (), *awaiting[row][1:]))
            elif row in lined_up:
                found.append(Waiting(*about, "queued", (), run.submitted))
    return found


def _blocked(
    database: Database, start: int, end: int, flow_run: int, limit: int
) -> dict[int, list[int]]:
    """Runs that have not settled, and those that each waits for; of a map they have no row yet."""
    rows = database.read(
        "SELECT d.task_run, d.upstream FROM dependency d "
        "LEFT JOIN task_run t ON t.id = d.task_run LEFT JOIN task_run u ON u.id = d.upstream "
        f"WHERE d.task_run >= ? AND d.task_run < ? AND (t.id IS NULL OR t.phase < {RUNNING}) "
        f"AND (u.id IS NULL OR u.phase NOT IN ({COMPLETED}, {DORMANT})) "
        "AND (t.flow_run = ? OR (t.id IS NULL AND EXISTS (SELECT 1 FROM submission s "
        "WHERE s.flow_run = ? AND s.id <= d.task_run AND s.id + s.count > d.task_run))) "
        "ORDER BY d.task_run LIMIT ?",
        (start, end, flow_run, flow_run, limit * 10),
    )
    blocked: dict[int, list[int]] = {}
    for task_run, upstream in rows:
        blocked.setdefault(task_run, []).append(upstream)
    return blocked


def _lined_up(database: Database, start: int, end: int, flow_run: int, limit: int) -> set[int]:
    rows = database.read(
        f"SELECT id FROM task_run WHERE id >= ? AND id < ? AND flow_run = ? AND phase < {RUNNING} "
        "ORDER BY id LIMIT ?",
        (start, end, flow_run, limit),
    )
    return {row[0] for row in rows}


def _awaiting(
    database: Database, start: int, end: int, flow_run: int, limit: int
) -> dict[int, tuple[str, float, int, str | None]]:
    """Runs whose last change was into a wait of its own kind: which, since when, after how many
    attempts and why."""
    rows = database.read(
        "SELECT n.task_run, n.state_name, n.at, n.attempt, n.message FROM transition n "
        "LEFT JOIN task_run t ON t.id = n.task_run WHERE n.task_run >= ? AND n.task_run < ? "
        "AND n.flow_run = ? AND n.state_name IN (?, ?) "
        f"AND (t.id IS NULL OR t.phase < {RUNNING} OR (t.phase < {SETTLED} AND t.attempt <= n.attempt)) "
        "AND n.id = (SELECT max(l.id) FROM transition l "
        "WHERE l.task_run = n.task_run) ORDER BY n.task_run LIMIT ?",
        (start, end, flow_run, *_AWAITING, limit),
    )
    return {row[0]: tuple(row[1:]) for row in rows}


def _runs(database: Database, rows: Iterable[int]) -> dict[int, _Run]:
    """Task runs by their rows, those of maps without one included."""
    found: dict[int, _Run] = {}
    wanted = sorted(rows)
    for start in range(0, len(wanted), 500):
        some = wanted[start : start + 500]
        for row, number, name, task, phase, state_name, submitted in database.read(
            "SELECT t.id, t.number, t.name, k.name, t.phase, t.state_name, t.submitted "
            "FROM task_run t JOIN task k ON k.id = t.task "
            f"WHERE t.id IN ({','.join('?' * len(some))})",
            some,
        ):
            called = name or default_name(task, number)
            found[row] = _Run(task, called, phase, state_name, submitted)
    for row in wanted:
        if row not in found:
            run = _of_map(database, row)
            if run is not None:
                found[row] = run
    return found


def _of_map(database: Database, row: int) -> _Run | None:
    """A run of a map that has no row yet."""
    rows = database.read(
        "SELECT s.id, s.count, s.first_index, s.submitted, k.name FROM submission s "
        "JOIN task k ON k.id = s.task WHERE s.id <= ? ORDER BY s.id DESC LIMIT 1",
        (row,),
    )
    if not rows or row >= rows[0][0] + rows[0][1]:
        return None
    first, _, first_index, submitted, task = rows[0]
    number = (row & _KEY) - (first & _KEY) + first_index
    return _Run(task, default_name(task, number), 0, None, submitted)


def _state_name(run: _Run) -> str:
    return run.state_name or PHASE_STATES[run.phase][1]
