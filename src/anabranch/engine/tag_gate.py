"""Limits by tag: task runs with the tag of a limit get a slot of it before they get a worker.

Which limits there are is read at the first tagged task, and again from time to time while more come.
That first answer is waited for a moment; until it is there, each tag counts as limited, and slots of
a limit that does not exist are had for the asking. A run that is started inside a task run with the
same tag goes under that one's slot: it would else wait for what only its own end can free.
"""

# pyright: reportPrivateUsage=false
# The engine's rooms share the slots of the run record, which are private to users.

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from anabranch.context import RunContext, TaskRunContext
from anabranch.engine.slot_keeper import SlotKeeper, Ticket
from anabranch.futures import TaskFuture
from anabranch.limits import TAG, SlotStore, Wanted
from anabranch.outcomes import FAILED, Outcome
from anabranch.waiting import Waiter

if TYPE_CHECKING:
    from anabranch.engine.engine import Engine
    from anabranch.engine.submission import OpenFlow

logger = logging.getLogger("anabranch.limits")

READ_SECONDS = 3.0
"""Between two looks at which limits there are."""
FIRST_SECONDS = 0.1
"""How long the first tagged task waits for the answer, which takes a few milliseconds."""
Run = TaskFuture[Any]


class TagGate:
    """Belongs to one engine; `apply` is called with the engine's lock held."""

    def __init__(self, engine: Engine, keeper: SlotKeeper) -> None:
        self._engine = engine
        self._keeper = keeper
        self._known: frozenset[str] | None = None
        self._read_at: float | None = None
        self._told = False
        self._learned = Waiter()
        self._tickets: dict[int, Ticket] = {}

    def limits_on(self, tags: frozenset[str], context: RunContext) -> tuple[str, ...]:
        """The names of the limits that runs with these tags, started there, have to keep."""
        now = time.monotonic()
        if self._read_at is None or now - self._read_at > READ_SECONDS:
            first, self._read_at = self._read_at is None, now
            self._keeper.call(_tag_limits, self._learn)
            if first:
                self._learned.block(FIRST_SECONDS)
        if self._known is not None and not self._known:
            return ()
        tags -= self._tags_around(context)
        names = {TAG + tag for tag in tags}
        return tuple(sorted(names if self._known is None else names & self._known))

    def _tags_around(self, context: RunContext) -> frozenset[str]:
        """Those of the task run that the calling code stands in, directly or by a subflow."""
        if isinstance(context, TaskRunContext):
            return context.call.scope.tags
        open_flow: OpenFlow | None = context.open_flow
        while open_flow is not None:
            flow_run = open_flow.flow_run
            if flow_run is not None and flow_run.parent_task_run_id is not None:
                return self._engine.tags_of(flow_run.parent_task_run_id)
            open_flow = open_flow.parent
        return frozenset()

    def _learn(self, names: frozenset[str], error: BaseException | None) -> None:
        self._known = names if error is None else self._known or frozenset()
        self._learned.wake()
        if error is not None and not self._told:
            self._told = True
            logger.warning("Limits by tag are not known, and limit nothing: %s", error)

    def apply(self, released: Sequence[Run], gated: Sequence[Run]) -> None:
        """Give back the slots of some runs, and ask for those of others."""
        for run in released:
            ticket = self._tickets.pop(run._key, None)
            if ticket is not None:
                self._keeper.give(ticket)
        for run in gated:
            shared: Any = run._shared
            answered = partial(self._answered, run, run._attempt)
            self._tickets[run._key] = self._keeper.take(Wanted(shared.limits), None, answered)

    def _answered(self, run: Run, attempt: int, error: BaseException | None) -> None:
        if error is None:
            self._engine.admitted(run, attempt)
            return
        at = self._engine.clock.time()
        self._engine.finish_without_retry(Outcome(run._key, attempt, FAILED, error, at, 0.0))


def _tag_limits(slots: SlotStore) -> frozenset[str]:
    return slots.tag_limits()
