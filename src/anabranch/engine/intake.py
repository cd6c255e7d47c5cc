"""Where calls come in: each becomes a run, with a number and what it waits for, and the tracker hears
of it; but of those that an earlier process has completed."""

# pyright: reportPrivateUsage=false
# The engine's rooms share the slots of the run record, which are private to users, and the engine's.

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from contextvars import copy_context
from itertools import chain
from typing import TYPE_CHECKING, Any

from anabranch.context import RunContext, current_context
from anabranch.dependencies import Search, needs_search
from anabranch.engine.callbacks import CallbackRunner
from anabranch.engine.collector import fewer_collections
from anabranch.engine.recall import digests_of, recall
from anabranch.engine.searches import common_search, search_of
from anabranch.engine.submission import OpenFlow, Submission
from anabranch.engine.tracker import Commands, Tally
from anabranch.errors import (
    CancelledRun,
    FinishedFlowError,
    FutureCycleError,
)
from anabranch.execution.calls import Call, Scope, TaskSpec
from anabranch.futures import Links, TaskFuture
from anabranch.identities import BY_ORDER, inputs_digest
from anabranch.outcomes import FAILED, Outcome
from anabranch.task_runners.base import OpenRunner, refuse_unsupported

if TYPE_CHECKING:
    from anabranch.engine.engine import Engine

CHUNK = 1_000
"""Runs of a map that are submitted at a time, so that the first run while the last are made."""

LOOK_EACH = 64
"""Of so many direct calls one looks whether too much waits to be recorded."""
_NO_TALLY = Tally("")
"""Stands for that of a submission until it begins, under the lock."""

Run = TaskFuture[Any]


class Intake:
    """Belongs to one engine, whose lock it takes. `tallies` counts the runs of each task, in the order
    in which the tasks came up."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._next_key = 1
        self._next_index: dict[str, int] = {}
        self._last: Submission | None = None  # of a single call, which the next may go on with
        self.tallies: dict[str, Tally] = {}

    def submit(
        self,
        spec: TaskSpec,
        inputs: Sequence[tuple[Any, ...]],
        kwargs: Mapping[str, Any],
        *,
        kwargs_each: Sequence[Mapping[str, Any]] | None = None,
        wait_for: Iterable[Any] = (),
        mapped: bool = False,
        runner: OpenRunner | None = None,
        context: RunContext | None = None,
        visible: bool = True,
        digest: bytes | None = None,
        batch_size: int | None = None,
    ) -> list[TaskFuture[Any]]:
        """Take one call for each tuple of positional arguments, in the calling context.

        `runner` carries them instead of the flow's own. `digest` stands for the inputs of a single
        call whose arguments are not here. Raises `FinishedFlowError` where the flow
        takes no more, `ForeignFutureError` for a future of another run, and
        `UnsupportedOptionError` for what the runner cannot do.
        """
        context = context or current_context()
        open_flow: OpenFlow = context.open_flow
        carrier = runner or open_flow.runner
        assert carrier is not None  # tasks look first
        if spec.special and runner is None and spec not in open_flow.accepted:
            refuse_unsupported(spec.name, spec.resources, spec.priority, carrier)
            open_flow.accepted.add(spec)
        simple = visible and not (kwargs_each or wait_for or mapped)
        if simple and len(inputs) == 1 and _is_plain(spec, inputs[0], kwargs, context):
            runs = [self._submit_plain(spec, inputs[0], kwargs, carrier, context, digest)]
        else:
            first, index, tally = self._numbers(spec, len(inputs), open_flow, visible)
            alone = simple and len(inputs) == 1 and not (kwargs or digest)
            submission = self._like_last(spec, carrier, context) if alone else None
            if submission is None or submission.offset != index - first:
                submission = self._submission(
                    spec, kwargs, kwargs_each, carrier, context, tally, visible
                )
                submission.begin_with(first, index, mapped)
                submission.digest = digest
                submission.scope.batch_size = batch_size
                if alone:
                    self._last = submission
            runs = self._submit_all(submission, first, inputs, wait_for)
        if context.transaction is not None:
            context.transaction.join(runs)
        if self._engine.told is not None and self._engine.told.pending is not None:
            self._engine.told.check()
        return runs

    def _submit_plain(
        self,
        spec: TaskSpec,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        carrier: OpenRunner,
        context: RunContext,
        digest: bytes | None,
    ) -> Run:
        """The quick way for a single run that can be launched as it is."""
        alone = not (kwargs or digest)
        submission = self._like_last(spec, carrier, context) if alone else None
        run = None if submission is None else self._next(submission, args)
        if submission is None or run is None:
            submission = self._submission(
                spec, kwargs, None, carrier, context, _NO_TALLY, visible=True
            )
            submission.digest = digest
            if alone:
                self._last = submission
            run = self._next(submission, args, begins=True)
            assert run is not None  # only one that does not begin may be refused
        carrier.launch([submission.call(run)])
        self._engine.broadcast.back_pressure()
        return run

    def _like_last(
        self, spec: TaskSpec, carrier: OpenRunner, context: RunContext
    ) -> Submission | None:
        """What the single call before was submitted with, if this one can go on with it."""
        last = self._last
        if last is not None and last.is_like(spec, carrier, context) and last.has_context():
            return last
        return None

    def submit_here(
        self, spec: TaskSpec, args: tuple[Any, ...], context: RunContext, runner: OpenRunner
    ) -> tuple[Run, Call] | None:
        """The quick way for a call like the one before which is to run at once, in the calling thread
        and its context; None where it is no such call."""
        last, told = self._last, self._engine.told
        if (
            last is None
            or context.transaction is not None
            or not last.is_like(spec, runner, context)
            or not _is_plain(spec, args, {}, context)
        ):
            return None
        if told is not None and told.pending is not None:
            told.check()  # before there is a run that nobody would end
        run = self._next(last, args)
        if run is None:
            return None
        if not run._key % LOOK_EACH:
            self._engine.broadcast.back_pressure()
        return run, last.call_here(run)

    def submit_expansion(
        self,
        name: str,
        expand: Callable[[], list[TaskFuture[Any]]],
        sources: Sequence[TaskFuture[Any]],
        digest: bytes,
    ) -> TaskFuture[list[TaskFuture[Any]]]:
        """Make more runs once these futures have settled; `digest` stands for what they are made of.

        The future settles with them. It counts as a run of the flow, which nobody is told of.
        """
        spec = TaskSpec(name, f"anabranch:{name}", expand)
        carrier = CallbackRunner(self._engine.callbacks, self._engine)
        return self.submit(
            spec, ((),), {}, wait_for=sources, runner=carrier, visible=False, digest=digest
        )[0]

    def next_number(self) -> int:
        """A number for a run that is not a task's, unique in this engine."""
        with self._engine._lock:
            self._next_key += 1
            return self._next_key - 1

    def _submit_all(
        self,
        submission: Submission,
        first: int,
        inputs: Sequence[tuple[Any, ...]],
        wait_for: Iterable[Any],
    ) -> list[Run]:
        common = common_search(self._engine, submission, wait_for)
        runs: list[Run] = []
        with fewer_collections() if len(inputs) > CHUNK else nullcontext():
            for start in range(0, len(inputs), CHUNK):
                given = inputs[start : start + CHUNK]
                digests = digests_of(self._engine, submission, given, start)
                keys = range(first + start, first + start + len(given))
                chunk: list[Run] = [
                    TaskFuture(submission, key, args, digest)
                    for key, args, digest in zip(keys, given, digests, strict=False)
                ]
                runs += chunk
                plain = common is None and not submission.kwargs_each
                plain = plain and not needs_search(chain.from_iterable(given))
                self._submit_chunk(submission, chunk, common, plain)
        return runs

    def _numbers(
        self, spec: TaskSpec, count: int, open_flow: OpenFlow, visible: bool
    ) -> tuple[int, int, Tally]:
        """The first key and the first number of so many runs of a task, and what counts them."""
        with self._engine._lock:
            self._refuse_closed(spec, open_flow)
            tally = self._tally(spec) if visible else Tally(spec.name)
            key = self._next_key
            self._next_key += count
            index = self._next_index.get(spec.name, 0)
            self._next_index[spec.name] = index + count
        return key, index, tally

    def _refuse_closed(self, spec: TaskSpec, open_flow: OpenFlow) -> None:
        if self._engine.taken_over is not None:
            raise CancelledRun(self._engine.taken_over)
        if open_flow.group.closing or self._engine.interrupted:
            raise FinishedFlowError(spec.name, open_flow.name)

    def _submission(
        self,
        spec: TaskSpec,
        kwargs: Mapping[str, Any],
        kwargs_each: Sequence[Mapping[str, Any]] | None,
        runner: OpenRunner,
        context: RunContext,
        tally: Tally,
        visible: bool,
    ) -> Submission:
        open_flow: OpenFlow = context.open_flow
        log_prints = open_flow.log_prints if spec.log_prints is None else spec.log_prints
        if log_prints:
            self._engine.log_prints()
        scope = Scope(
            self._engine,
            open_flow,
            open_flow.flow_run,
            context.task_run_key,
            context.tags | spec.tags if spec.tags else context.tags,
            log_prints,
            self._engine.prefix,
            0,
            0,
            None,
            self._engine.keep if visible else None,
            context.transaction,
        )
        limits = ()
        if scope.tags and self._engine.records and visible:
            limits = self._engine.limits.tag_gate.limits_on(scope.tags, context)
        return Submission(
            self._engine,
            spec,
            scope,
            context,
            runner,
            kwargs,
            kwargs_each,
            copy_context(),
            tally,
            visible,
            limits,
        )

    def _tally(self, spec: TaskSpec) -> Tally:
        tally = self.tallies.get(spec.name)
        if tally is None:
            tally = self.tallies[spec.name] = Tally(spec.name)
        return tally

    def _submit_chunk(
        self, submission: Submission, chunk: list[Run], common: Search | None, all_plain: bool
    ) -> None:
        replaced: list[tuple[Run, int]] = []
        if submission.recorded is not None:
            chunk, replaced = recall(self._engine, submission, chunk, submission.recorded, common)
        if all_plain:
            self._take(submission, chunk, chunk, (), replaced=replaced)
            return
        plain: list[Run] = []
        linked: list[tuple[Run, Mapping[Run, bool]]] = []
        broken: list[Outcome] = []
        for run in chunk:
            try:
                search = search_of(self._engine, submission, run, common)
            except (FutureCycleError, RecursionError) as error:
                broken.append(broken_call(run, error, self._engine.clock.time()))
                search = None
            if search is None:
                plain.append(run)
            else:
                run._links = Links()
                run._links.search = True
                linked.append((run, search.blockers))
        self._take(submission, chunk, plain, linked, broken, replaced)

    def _next(
        self, submission: Submission, args: tuple[Any, ...], begins: bool = False
    ) -> Run | None:
        """The first run of a submission, or one more; not launched yet. None where no more can go
        on with it."""
        engine, spec, open_flow = self._engine, submission.spec, submission.scope.open_flow
        digest = None
        if engine.records:
            digest = submission.digest or inputs_digest(args, submission.kwargs)
        lock = engine._lock
        if not lock.take(False):
            lock.wait()
        try:
            if open_flow.group.closing or engine.interrupted or engine.taken_over:
                self._refuse_closed(spec, open_flow)
            key, index = self._next_key, self._next_index.get(spec.name, 0)
            if begins:
                submission.begin_with(key, index)
                submission.tally = self._tally(spec)
            elif index - key != submission.offset:
                return None
            self._next_key = key + 1
            self._next_index[spec.name] = index + 1
            if digest == BY_ORDER:
                digest = open_flow.identity(spec.key, BY_ORDER)
            run: Run = TaskFuture(submission, key, args, digest)
            if engine.broadcast.tells_submissions:
                engine.broadcast.submitted((run,), engine.clock.time())
            engine._tracker.submitted_plain(run)
        finally:
            lock.release()
        return run

    def _take(
        self,
        submission: Submission,
        chunk: Sequence[Run],
        plain: Sequence[Run],
        linked: Sequence[tuple[Run, Mapping[Run, bool]]],
        broken: Sequence[Outcome] = (),
        replaced: Sequence[tuple[Run, int]] = (),
    ) -> None:
        """Tell the tracker of new runs; those with broken arguments are plain ones that fail."""
        if not chunk:
            return
        commands = Commands()
        with self._engine._lock:
            if submission.group.closing:
                raise FinishedFlowError(submission.spec.name, submission.scope.open_flow.name)
            if self._engine.broadcast.hears_submissions and submission.visible:
                self._engine.broadcast.submitted(chunk, self._engine.clock.time(), linked, replaced)
            if plain:
                self._engine._tracker.submitted(plain, commands)
            if linked:
                now = self._engine.clock.time()
                for run, blockers in linked:
                    self._engine._tracker.submitted_linked(run, blockers, now, commands)
            self._engine._emit(commands)
        if broken:
            keys = {outcome.key for outcome in broken}
            commands.launches = [run for run in commands.launches if run._key not in keys]
            commands.submitted = [run for run in commands.submitted if run._key not in keys]
            self._engine.finished(broken)
        self._engine._carry_out(commands)
        self._engine.broadcast.back_pressure()


def _is_plain(
    spec: TaskSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any], context: RunContext
) -> bool:
    """Whether a single call's arguments are what the task is to get, and it can start at once, with
    nothing to look for: no limit, which only tags can have, and no run of an earlier process."""
    if spec.resources or spec.run_name or spec.caching is not None or spec.tags or context.tags:
        return False
    if context.open_flow.recorded or needs_search(args):
        return False
    return not kwargs or not needs_search(kwargs.values())


def broken_call(run: Run, error: BaseException, at: float) -> Outcome:
    """The outcome of a run whose arguments could not be made ready."""
    return Outcome(run._key, run._attempt, FAILED, error, at, 0.0)
