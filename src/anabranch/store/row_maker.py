"""Makes rows of what an engine tells: of its flow runs, task runs, log lines and artifacts."""

# pyright: reportPrivateUsage=false
# The slots of the run record are read here, which are private to users.

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from typing import Any

from anabranch.events import (
    ArtifactChanged,
    ArtifactMade,
    Event,
    FlowRunBegan,
    FlowRunChanged,
    LogWritten,
    TaskRunChanged,
    TaskRunsRolledBack,
    TaskRunsSubmitted,
)
from anabranch.futures import TaskFuture
from anabranch.outcomes import (
    COMPLETED,
    PHASE_STATES,
    PICKLE,
    ROLLED_BACK,
    RUNNING,
    SETTLED,
    WAITING,
    Kept,
    Outcome,
)
from anabranch.results.kept import keep_inline
from anabranch.results.signing import sign
from anabranch.store import rows
from anabranch.store.batches import Batch
from anabranch.store.database import clean
from anabranch.store.settled_runs import SettledRuns

Run = TaskFuture[Any]
TaskIdentity = tuple[str, str, bytes]
"""Key, name, and what stands for the source."""
MOST_PLACES = 1_000


class RowMaker:
    """Fills `batch`. `prefix` begins the ids of the engine's runs, `session` gives the number of its
    session, and `find_task` the row of a task.

    `flow_rows` are the rows of flow runs by their ids.
    """

    def __init__(
        self,
        prefix: str,
        secret: bytes,
        inline_limit: int,
        session: Callable[[], int],
        find_task: Callable[[TaskIdentity], int],
    ) -> None:
        self.batch = Batch()
        self.flow_rows: dict[str, int] = {}
        self.root: int | None = None
        self._prefix = prefix
        self._secret = secret
        self._limit = inline_limit
        self._session = session
        self._find_task = find_task
        self._tasks: dict[TaskIdentity, int] = {}
        self._shown: set[tuple[int, int, int]] = set()  # row, attempt and phase
        self._places: dict[
            tuple[int, int, int | None], tuple[Any, int | None, int, int | None]
        ] = {}
        self._takers: dict[type, Callable[[Any], None]] = {
            TaskRunsSubmitted: self._submitted,
            TaskRunChanged: self._changed,
            TaskRunsRolledBack: self._rolled_back,
            FlowRunBegan: self._began,
            FlowRunChanged: self._flow_changed,
            LogWritten: self._logged,
            ArtifactMade: self._artifact,
            ArtifactChanged: self._artifact_changed,
        }

    def take(self, event: Event) -> None:
        """Rows of an event."""
        if event is not None:  # which only says that there are runs that settled
            self._takers[type(event)](event)

    # -- task runs ------------------------------------------------------------------------------

    def add_settled(self, settled: SettledRuns) -> None:
        """Rows of runs that came to their outcomes."""
        base = self._base()
        self.batch.count += settled.count
        for alike in settled.alike.values():
            values = alike.values
            if not values:
                continue
            flow_run, task, _, _ = self._place_of(alike.shared)
            width = len(alike.insert.own)
            values[0::width] = [base | key for key in values[0::width]]
            if alike.insert is rows.COMPLETED_CHILD:
                values[6::width] = [base | key for key in values[6::width]]
            place = alike.insert, flow_run, task
            self.batch.completed.setdefault(place, []).extend(values)
        for run in settled.others:
            outcome = run._outcome
            assert outcome is not None  # it has settled
            flow_run, task, offset, parent = self._place_of(run._shared)
            self._settled_otherwise(run, outcome, (flow_run, task, run._key + offset, parent))

    def _settled_otherwise(
        self, run: Run, outcome: Outcome, place: tuple[int | None, int | None, int, int | None]
    ) -> None:
        flow_run, task, number, parent = place
        row = self._row_of(run)
        form = data = preview = None
        if outcome.phase == COMPLETED:
            form, data, preview = self._kept(outcome, row)
            shared: Any = run._shared
            if outcome.kept is not None and shared.spec.caching is None:
                run._outcome = outcome._replace(kept=None)
        links = run._links
        self.batch.runs[row] = (
            row,
            flow_run,
            task,
            number,
            outcome.phase,
            outcome.attempt,
            outcome.started,
            outcome.started + outcome.seconds,
            run._digest,
            form,
            data,
            None if links is None else clean(links.name),
            outcome.state_name,
            _message(outcome),
            parent,
            preview,
            None,
        )

    def _kept(self, outcome: Outcome, row: int) -> tuple[str, bytes | None, str | None]:
        kept: Kept | None = outcome.kept
        if kept is None:  # a value that cannot change, of whatever kind
            kept = keep_inline(outcome.value, self._limit)
        return self._at_rest(kept, str(row))

    def _at_rest(self, kept: Kept, key: str) -> tuple[str, bytes | None, str | None]:
        data = kept.data
        if kept.form == PICKLE and data is not None:
            data = sign(self._secret, key, data)
        preview = kept.preview if kept.reason is None else f"not kept: {kept.reason}"
        return kept.form, data, clean(preview)

    def _submitted(self, event: TaskRunsSubmitted) -> None:
        first = event.runs[0]
        shared: Any = first._shared
        flow_run, task, offset, parent = self._place_of(shared)
        scope = shared.scope
        base = self._base()
        together = event.runs[-1]._key - first._key + 1 == len(event.runs)
        if scope.map_id is not None and together:
            self.batch.submissions.append(
                (base | first._key, flow_run, parent, task, len(event.runs), first._key + offset,
                 scope.map_id, event.at)
            )  # fmt: skip  # as it stands in the table
        else:
            for run in event.runs:
                if run._phase >= SETTLED:
                    continue
                row = self._row_of(run)
                self.batch.runs[row] = (
                    row, flow_run, task, run._key + offset, WAITING, run._attempt, None, None,
                    run._digest, None, None, None, None, None, parent, None, event.at
                )  # fmt: skip  # as above
        self.batch.replaced += [(base | run._key, old) for run, old in event.replaced]
        for run, upstream in event.linked:
            row = self._row_of(run)
            self.batch.dependencies += [(row, self._row_of(each)) for each in upstream]

    def _changed(self, event: TaskRunChanged) -> None:
        """Only what is not usual has a row of its own."""
        if event.phase >= SETTLED:
            return
        shared: Any = event.run._shared
        flow_run = self.flow_rows.get(shared.scope.flow_run.id) if shared.scope.flow_run else None
        outcome = event.outcome
        attempt = event.run._attempt if outcome is None else outcome.attempt
        message = None if outcome is None else _message(outcome)
        self.batch.transitions.append(
            (flow_run, self._row_of(event.run), event.at, *PHASE_STATES[event.phase], message,
             attempt)
        )  # fmt: skip  # as it stands in the table

    def _rolled_back(self, event: TaskRunsRolledBack) -> None:
        for run in event.runs:
            shared: Any = run._shared
            flow_run, row = self._place_of(shared)[0], self._row_of(run)
            self.batch.rolled_back.append(row)
            self.batch.transitions.append(
                (flow_run, row, event.at, "COMPLETED", ROLLED_BACK, None, run._attempt)
            )

    def sample(self, running: Iterable[Run], unsettled: Iterable[Run]) -> None:
        """Rows for what runs or waits for a while: of short runs, nobody sees that they did."""
        now = time.time()
        run_now = {self._row_of(run): (run, RUNNING, now) for run in running}
        wait = {self._row_of(run): (run, WAITING, None) for run in unsettled}
        seen: set[tuple[int, int, int]] = set()
        for row, (run, phase, started) in {**wait, **run_now}.items():
            shared: Any = run._shared
            mapped = shared.scope.map_id is not None
            shown = row, run._attempt, phase
            seen.add(shown)
            if shown in self._shown or run._phase >= SETTLED or (mapped and phase == WAITING):
                continue
            flow_run, task, offset, parent = self._place_of(shared)
            self.batch.runs[row] = (
                row, flow_run, task, run._key + offset, phase, run._attempt, started, None,
                run._digest, None, None, None, None, None, parent, None, now
            )  # fmt: skip  # as it stands in the table
        self._shown = seen

    def _place_of(self, shared: Any) -> tuple[int | None, int, int, int | None]:
        """Of a submission: its flow run, its task, what makes a key the run's number, its parent."""
        scope, spec = shared.scope, shared.spec
        place = (id(spec), id(scope.flow_run), scope.parent_key)
        known = self._places.get(place)
        if known is None:
            known = self._new_place(scope, spec)
            if len(self._places) > MOST_PLACES:
                self._places.clear()
            self._places[place] = known
        _, flow_run, task, parent = known
        return flow_run, task, scope.first_index - scope.first_key, parent

    def _new_place(self, scope: Any, spec: Any) -> tuple[Any, int | None, int, int | None]:
        flow_run = None if scope.flow_run is None else self.flow_rows.get(scope.flow_run.id)
        identity = (spec.key, spec.name, spec.source)
        task = self._tasks.get(identity)
        if task is None:
            task = self._tasks[identity] = self._find_task(identity)
        parent = None if scope.parent_key is None else self._base() | scope.parent_key
        return (spec, scope.flow_run), flow_run, task, parent  # the first two: kept, for their ids

    def _row_of(self, run: Run) -> int:
        links = run._links
        if links is not None and links.recalled is not None:
            return links.recalled.row
        return self._base() | run._key

    def _row_of_id(self, run_id: str) -> int | None:
        """Of a task run by its id, where it is this engine's."""
        digits = run_id.replace("-", "")
        if digits[:20] != self._prefix:
            return None
        return self._base() | int(digits[20:], 16)

    def _base(self) -> int:
        return self._session() << rows.KEY_BITS

    # -- flow runs ------------------------------------------------------------------------------

    def _began(self, event: FlowRunBegan) -> None:
        run, about = event.run, event.about
        row = about.row
        if row is None:
            row = self._base() | int(run.id.replace("-", "")[20:], 16)
        self.flow_rows[run.id] = row
        if self.root is None:
            self.root = row
            if about.row is None:
                self.batch.roots.append(row)
        parent = run.parent_flow_run_id
        started = time.time() if run.start_time is None else run.start_time.timestamp()
        parameters = about.parameters
        if parameters is not None:
            parameters = sign(self._secret, run.id, parameters)
        self.batch.flow_runs[row] = (
            row, run.id, self.root, self.flow_rows.get(parent) if parent else None,
             run.parent_task_run_id, run.name, run.flow_name, about.flow_key, about.flow_source,
             about.entrypoint, about.runner, json.dumps(sorted(run.tags)), about.inputs, parameters,
             clean(about.preview), about.not_resumable, *PHASE_STATES[RUNNING], started, started,
             run.run_count,
        )  # fmt: skip  # as it stands in the table

    def _flow_changed(self, event: FlowRunChanged) -> None:
        run, state = event.run, event.state
        row = self.flow_rows.get(run.id)
        if row is None:  # it was refused before it began
            return
        at = state.timestamp.timestamp()
        form = data = preview = None
        if event.kept is not None:
            form, data, preview = self._at_rest(event.kept, run.id)
        message = clean(state.message)
        self.batch.flow_changes.append(
            (state.type.value, state.name, message, at if state.is_final() else None,
             run.run_count, form, data, preview, row)
        )  # fmt: skip  # as it stands in the statement
        self.batch.transitions.append(
            (row, None, at, state.type.value, state.name, message, run.run_count)
        )

    def _logged(self, event: LogWritten) -> None:
        flow_run = self.flow_rows.get(event.flow_run_id) if event.flow_run_id else self.root
        task_run = self._row_of_id(event.task_run_id) if event.task_run_id else None
        self.batch.logs.append(
            (self.root, flow_run, task_run, event.at, event.level, event.logger,
             clean(event.run_name), clean(event.message))
        )  # fmt: skip  # as it stands in the table

    def _artifact(self, event: ArtifactMade) -> None:
        flow_run = self.flow_rows.get(event.flow_run_id) if event.flow_run_id else None
        task_run = self._row_of_id(event.task_run_id) if event.task_run_id else None
        self.batch.artifacts[event.id] = (
            event.id, event.key, event.type, clean(event.description), clean(event.data),
            self.root, flow_run, task_run, event.at, event.at
        )  # fmt: skip  # as above

    def _artifact_changed(self, event: ArtifactChanged) -> None:
        """Of many changes between two writes, the last one counts."""
        changes = self.batch.artifact_changes
        description = clean(event.description)
        if description is None and event.id in changes:
            description = changes[event.id][0]
        changes[event.id] = (description, event.data, event.at, event.id)


def _message(outcome: Outcome) -> str | None:
    error = outcome.value
    if outcome.message is None and isinstance(error, BaseException):
        return clean(f"{type(error).__name__}: {error}")
    return clean(outcome.message)
