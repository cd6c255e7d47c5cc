"""All that `anabranch runs show` tells of a run, gathered from the store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from anabranch.cli.output import iso, run_json
from anabranch.outcomes import CANCELLED, CRASHED, FAILED, PHASE_STATES, RUNNING, SETTLED, TIMED_OUT
from anabranch.store.database import Database
from anabranch.store.log_queries import ArtifactRow, artifacts
from anabranch.store.queries import FlowRunRow, TransitionRow, subflow_runs, transitions
from anabranch.store.task_queries import (
    Stretch,
    TaskCount,
    TaskRunRow,
    stretches,
    task_counts,
    task_runs,
)
from anabranch.store.waiting_queries import Waiting, waiting

SLICES: Final = 240
"""Into how many slices the time of a run is cut: more than a terminal is wide."""
FAILURES: Final = (FAILED, TIMED_OUT, CRASHED)
UNFINISHED: Final = "unfinished"
"""Of a run that has ended: what it had not come to, or what ran when its process died."""


@dataclass(frozen=True, slots=True)
class TaskGroup:
    """The runs of one task within a flow run: how many are in which state, by its name."""

    task: str
    task_key: str
    counts: Mapping[str, int]
    stretches: Sequence[Stretch]
    first_start: float | None
    has_failed: bool
    is_running: bool

    @property
    def total(self) -> int:
        return sum(self.counts.values())


@dataclass(frozen=True, slots=True)
class RunReport:
    """A flow run with what is below it; some lists hold one more than `limit`, which shows that they
    go on. Times in seconds since the epoch; a slice of the drawn time
    is `slice_seconds` long, from `start` on."""

    run: FlowRunRow
    now: float
    limit: int
    start: float
    end: float
    groups: Sequence[TaskGroup]
    subflows: Sequence[FlowRunRow]
    waiting: Sequence[Waiting]
    failures: Sequence[TaskRunRow]
    artifacts: Sequence[ArtifactRow]
    transitions: Sequence[TransitionRow]

    @property
    def slice_seconds(self) -> float:
        return (self.end - self.start) / SLICES


def report(database: Database, run: FlowRunRow, now: float, limit: int) -> RunReport:
    """Gather it, with at most `limit` lines of each list."""
    counts = task_counts(database, run)
    starts = [each.first_start for each in counts if each.first_start is not None]
    start = min(starts, default=run.started or run.created)
    ends = [each.last_end for each in counts if each.last_end is not None]
    end = max(ends, default=start)
    if run.ended is None:
        end = max(end, now)
    elif not starts:
        end = max(end, run.ended)
    end = max(end, start + 0.001)
    ran = stretches(database, run, start, (end - start) / SLICES) if starts else []
    made = artifacts(database, run.root)
    return RunReport(
        run=run,
        now=now,
        limit=limit,
        start=start,
        end=end,
        groups=_groups(counts, ran, run.ended is not None),
        subflows=subflow_runs(database, run),
        waiting=waiting(database, run, limit + 1),
        failures=task_runs(
            database, run, phases=FAILURES, limit=limit + 1, of_subflows=run.is_root
        ),
        artifacts=made if run.is_root else [each for each in made if each.flow_run == run.row],
        transitions=transitions(database, flow_run=run.row),
    )


def _groups(
    counts: Sequence[TaskCount], ran: Sequence[Stretch], has_ended: bool
) -> list[TaskGroup]:
    by_task: dict[tuple[str, str], list[TaskCount]] = {}
    for each in counts:
        by_task.setdefault((each.task_key, each.task), []).append(each)
    groups = [_group(key, its, ran, has_ended) for key, its in by_task.items()]
    return sorted(groups, key=lambda group: (group.first_start is None, group.first_start or 0.0))


def _group(
    key: tuple[str, str], counts: Sequence[TaskCount], ran: Sequence[Stretch], has_ended: bool
) -> TaskGroup:
    by_state: dict[str, int] = {}
    for each in sorted(counts, key=lambda count: -count.phase):
        state = UNFINISHED if has_ended and each.phase < SETTLED else PHASE_STATES[each.phase][1]
        by_state[state] = by_state.get(state, 0) + each.runs
    starts = [each.first_start for each in counts if each.first_start is not None]
    phases = {each.phase for each in counts}
    return TaskGroup(
        task=key[1],
        task_key=key[0],
        counts=by_state,
        stretches=[each for each in ran if (each.task_key, each.task) == key],
        first_start=min(starts, default=None),
        has_failed=not phases.isdisjoint((*FAILURES, CANCELLED)),
        is_running=RUNNING in phases and not has_ended,
    )


# -- JSON -----------------------------------------------------------------------------------------


def report_json(about: RunReport) -> dict[str, Any]:
    """The same for scripts."""
    run = about.run
    return {
        **run_json(run),
        "created": iso(run.created),
        "entrypoint": run.entrypoint,
        "parameters": parameters_of(run),
        "not_resumable": run.not_resumable,
        "result": run.preview,
        "tasks": [
            {"task": each.task, "key": each.task_key, "count": each.total, "states": each.counts}
            for each in about.groups
        ],
        "subflows": [
            {**run_json(each), "parent": _parent_id(about, each.parent)} for each in about.subflows
        ],
        "waiting": [_waiting_json(each) for each in about.waiting[: about.limit]],
        "failures": [task_run_json(each) for each in about.failures[: about.limit]],
        "artifacts": [
            {
                "id": each.id,
                "key": each.key,
                "type": each.type,
                "description": each.description,
                "created": iso(each.created),
            }
            for each in about.artifacts
        ],
        "transitions": [
            {
                "at": iso(each.at),
                "state": each.state,
                "state_name": each.state_name,
                "message": each.message,
                "attempt": each.attempt,
            }
            for each in about.transitions
        ],
    }


def _waiting_json(wait: Waiting) -> dict[str, Any]:
    return {
        "id": wait.id,
        "name": wait.name,
        "task": wait.task,
        "reason": wait.reason,
        "since": iso(wait.since),
        "message": wait.message,
        "upstream": [each._asdict() for each in wait.upstream],
    }


def parameters_of(run: FlowRunRow) -> dict[str, str]:
    """Previews of a run's parameters, by name."""
    if run.parameters is None:
        return {}
    given: dict[str, Any] = json.loads(run.parameters)
    return {name: str(text) for name, text in given.items()}


def _parent_id(about: RunReport, parent: int | None) -> str | None:
    known = (about.run, *about.subflows)
    return next((each.id for each in known if each.row == parent), None)


def task_run_json(run: TaskRunRow) -> dict[str, Any]:
    """A task run's row for scripts."""
    return {
        "id": run.id,
        "name": run.name,
        "task": run.task,
        "state": run.state,
        "state_name": run.state_name,
        "start": iso(run.started),
        "end": iso(run.ended),
        "message": run.message,
        "attempt": run.attempt,
    }
