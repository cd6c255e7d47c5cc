"""Which futures new runs wait for: those that all of a submission do, and those of each."""

# pyright: reportPrivateUsage=false
# The engine's rooms share the slots of the run record, which are private to users, and the engine's.

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from anabranch.dependencies import Search, find_blockers, needs_search
from anabranch.engine.submission import Submission
from anabranch.errors import ForeignFutureError
from anabranch.futures import TaskFuture
from anabranch.outcomes import DORMANT

if TYPE_CHECKING:
    from anabranch.engine.engine import Engine

Run = TaskFuture[Any]


def common_search(engine: Engine, submission: Submission, wait_for: Iterable[Any]) -> Search | None:
    """The futures that all runs of a submission wait for."""
    common = None
    wait_for = (wait_for,) if isinstance(wait_for, TaskFuture) else tuple(wait_for)
    if wait_for or needs_search(submission.kwargs.values()):
        common = find_blockers(submission.spec.name, submission.kwargs)
        if wait_for:
            waited = find_blockers(f"wait_for of {submission.spec.name}", wait_for)
            if waited.unknown:
                submission.wait_for = wait_for
            for future, allowed in waited.blockers.items():
                if future._phase != DORMANT:  # it has completed: its value is not wanted
                    common.blockers[future] = allowed and common.blockers.get(future, True)
        _refuse_foreign(engine, submission, common)
    return common if common is not None and common.needed else None


def search_of(
    engine: Engine, submission: Submission, run: Run, common: Search | None
) -> Search | None:
    """What one run waits for; None where its inputs are plain."""
    values: list[Any] = [run._inputs]
    if submission.kwargs_each is not None:
        values.append(submission.kwargs_of(run))
    search = find_blockers(submission.spec.name, *values)
    _refuse_foreign(engine, submission, search)
    if common is not None:
        for future, allowed in common.blockers.items():
            search.blockers[future] = allowed and search.blockers.get(future, True)
        search.annotated = True
    return search if search.needed else None


def _refuse_foreign(engine: Engine, submission: Submission, search: Search) -> None:
    for future in search.blockers:
        if future._shared.home is not engine:
            raise ForeignFutureError(future.name, submission.spec.name)
