"""Writes what a run's engine tells: a batch of events becomes rows, and one transaction."""

# pyright: reportPrivateUsage=false
# The writer reads the slots of the run record, which are private to users.

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

from anabranch import late
from anabranch.errors import (
    FullStoreError,
    LockedStoreError,
    StaleOwnerError,
    StoreError,
    UnreachableStoreError,
)
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
from anabranch.failpoints import AFTER_COMMIT, BEFORE_COMMIT, failpoint
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
from anabranch.recorded import Recorded
from anabranch.results.kept import keep_inline
from anabranch.results.signing import sign
from anabranch.runs import FlowRun
from anabranch.store import rows
from anabranch.store.batches import Batch
from anabranch.store.database import Database, clean
from anabranch.store.sessions import BEAT_SECONDS, beat, close_session, open_session
from anabranch.store.settled_runs import Basket, SettledRuns

logger = logging.getLogger("anabranch.store")

Run = TaskFuture[Any]
RETRY_SECONDS = 1.0
"""Between two tries to write into a store that is locked or full."""
PATIENCE_SECONDS = 30.0
"""How long a locked store is waited for at the end of a run, and a full one a tenth of that."""
MOST_SAMPLED = 1_000
"""Unsettled runs that are looked at each time for those that have no row yet."""
MOST_PLACES = 1_000
MOST_ROWS = 50_000
"""Rows that wait in memory for such a store, until the run itself has to wait."""


class Settle(NamedTuple):
    """What the engine is told in strict durability: these were kept, or not, and then why."""

    runs: Sequence[Run]
    error: StoreError | StaleOwnerError | None


class StoreWriter:
    """See `events.Recorder`. Belongs to one engine, whose runs' ids begin with `prefix`.

    `settle` is called in strict durability after each batch, with the runs in it; `fence` once if
    another process has taken the run over. `running` gives the runs that run right now,
    `unsettled` the oldest that have not settled.
    """

    beat_seconds = BEAT_SECONDS / 2

    def __init__(
        self,
        database: Database,
        prefix: int,
        secret: bytes,
        strict: bool,
        inline_limit: int,
        session: int | None = None,
    ) -> None:
        self.database = database
        self.strict = strict
        self.settle: Callable[[Settle], None] = _ignore
        self.fence: Callable[[StaleOwnerError], None] = _ignore
        self.running: Callable[[], Iterable[Run]] = tuple
        self.unsettled: Callable[[int], Iterable[Run]] = _none
        self._prefix = f"{prefix >> 48:020x}"
        self.secret = secret
        self._limit = inline_limit
        self._basket = Basket(inline_limit, strict)
        self._session = session
        self._opening = threading.Lock()
        self._root: int | None = None
        self._tasks: dict[tuple[str, str, bytes], int] = {}
        self._flow_rows: dict[str, int] = {}
        self._batch = Batch()
        self._unwritten = 0
        self._broken: Exception | None = None
        self._beaten = time.monotonic()
        self._shown: set[tuple[int, int, int]] = set()  # row, attempt and phase
        self._places: dict[
            tuple[int, int, str | None], tuple[Any, int | None, int, int | None]
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

    # -- events ---------------------------------------------------------------------------------

    def receive(self, events: Sequence[Event]) -> None:
        settled = self._basket.emptied()
        try:
            self._take(events, settled)
            crowded = self._batch.count > MOST_ROWS
            self._write(PATIENCE_SECONDS if self.strict or crowded else 0.0)
        except Exception as error:
            self._give_up(error)
        if settled.runs:
            error = self._broken if isinstance(self._broken, StoreError | StaleOwnerError) else None
            self.settle(Settle(settled.runs, error))

    def beat(self) -> None:
        """Show that this engine lives, and what it runs."""
        if self._broken is not None or self._session is None:
            return
        try:
            self._sample()
            self._write(0.0)
        except Exception as error:
            self._give_up(error)

    def recorded(self, flow_run: FlowRun) -> Recorded:
        row = self._flow_rows.get(flow_run.id)
        if row is None or self._broken is not None:
            return Recorded(())
        return late.recorded_calls(self.database, self.secret, row)

    def close(self) -> None:
        """Write what is left, with some patience, and end the session."""
        try:
            self._write(PATIENCE_SECONDS)
            if self._session is not None and self._broken is None:
                with self.database.transaction() as transaction:
                    close_session(transaction, self._session, time.time())
        except Exception as error:
            self._give_up(error)
        if self._unwritten:
            logger.error("%d task runs were not recorded", self._unwritten)
        self.database.close()

    def _take(self, events: Sequence[Event], settled: SettledRuns) -> None:
        """Make rows of events. Runs that settled come last: the rows of all else are there then."""
        for event in events:
            if event is not None and self._broken is None:
                self._takers[type(event)](event)
        if self._broken is not None:
            self._unwritten += settled.count
        elif settled.count:
            self._add_settled(settled)

    # -- task runs ------------------------------------------------------------------------------

    def settled(self, runs: Sequence[Run]) -> bool:
        return self._basket.put(runs)

    def _add_settled(self, settled: SettledRuns) -> None:
        base = self._base()
        self._batch.count += settled.count
        for alike in settled.alike.values():
            values = alike.values
            if not values:
                continue
            flow_run, task, _, _ = self._place_of(alike.shared)
            values[0 :: alike.WIDTH] = [base | key for key in values[0 :: alike.WIDTH]]
            parents = values[6 :: alike.WIDTH]
            if any(parents):
                values[6 :: alike.WIDTH] = [
                    None if parent is None else self._row_of_id(parent) for parent in parents
                ]
            self._batch.completed.setdefault((flow_run, task), []).extend(values)
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
        self._batch.runs[row] = (
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
            data = sign(self.secret, key, data)
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
            self._batch.submissions.append(
                (base | first._key, flow_run, parent, task, len(event.runs), first._key + offset,
                 scope.map_id, event.at)
            )  # fmt: skip  # as it stands in the table
        else:
            for run in event.runs:
                if run._phase >= SETTLED:
                    continue
                row = self._row_of(run)
                self._batch.runs[row] = (
                    row, flow_run, task, run._key + offset, WAITING, run._attempt, None, None,
                    run._digest, None, None, None, None, None, parent, None, event.at
                )  # fmt: skip  # as above
        self._batch.replaced += [(base | run._key, old) for run, old in event.replaced]
        for run, upstream in event.linked:
            row = self._row_of(run)
            self._batch.dependencies += [(row, self._row_of(each)) for each in upstream]

    def _changed(self, event: TaskRunChanged) -> None:
        """Only what is not usual has a row of its own."""
        if event.phase >= SETTLED:
            return
        shared: Any = event.run._shared
        flow_run = self._flow_rows.get(shared.scope.flow_run.id) if shared.scope.flow_run else None
        outcome = event.outcome
        attempt = event.run._attempt if outcome is None else outcome.attempt
        message = None if outcome is None else _message(outcome)
        self._batch.transitions.append(
            (flow_run, self._row_of(event.run), event.at, *PHASE_STATES[event.phase], message,
             attempt)
        )  # fmt: skip  # as it stands in the table

    def _rolled_back(self, event: TaskRunsRolledBack) -> None:
        for run in event.runs:
            shared: Any = run._shared
            flow_run, row = self._place_of(shared)[0], self._row_of(run)
            self._batch.rolled_back.append(row)
            self._batch.transitions.append(
                (flow_run, row, event.at, "COMPLETED", ROLLED_BACK, None, run._attempt)
            )

    def _sample(self) -> None:
        """Rows for what runs or waits for a while: of short runs, nobody sees that they did."""
        now = time.time()
        running = {self._row_of(run): (run, RUNNING, now) for run in self.running()}
        unsettled = {
            self._row_of(run): (run, WAITING, None) for run in self.unsettled(MOST_SAMPLED)
        }
        seen: set[tuple[int, int, int]] = set()
        for row, (run, phase, started) in {**unsettled, **running}.items():
            shared: Any = run._shared
            mapped = shared.scope.map_id is not None
            shown = row, run._attempt, phase
            seen.add(shown)
            if shown in self._shown or run._phase >= SETTLED or (mapped and phase == WAITING):
                continue
            flow_run, task, offset, parent = self._place_of(shared)
            self._batch.runs[row] = (
                row, flow_run, task, run._key + offset, phase, run._attempt, started, None,
                run._digest, None, None, None, None, None, parent, None, now
            )  # fmt: skip  # as it stands in the table
        self._shown = seen

    def _place_of(self, shared: Any) -> tuple[int | None, int, int, int | None]:
        """Of a submission: its flow run, its task, what makes a key the run's number, its parent."""
        scope, spec = shared.scope, shared.spec
        place = (id(spec), id(scope.flow_run), scope.parent_task_run_id)
        known = self._places.get(place)
        if known is None:
            known = self._new_place(scope, spec)
            if len(self._places) > MOST_PLACES:
                self._places.clear()
            self._places[place] = known
        _, flow_run, task, parent = known
        return flow_run, task, scope.first_index - scope.first_key, parent

    def _new_place(self, scope: Any, spec: Any) -> tuple[Any, int | None, int, int | None]:
        flow_run = None if scope.flow_run is None else self._flow_rows.get(scope.flow_run.id)
        identity = (spec.key, spec.name, spec.source)
        task = self._tasks.get(identity)
        if task is None:
            task = self._tasks[identity] = self._patiently(partial(self._new_task, identity))
        parent = scope.parent_task_run_id
        parent = None if parent is None else self._row_of_id(parent)
        return (spec, scope.flow_run), flow_run, task, parent  # the first two: kept, for their ids

    def _new_task(self, identity: tuple[str, str, bytes]) -> int:
        with self.database.transaction() as transaction:
            transaction.execute(
                "INSERT INTO task (key, name, source) VALUES (?, ?, ?) "
                "ON CONFLICT (key, name, source) DO NOTHING RETURNING id",
                identity,
            )
            found = transaction.execute(
                "SELECT id FROM task WHERE key = ? AND name = ? AND source = ?", identity
            )
        return found[0][0]

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
        return self.session() << rows.KEY_BITS

    def session(self) -> int:
        """The number of this engine's session, opened by the first that asks."""
        if self._session is None:
            with self._opening:
                if self._session is None:
                    self._session = self._patiently(
                        partial(open_session, self.database, self._prefix, time.time())
                    )
        return self._session

    def _patiently(self, write: Callable[[], int]) -> int:
        """Write something that all else needs, once the store is not held by another process."""
        until = time.monotonic() + 2 * PATIENCE_SECONDS
        while True:
            try:
                return write()
            except (LockedStoreError, UnreachableStoreError) as error:
                if not self._waits(error, until):
                    raise

    # -- flow runs ------------------------------------------------------------------------------

    def _began(self, event: FlowRunBegan) -> None:
        run, about = event.run, event.about
        row = about.row
        if row is None:
            row = self._base() | int(run.id.replace("-", "")[20:], 16)
        self._flow_rows[run.id] = row
        if self._root is None:
            self._root = row
            if about.row is None:
                self._batch.roots.append(row)
        parent = run.parent_flow_run_id
        started = time.time() if run.start_time is None else run.start_time.timestamp()
        parameters = about.parameters
        if parameters is not None:
            parameters = sign(self.secret, run.id, parameters)
        self._batch.flow_runs[row] = (
            row, run.id, self._root, self._flow_rows.get(parent) if parent else None,
             run.parent_task_run_id, run.name, run.flow_name, about.flow_key, about.flow_source,
             about.entrypoint, about.runner, json.dumps(sorted(run.tags)), about.inputs, parameters,
             clean(about.preview), about.not_resumable, *PHASE_STATES[RUNNING], started, started,
             run.run_count,
        )  # fmt: skip  # as it stands in the table

    def _flow_changed(self, event: FlowRunChanged) -> None:
        run, state = event.run, event.state
        row = self._flow_rows.get(run.id)
        if row is None:  # it was refused before it began
            return
        at = state.timestamp.timestamp()
        form = data = preview = None
        if event.kept is not None:
            form, data, preview = self._at_rest(event.kept, run.id)
        message = clean(state.message)
        self._batch.flow_changes.append(
            (state.type.value, state.name, message, at if state.is_final() else None,
             run.run_count, form, data, preview, row)
        )  # fmt: skip  # as it stands in the statement
        self._batch.transitions.append(
            (row, None, at, state.type.value, state.name, message, run.run_count)
        )

    def _logged(self, event: LogWritten) -> None:
        flow_run = self._flow_rows.get(event.flow_run_id) if event.flow_run_id else self._root
        task_run = self._row_of_id(event.task_run_id) if event.task_run_id else None
        self._batch.logs.append(
            (self._root, flow_run, task_run, event.at, event.level, event.logger,
             clean(event.run_name), clean(event.message))
        )  # fmt: skip  # as it stands in the table

    def _artifact(self, event: ArtifactMade) -> None:
        flow_run = self._flow_rows.get(event.flow_run_id) if event.flow_run_id else None
        task_run = self._row_of_id(event.task_run_id) if event.task_run_id else None
        self._batch.artifacts[event.id] = (
            event.id, event.key, event.type, clean(event.description), clean(event.data),
            self._root, flow_run, task_run, event.at, event.at
        )  # fmt: skip  # as above

    def _artifact_changed(self, event: ArtifactChanged) -> None:
        """Of many changes between two writes, the last one counts."""
        changes = self._batch.artifact_changes
        description = clean(event.description)
        if description is None and event.id in changes:
            description = changes[event.id][0]
        changes[event.id] = (description, event.data, event.at, event.id)

    # -- the store ------------------------------------------------------------------------------

    def _write(self, patience: float) -> None:
        """Commit the batch; one that cannot be written now stays, and is tried with the next."""
        if self._broken is not None or self._session is None:
            return
        now = time.monotonic()
        if self._batch.empty() and now - self._beaten < BEAT_SECONDS:
            return
        until = now + patience
        while True:
            try:
                with self.database.transaction() as transaction:
                    beat(transaction, self._session)
                    self._batch.write(transaction, self._session)
                    failpoint(BEFORE_COMMIT)
                failpoint(AFTER_COMMIT)
                break
            except (LockedStoreError, UnreachableStoreError) as error:
                if not self._waits(error, until):
                    if self.strict and patience:
                        raise  # those who wait must not take it for written
                    return
            except FullStoreError as error:
                if self._batch.count > MOST_ROWS:
                    raise
                if not self._waits(error, now + patience / 10):
                    if patience:
                        raise
                    return
        self._beaten = time.monotonic()
        self._batch = Batch()

    def _waits(self, error: StoreError, until: float) -> bool:
        """A store that is locked, full or out of reach may be better soon: whether to try again now."""
        if not self._batch.told:
            self._batch.told = True
            logger.warning("%s The run goes on, and is recorded once that works.", error)
        if time.monotonic() >= until:
            return False
        time.sleep(RETRY_SECONDS)
        return True

    def _give_up(self, error: Exception) -> None:
        """Nothing more is written. The run goes on, but in strict durability."""
        if self._broken is not None:
            return
        self._broken = error
        self._unwritten += self._batch.count
        self._batch = Batch()
        if isinstance(error, StaleOwnerError):
            logger.error("%s", error)
            self.fence(error)
        elif isinstance(error, StoreError):
            goes_on = "fails, as its durability is strict" if self.strict else "goes on unrecorded"
            logger.error("%s The run %s.", error, goes_on)
        else:
            logger.exception("The store's writer failed; the run goes on without being recorded")


def _message(outcome: Outcome) -> str | None:
    error = outcome.value
    if outcome.message is None and isinstance(error, BaseException):
        return clean(f"{type(error).__name__}: {error}")
    return clean(outcome.message)


def _none(_: int) -> Iterable[Run]:
    return ()


def _ignore(_: Any) -> None:
    """Nobody has asked yet."""
