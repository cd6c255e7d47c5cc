"""Generator flows: items as they come, one state at the end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from anabranch import flow, task
from anabranch.errors import RunTimedOut

RUNNERS = ["inline", "threads", "asyncio"]


@task
def inc(x: int) -> int:
    return x + 1


class Broken(Exception):
    pass


@pytest.fixture
def ended() -> list[str]:
    return []


def hooks(ended: list[str]) -> dict[str, Any]:
    def note(_: Any, run: Any, state: Any) -> None:
        ended.append(f"{state.name}: {state.message}")

    return {name: [note] for name in ("on_completion", "on_failure", "on_cancellation")}


@pytest.mark.parametrize("runner", RUNNERS)
def test_items_come_while_the_flow_runs(runner: str, ended: list[str]) -> None:
    began: list[int] = []

    @flow(task_runner=runner, **hooks(ended))
    def numbers(count: int) -> Iterator[int]:
        for n in range(count):
            began.append(n)
            yield inc.submit(n).result()

    items = numbers(3)
    assert began == []  # nothing runs before the first is asked for
    assert next(items) == 1
    assert (began, ended) == ([0], [])
    assert list(items) == [2, 3]
    assert ended == ["Completed: None"]


def test_asked_for_its_state_it_runs_to_the_end() -> None:
    @flow
    def numbers() -> Iterator[int]:
        yield from (1, 2)

    state: Any = numbers(return_state=True)  # type: ignore[call-arg]  # not one of its own
    assert state.is_completed()
    assert state.result() == [1, 2]


def test_a_failure_after_items_is_raised_and_not_tried_again(ended: list[str]) -> None:
    runs: list[int] = []

    @flow(retries=2, **hooks(ended))
    def numbers() -> Iterator[int]:
        runs.append(1)
        if len(runs) == 1:
            raise Broken("before the first item")
        yield 1
        raise Broken("after it")

    items = numbers()
    assert next(items) == 1
    with pytest.raises(Broken, match="after it"):
        next(items)
    assert len(runs) == 2
    assert ended == ["Failed: Broken: after it"]


def test_a_consumer_that_leaves_cancels_it_and_its_tasks(ended: list[str]) -> None:
    cleaned: list[str] = []
    gate = threading.Event()

    @task
    def waits() -> None:
        gate.wait(30)

    @flow(**hooks(ended))
    def numbers() -> Iterator[int]:
        try:
            future = waits.submit()
            yield 1
            gate.set()
            future.wait()
        finally:
            cleaned.append("cleaned")
            gate.set()

    for _ in numbers():
        break
    assert cleaned == ["cleaned"]
    assert ended == ["Cancelled: Cancelled (its consumer wanted no more items)."]


def test_its_timeout_holds_between_items() -> None:
    @flow(timeout_seconds=0.2)
    def numbers() -> Iterator[int]:
        yield 1
        threading.Event().wait(30)
        yield 2

    got: list[int] = []
    with pytest.raises(RunTimedOut):
        for item in numbers():
            got.append(item)
    assert got == [1]


def test_an_async_one(ended: list[str]) -> None:
    @flow(task_runner="asyncio", **hooks(ended))
    async def numbers(count: int) -> AsyncIterator[int]:
        for n in range(count):
            yield await inc.submit(n)

    async def main() -> None:
        assert [item async for item in numbers(3)] == [1, 2, 3]
        items: Any = numbers(10)
        assert await anext(items) == 1
        await items.aclose()
        state: Any = await numbers(2, return_state=True)  # type: ignore[call-arg, misc]  # not one of its own
        assert state.result() == [1, 2]

    asyncio.run(main())
    assert [each.split(":")[0] for each in ended] == ["Completed", "Cancelled", "Completed"]


def test_an_async_one_that_fails_or_takes_too_long() -> None:
    @flow(timeout_seconds=0.2)
    async def numbers(fails: bool) -> AsyncIterator[int]:
        yield 1
        if fails:
            raise Broken("after it")
        await asyncio.sleep(30)

    async def main() -> None:
        for fails, error in ((True, Broken), (False, RunTimedOut)):
            with pytest.raises(error):
                async for _ in numbers(fails):
                    pass

    asyncio.run(main())


def test_inside_another_flow_called_or_submitted() -> None:
    @flow
    def numbers(count: int) -> Iterator[int]:
        for n in range(count):
            yield inc.submit(n).result()

    @flow
    def outer() -> tuple[list[int], list[int]]:
        future = numbers.submit(3)
        return list(numbers(2)), future.result()

    assert outer() == ([1, 2], [1, 2, 3])
