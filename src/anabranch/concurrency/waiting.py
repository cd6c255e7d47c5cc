"""Waiting for slots of limits: in a thread or on a loop, in whatever process, inside or outside of a
run."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any

from anabranch.context import current_context
from anabranch.engine.slot_keeper import SlotKeeper, Ticket
from anabranch.errors import OptionError
from anabranch.limits import Wanted
from anabranch.store.slots import open_slots
from anabranch.waiting import Waiter

if TYPE_CHECKING:
    import asyncio


class Alone:
    """Takes slots outside of any run, for one block."""

    def __init__(self) -> None:
        self._keeper = SlotKeeper(open_slots)

    def take_slots(
        self, wanted: Wanted, timeout: float | None, then: Callable[[BaseException | None], object]
    ) -> Ticket:
        return self._keeper.take(wanted, timeout, then)

    def give_slots(self, ticket: Ticket) -> None:
        self._keeper.give(ticket)
        self._keeper.close(10.0)

    def slot_patience(self) -> float:
        return math.inf

    def lending(self) -> nullcontext[None]:
        """Nobody's worker waits."""
        return nullcontext()


def _source() -> Any:
    """Whom the calling code asks for slots."""
    engine = current_context().engine
    return Alone() if engine is None else engine.limits


class Request:
    """What one `concurrency` or `rate_limit` asks for, checked."""

    __slots__ = ("timeout", "wanted")

    def __init__(
        self,
        names: str | Iterable[str],
        occupy: int,
        timeout_seconds: float | None,
        strict: bool,
        rate: bool,
    ) -> None:
        owner = "rate_limit" if rate else "concurrency"
        every: list[Any] = [names] if isinstance(names, str) else list(names)
        if not all(isinstance(name, str) for name in every):
            raise OptionError(owner, "names", names, "the name of a limit, or several")
        if isinstance(occupy, bool) or not isinstance(occupy, int) or occupy < 1:  # pyright: ignore[reportUnnecessaryIsInstance]  # users without a type checker
            raise OptionError(owner, "occupy", occupy, "a whole number, 1 or more")
        if timeout_seconds is not None and not 0 <= timeout_seconds < 1e9:
            raise OptionError(owner, "timeout_seconds", timeout_seconds, "seconds, 0 or more")
        self.wanted = Wanted(tuple(sorted(set(every))), occupy, strict, rate)
        self.timeout = timeout_seconds

    def take(self) -> Holding:
        """Wait in this thread."""
        source = _source()
        answers: list[BaseException | None] = []
        waiter = Waiter()

        def then(error: BaseException | None) -> None:
            answers.append(error)
            waiter.wake()

        with self._asked(source, then) as holding:
            patience = source.slot_patience()
            if not waiter.block(None if patience == math.inf else patience):
                with source.lending():
                    while not answers:
                        waiter.block()
            _raise(answers[0])
        return holding

    async def take_async(self) -> Holding:
        """Wait on the running loop."""
        import asyncio  # on whose loop this runs, so that it is loaded

        source = _source()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[BaseException | None] = loop.create_future()

        def settle(error: BaseException | None) -> None:
            if not answer.done():
                answer.set_result(error)

        def then(error: BaseException | None) -> None:
            if not loop.is_closed():  # else nobody is there to know
                loop.call_soon_threadsafe(settle, error)

        with self._asked(source, then) as holding:
            patience = source.slot_patience()
            await asyncio.wait((answer,), timeout=None if patience == math.inf else patience)
            if not answer.done():
                with source.lending():
                    await answer
            _raise(answer.result())
        return holding

    @contextmanager
    def _asked(
        self, source: Any, then: Callable[[BaseException | None], object]
    ) -> Generator[Holding]:
        holding = Holding(source, source.take_slots(self.wanted, self.timeout, then))
        try:
            yield holding
        except BaseException:
            holding.give()
            raise


class Holding:
    """Slots that are held, or waited for, until they are given back."""

    __slots__ = ("_source", "_ticket")

    def __init__(self, source: Any, ticket: Any) -> None:
        self._source = source
        self._ticket = ticket

    def give(self) -> None:
        self._source.give_slots(self._ticket)


class Slots:
    """Holds slots for the length of a `with` or `async with` block."""

    __slots__ = ("_holdings", "_request")

    def __init__(self, request: Request) -> None:
        self._request = request
        self._holdings: list[Holding] = []

    def __enter__(self) -> None:
        if self._request.wanted.names:
            self._holdings.append(self._request.take())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._holdings:
            self._holdings.pop().give()

    async def __aenter__(self) -> None:
        if self._request.wanted.names:
            self._holdings.append(await self._request.take_async())

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, trace)


def use(request: Request) -> None:
    """Use slots up; waits in this thread."""
    if request.wanted.names:
        request.take().give()


async def use_async(request: Request) -> None:
    """The same on the running loop."""
    if request.wanted.names:
        (await request.take_async()).give()


def _raise(error: BaseException | None) -> None:
    if error is not None:
        raise error
