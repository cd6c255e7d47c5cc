"""Streams: a task over items that come one after the other, for ever maybe, with few of them in memory.

One generator decides what is next; two drivers do it, for `for` and for `async for`.
"""

# pyright: reportPrivateUsage=false
# Whether a run has settled is read here, a slot of its record that is private to users.

from __future__ import annotations

from collections import deque
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import closing
from enum import Enum
from itertools import islice
from time import monotonic
from typing import Any, Generic, NamedTuple, TypeVar

from anabranch.context import RunContext
from anabranch.errors import StreamSourceError, StreamUsedError
from anabranch.futures import TaskFuture
from anabranch.outcomes import SETTLED
from anabranch.waiting import Waiter

R = TypeVar("R", covariant=True)
Submit = Callable[[Sequence[Any]], list[TaskFuture[R]]]

CHUNK = 128
"""Items are taken from their source and submitted so many at a time,"""
CHUNK_SECONDS = 0.002
"""or as many as come in such a time."""
OLDEST = 8
"""So many are waited for first: mostly one of them is the next to settle,"""
SOON_SECONDS = 0.005
"""else all are after such a time."""


class Wait(Enum):
    """What a stream does next where it yields no future."""

    FOR_ITEMS = "ask the source for items"
    FOR_ANY = "wait until one of those in flight has settled"


class Taken(NamedTuple):
    """What a source had at once. `end` where there will be no more, `error` why if it is no usual
    end; `quick` where it could have had more."""

    items: list[Any]
    end: bool = False
    error: BaseException | None = None
    quick: bool = False


class Flight(Generic[R]):
    """Calls whose futures were not given to the consumer yet."""

    def __init__(self, most: int, ordered: bool) -> None:
        self.most = most
        self.chunk = min(CHUNK, max(1, most // 4))
        self._ordered = ordered
        self._settled: deque[TaskFuture[R]] = deque()
        self._out: dict[TaskFuture[R], bool] = {}  # in order; whether it will tell

    @property
    def room(self) -> int:
        return self.most - len(self._out) - len(self._settled)

    @property
    def empty(self) -> bool:
        return not self._out and not self._settled

    def add(self, futures: Iterable[TaskFuture[R]]) -> None:
        self._out.update(dict.fromkeys(futures, False))

    def next_settled(self) -> TaskFuture[R] | None:
        """Take one out; all that have settled meanwhile are looked for together."""
        if not self._settled:
            found: list[TaskFuture[R]] = []
            for future in self._out:
                if future._phase >= SETTLED:
                    found.append(future)
                elif self._ordered:
                    break
            for future in found:
                del self._out[future]
            self._settled.extend(found)
        return self._settled.popleft() if self._settled else None

    def have_told(self, tell: Callable[[TaskFuture[R]], object], few: bool = False) -> bool:
        """Have `tell` called when one settles, or one of the oldest; whether one has meanwhile, told
        of or not."""
        most = 1 if self._ordered else (OLDEST if few else None)
        for future in list(islice(self._out, most)):
            if future._phase >= SETTLED:
                return True
            if not self._out[future]:
                if not future._shared.home.notify(future, tell):
                    return True
                self._out[future] = True
        return False

    def oldest(self) -> list[TaskFuture[R]]:
        return list(islice(self._out, OLDEST))

    def cancel(self) -> None:
        """Ask for the end of all that is left."""
        left = list(self._out)
        self._out.clear()
        if left:
            left[0]._shared.home.cancel(left)


class FutureStream(Generic[R]):
    """The futures of a stream, to `for` and to `async for`, once; see `Task.stream`.

    Leaving the loop early cancels what is left.
    """

    def __init__(
        self, name: str, source: object, context: RunContext, submit: Submit[R], flight: Flight[R]
    ) -> None:
        if isinstance(source, str | bytes):
            raise StreamSourceError(name, source, "is text, which is rarely meant item by item")
        if not isinstance(source, Iterable | AsyncIterable):
            raise StreamSourceError(name, source, "is not iterable")
        self._name = name
        self._source: Any = source
        self._context = context
        self._submit = submit
        self._flight = flight
        self._begun = False

    def __repr__(self) -> str:
        return f"<FutureStream of {self._name}>"

    def _course(self) -> Generator[Wait | TaskFuture[R], Taken | None]:
        """What is next: futures for the consumer, or what to wait for. It is sent what a source had.

        A source that fails is its end: what had come before is not lost, and then it raises.
        """
        flight, taken = self._flight, Taken([])
        try:
            while True:
                future = flight.next_settled()
                if future is not None:
                    yield future
                    del future  # nothing here keeps it
                    if taken.end or not taken.quick or flight.room < flight.chunk:
                        continue
                elif taken.end and flight.empty:
                    break
                if not taken.end and flight.room:
                    taken = (yield Wait.FOR_ITEMS) or Taken([])
                    if taken.items:
                        flight.add(self._submit(taken.items))
                        taken = taken._replace(items=[])
                elif not flight.empty:
                    yield Wait.FOR_ANY
            if taken.error is not None:
                raise taken.error
        finally:
            flight.cancel()

    def _begin(self) -> None:
        if self._begun:
            raise StreamUsedError(self._name)
        self._begun = True

    # -- for ----------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[TaskFuture[R]]:
        """Raises `StreamUsedError` the second time, `StreamSourceError` where only `async for` can
        have the items."""
        if not isinstance(self._source, Iterable):
            raise StreamSourceError(self._name, self._source, "gives its items to 'async for' only")
        self._begin()
        return self._driven()

    def _driven(self) -> Iterator[TaskFuture[R]]:
        items: Any = iter(self._source)
        waiter = Waiter()
        bell = _Bell(lambda: waiter(None))  # pyright: ignore[reportArgumentType]  # woken without a future
        flight, answer = self._flight, None
        try:
            with closing(self._course()) as course:
                while (step := _next_step(course, answer)) is not None:
                    answer = None
                    if step is Wait.FOR_ITEMS:
                        answer = _taken(items, min(flight.chunk, flight.room))
                    elif step is Wait.FOR_ANY:
                        self._wait_for_any(waiter, bell)
                    else:
                        yield step
        finally:
            _close(items, self._source)

    def _wait_for_any(self, waiter: Waiter, bell: _Bell) -> None:
        wait, flight = self._context.engine.wait, self._flight
        waiter.arrived.clear()
        if bell.hung(flight, few=True) or wait(waiter, flight.oldest(), SOON_SECONDS):
            return
        if not bell.hung(flight):
            wait(waiter, flight.oldest(), None)

    # -- async for ----------------------------------------------------------------------------------

    def __aiter__(self) -> AsyncIterator[TaskFuture[R]]:
        """Raises `StreamUsedError` the second time."""
        self._begin()
        return self._driven_async()

    async def _driven_async(self) -> AsyncIterator[TaskFuture[R]]:
        import asyncio  # 25 ms that a process without a loop need not spend

        loop, settled = asyncio.get_running_loop(), asyncio.Event()
        bell = _Bell(lambda: loop.call_soon_threadsafe(settled.set))
        flight, answer = self._flight, None
        source = _AsyncSource(self._source) if _is_async(self._source) else None
        items: Any = iter(self._source) if source is None else None
        try:
            with closing(self._course()) as course:
                while (step := _next_step(course, answer)) is not None:
                    answer = None
                    if step is Wait.FOR_ITEMS and source is None:
                        await asyncio.sleep(0)  # others' turn: this may go on for ever
                        answer = _taken(items, min(flight.chunk, flight.room))
                    elif isinstance(step, Wait):
                        settled.clear()
                        if bell.hung(flight):
                            settled.set()
                        if step is Wait.FOR_ITEMS and source is not None:
                            answer = await source.taken(min(flight.chunk, flight.room), settled)
                        else:
                            with self._context.engine.lending():
                                await settled.wait()
                    else:
                        yield step
        finally:
            if source is not None:
                await source.close()
            else:
                _close(items, self._source)


class _Bell:
    """Rings once, for whichever call settles first, each time that it is hung."""

    def __init__(self, ring: Callable[[], object]) -> None:
        self._ring = ring
        self._waits = False

    def __call__(self, future: TaskFuture[Any]) -> None:
        if self._waits:
            self._waits = False
            self._ring()

    def hung(self, flight: Flight[Any], few: bool = False) -> bool:
        """Have it ring; whether there is no need to, since one has settled."""
        self._waits = True
        return flight.have_told(self, few)


class _AsyncSource:
    """Items that are waited for beside the calls that settle meanwhile."""

    def __init__(self, source: AsyncIterable[Any]) -> None:
        self._source = source
        self._items = aiter(source)
        self._next: Any = None

    async def taken(self, most: int, settled: Any) -> Taken:
        """At least one item; fewer where a call has settled first."""
        import asyncio  # as above

        items: list[Any] = []
        until = monotonic() + CHUNK_SECONDS
        while len(items) < most:
            if self._next is None:
                self._next = asyncio.ensure_future(anext(self._items))
            if not self._next.done():
                ringing = asyncio.ensure_future(settled.wait())
                left = max(0.0, until - monotonic()) if items else None
                try:
                    await asyncio.wait(
                        [self._next, ringing], timeout=left, return_when=asyncio.FIRST_COMPLETED
                    )
                finally:
                    ringing.cancel()
            if not self._next.done():
                return Taken(items)
            taken, self._next = self._next, None
            try:
                items.append(taken.result())
            except StopAsyncIteration:
                return Taken(items, end=True)
            except Exception as error:
                return Taken(items, end=True, error=error)
        return Taken(items, quick=True)

    async def close(self) -> None:
        if self._next is not None:
            self._next.cancel()
        if self._items is not self._source and hasattr(self._items, "aclose"):
            await self._items.aclose()  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]  # of a generator


def _close(items: Any, source: object) -> None:
    """End what was begun here, such as the stream before; not what is the user's own."""
    if items is not source and hasattr(items, "close"):
        items.close()


def _is_async(source: object) -> bool:
    return isinstance(source, AsyncIterable)


def _next_step(course: Generator[Any, Taken | None], answer: Taken | None) -> Any:
    """What a course says next; None at its end."""
    try:
        return course.send(answer)
    except StopIteration:
        return None


def _taken(items: Iterator[Any], most: int) -> Taken:
    """What an iterator has at once, at least one item."""
    found: list[Any] = []
    until = monotonic() + CHUNK_SECONDS
    try:
        for item in items:
            found.append(item)
            if len(found) >= most:
                return Taken(found, quick=True)
            if monotonic() > until:
                return Taken(found)
    except Exception as error:
        return Taken(found, end=True, error=error)
    return Taken(found, end=True)


__all__ = ["FutureStream"]
