"""Slots of limits for code on a worker: the flow's process takes and holds them for the call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from anabranch.execution.portable import received_exception
from anabranch.execution.requests import AskLimits, GiveSlots, SlotsTaken, TakeSlots
from anabranch.limits import Wanted

Then = Callable[[BaseException | None], object]


class RemoteLimits:
    """What `engine.limit_desk.LimitDesk` is in the flow's process. `send` and `ask` are those of the
    channel, `numbers` tell requests apart."""

    def __init__(
        self,
        send: Callable[[Any, str], None],
        ask: Callable[[Any, str], Any],
        numbers: Iterator[int],
        lending: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._send = send
        self._ask = ask
        self._numbers = numbers
        self._waiting: dict[int, Then] = {}  # by ticket
        self.lending = lending

    def take_slots(self, wanted: Wanted, timeout: float | None, then: Then) -> int:
        ticket = next(self._numbers)
        self._waiting[ticket] = then
        self._send(TakeSlots(ticket, wanted, timeout), "A request for slots")
        return ticket

    def give_slots(self, ticket: int) -> None:
        self._waiting.pop(ticket, None)
        self._send(GiveSlots(ticket), "Slots")

    def slot_patience(self) -> float:
        """A crowd has no room in one process."""
        return 0.02

    def ask_limits(self, fn: Callable[..., Any], *args: Any) -> Any:
        return self._ask(AskLimits(fn, args), "Limits")

    def told(self, notice: SlotsTaken) -> None:
        """The slots were taken, or could not be."""
        then = self._waiting.pop(notice.ticket, None)
        if then is not None:
            then(None if notice.error is None else received_exception(notice.error))
