"""Slots of limits for the code of one run, and for its task runs whose tags have a limit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

from anabranch import late
from anabranch.limits import SlotStore, Wanted
from anabranch.waiting import Waiter

if TYPE_CHECKING:
    from anabranch.engine.engine import Engine
    from anabranch.engine.slot_keeper import Answered, SlotKeeper, Ticket
    from anabranch.engine.tag_gate import TagGate

CROWD = 100
"""Calls that wait for slots before the next ones are slow to lend their workers."""


class LimitDesk:
    """Belongs to one engine. What takes slots is made by the first that asks, in the store that
    `open_slots` opens, by default that of the settings."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.open_slots: Callable[[], SlotStore] | None = None
        self._slot_keeper: SlotKeeper | None = None
        self._gate: TagGate | None = None
        self._making = threading.Lock()

    @property
    def slot_keeper(self) -> SlotKeeper:
        if self._slot_keeper is None:
            with self._making:
                if self._slot_keeper is None:
                    self._slot_keeper = late.SlotKeeper(self.open_slots or late.open_slots)
        return self._slot_keeper

    @property
    def tag_gate(self) -> TagGate:
        keeper = self.slot_keeper
        if self._gate is None:
            with self._making:
                if self._gate is None:
                    self._gate = late.TagGate(self._engine, keeper)
        return self._gate

    def take_slots(self, wanted: Wanted, timeout: float | None, then: Answered) -> Ticket:
        """See `SlotKeeper.take`."""
        return self.slot_keeper.take(wanted, timeout, then)

    def give_slots(self, ticket: Ticket) -> None:
        self.slot_keeper.give(ticket)

    def slot_patience(self) -> float:
        """Seconds that a call waits for slots until it lends its worker: each lending may cost a
        thread, so that a crowd lends later."""
        return 0.02 if self.slot_keeper.waiting < CROWD else 1.0

    def lending(self) -> AbstractContextManager[None]:
        """Give up the slots of task runners that the calling code holds."""
        return self._engine.lending()

    def ask_limits(self, fn: Callable[..., Any], *args: Any) -> Any:
        """What a function of `store.limits` gives for the store of this run."""
        answer: list[Any] = []
        waiter = Waiter()

        def then(value: Any, error: BaseException | None) -> None:
            answer.extend((value, error))
            waiter.wake()

        self.when_asked(fn, args, then)
        while not answer:
            waiter.block()
        if answer[1] is not None:
            raise answer[1]
        return answer[0]

    def when_asked(
        self,
        fn: Callable[..., Any],
        args: Sequence[Any],
        then: Callable[[Any, BaseException | None], object],
    ) -> None:
        """The same without waiting: `then` gets the value or the error."""
        self.slot_keeper.call(partial(_asked, fn, args), then)

    def close(self, seconds: float) -> None:
        if self._slot_keeper is not None:
            self._slot_keeper.close(seconds)


def _asked(fn: Callable[..., Any], args: Sequence[Any], slots: Any) -> Any:
    return fn(slots.database, *args)
