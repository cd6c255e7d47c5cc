"""New runs that an earlier process has recorded: how they are known again, and handed back."""

# pyright: reportPrivateUsage=false
# The engine's rooms share the slots of the run record, which are private to users, and the engine's.

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any

from anabranch.dependencies import Search
from anabranch.engine.searches import search_of
from anabranch.engine.submission import Submission
from anabranch.errors import ResultNotKeptError
from anabranch.futures import Links, Recalled, TaskFuture
from anabranch.identities import BY_ORDER, inputs_digests
from anabranch.outcomes import COMPLETED, Away, Outcome
from anabranch.recorded import Recorded

if TYPE_CHECKING:
    from anabranch.engine.engine import Engine

Run = TaskFuture[Any]


def digests_of(
    engine: Engine, submission: Submission, inputs: Sequence[tuple[Any, ...]], start: int
) -> Iterable[bytes | None]:
    """What makes each call the same call in a later process: of those from `start` on."""
    if not engine.records:
        return repeat(None)
    key, identity = submission.spec.key, submission.scope.open_flow.identity
    if submission.digest is not None:
        return (identity(key, submission.digest),)
    each = submission.kwargs_each
    if each is not None:
        each = each[start : start + len(inputs)]
    digests = inputs_digests(inputs, submission.kwargs, each)
    if BY_ORDER in digests:
        digests = [identity(key, digest) for digest in digests]
    return digests


def recall(
    engine: Engine,
    submission: Submission,
    chunk: Sequence[Run],
    recorded: Recorded,
    common: Search | None,
) -> tuple[list[Run], list[tuple[Run, int]]]:
    """Settle those that were recorded as completed; the others, and which runs they replace."""
    key, source = submission.spec.key, submission.spec.source
    known: list[Run] = []
    left: list[Run] = []
    replaced: list[tuple[Run, int]] = []
    for run in chunk:
        digest = run._digest or BY_ORDER
        call = recorded.take(key, digest, source, digest.startswith(BY_ORDER))
        if call is None:
            left.append(run)
        elif not call.completed:
            left.append(run)
            replaced.append((run, call.row))
        else:
            run._links = run._links or Links()
            run._links.recalled = Recalled(call.row, call.id)
            run._links.name = call.name
            try:
                value = call.value()
            except ResultNotKeptError:
                recorded.lacks_value(key)
                search = search_of(engine, submission, run, common)
                run._links.search = search is not None
                with engine._lock:
                    engine._tracker.dormant(run, {} if search is None else search.blockers)
                continue
            if not submission.spec.in_memory:
                value = Away(call.value)
            run._outcome = Outcome(
                run._key, 1, COMPLETED, value, call.started, call.seconds, None, call.state_name
            )
            known.append(run)
    if known:
        with engine._lock:
            engine._tracker.recalled(known)
    return left, replaced
