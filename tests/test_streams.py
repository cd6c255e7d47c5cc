"""Streams: sources of every kind, and what they hold in memory; see also the contract."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
import weakref
from collections.abc import AsyncIterator, Iterator

import pytest

from anabranch import flow, streams, task
from anabranch.errors import (
    MissingFlowError,
    OptionError,
    StreamSourceError,
    StreamUsedError,
)


@task
def twice(x: int) -> int:
    return 2 * x


class Value:
    """Can be referred to weakly."""


@task
def valued(x: int) -> Value:
    return Value()


@task
def two_of(x: int, y: int) -> int:
    return x + y


def test_those_that_settle_first_come_first() -> None:
    turns = [threading.Event() for _ in range(3)]

    @task
    def at_its_turn(n: int) -> int:
        assert turns[n].wait(30)
        return n

    @flow
    def body() -> list[int]:
        found: list[int] = []
        turns[0].set()
        for future in at_its_turn.stream([2, 0, 1]):
            found.append(future.result())
            if found[-1] < 2:
                turns[found[-1] + 1].set()  # only now
        return found

    assert body() == [0, 1, 2]


@pytest.mark.parametrize("count", [0, 1, 127, 128, 129, 256, 1000, 1001, 2000])
@pytest.mark.parametrize("ordered", [False, True])
def test_lengths_around_those_of_chunks(count: int, ordered: bool) -> None:
    @flow
    def body() -> list[int]:
        return [future.result() for future in twice.stream(range(count), ordered=ordered)]

    found = body()
    assert (found if ordered else sorted(found)) == [2 * n for n in range(count)]


def test_what_was_given_out_is_let_go() -> None:
    @flow
    def body() -> bool:
        alive: list[weakref.ref[Value]] = []
        stream = iter(valued.stream(range(2_000), max_in_flight=50))
        for _ in range(1_500):
            alive.append(weakref.ref(next(stream).result()))
        until = time.monotonic() + 10  # for what is on its way to the store
        while sum(each() is not None for each in alive) > 1 and time.monotonic() < until:
            time.sleep(0.01)
        return sum(each() is not None for each in alive) <= 1  # the last that was given out

    assert body()


def test_a_slow_source_holds_up_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(1.0)  # each look is a second later: no item comes with the one before
    monkeypatch.setattr(streams, "monotonic", lambda: next(clock))
    ran = threading.Semaphore(0)
    taken: list[int] = []

    @task
    def runs(n: int) -> int:
        ran.release()
        return n

    def source() -> Iterator[int]:
        for n in range(streams.CHUNK):
            if n:
                assert ran.acquire(timeout=30)  # the one before
            taken.append(n)
            yield n

    @flow
    def body() -> int:
        stream = iter(runs.stream(source()))
        next(stream)
        return len(taken)

    assert body() < streams.CHUNK - 8  # else they would come when a whole chunk is there


def test_results_come_while_an_async_source_waits() -> None:
    @flow(task_runner="asyncio")
    async def body() -> int:
        gate = asyncio.Event()

        async def source() -> AsyncIterator[int]:
            yield 21
            await gate.wait()
            yield 22

        found = 0
        async for future in twice.stream(source()):
            found += future.result()
            gate.set()  # only now does the source go on
        return found

    assert asyncio.run(asyncio.wait_for(body(), 30)) == 86


def test_leaving_early_cancels_what_has_not_begun() -> None:
    gate, begun = threading.Event(), itertools.count()

    @task
    def waits(n: int) -> int:
        next(begun)
        assert n == 0 or gate.wait(30)
        return n

    def first() -> int:
        for future in waits.stream(itertools.count(), max_in_flight=40):
            return future.result()
        return -1

    @flow(task_runner="threads?max_workers=4")
    def body() -> int:
        found = first()
        gate.set()
        return found

    assert body() == 0
    assert next(begun) < 10  # of 40: those that the four workers had begun


def test_leaving_early_ends_the_streams_before() -> None:
    ended: list[str] = []

    class Source:
        def __iter__(self) -> Iterator[int]:
            try:
                yield from itertools.count()
            finally:
                ended.append("source")

    @flow
    def body() -> None:
        for _ in twice.stream(twice.stream(Source(), max_in_flight=3), max_in_flight=3):
            break

    body()
    assert ended == ["source"]


def test_leaving_an_async_stream_early() -> None:
    @flow(task_runner="asyncio")
    async def body() -> int:
        async for future in twice.stream(itertools.count(), max_in_flight=4):
            return future.result()
        return -1

    assert asyncio.run(asyncio.wait_for(body(), 30)) >= 0


def test_an_async_source_that_raises() -> None:
    async def source() -> AsyncIterator[int]:
        yield 1
        raise KeyError("dry")

    @flow(task_runner="asyncio")
    async def body() -> list[int]:
        found: list[int] = []
        with pytest.raises(KeyError, match="dry"):
            async for future in twice.stream(source()):
                found.append(future.result())
        return found

    assert asyncio.run(body()) == [2]


def test_a_stream_is_iterated_once() -> None:
    @flow
    def body() -> None:
        stream = twice.stream([1, 2])
        assert len(list(stream)) == 2
        with pytest.raises(StreamUsedError, match="iterated before"):
            list(stream)

    body()


def test_what_is_refused() -> None:
    async def items() -> AsyncIterator[int]:
        yield 1

    @flow
    def body() -> None:
        with pytest.raises(StreamSourceError, match="int, which is not iterable"):
            twice.stream(5)
        with pytest.raises(StreamSourceError, match="str, which is text"):
            twice.stream("a.txt")
        with pytest.raises(StreamSourceError, match="'async for' only"):
            list(twice.stream(items()))
        for most in (0, -1, True, 2.5, "10"):
            with pytest.raises(OptionError, match="max_in_flight"):
                twice.stream([], max_in_flight=most)  # pyright: ignore[reportArgumentType, reportCallIssue]  # on purpose
        with pytest.raises(TypeError, match="y"):
            two_of.stream([1])
        assert [f.result() for f in two_of.stream([1], y=2)] == [3]

    body()
    with pytest.raises(MissingFlowError, match="stream"):
        twice.stream([1])
