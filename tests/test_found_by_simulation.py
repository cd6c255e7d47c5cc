"""Faults that the simulation of random programs found, each as a test that needs no seed."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from anabranch import UpstreamTaskError, flow, task
from anabranch.task_runners import ThreadPoolTaskRunner
from anabranch.testing import harness


@task
def numbers(count: int) -> list[int]:
    return list(range(count))


@task
def double(n: int) -> int:
    return 2 * n


@task
def not_two(n: int) -> int:
    if n == 2:
        raise ValueError("two")
    return n


@task
def kind_of(value: Any) -> str:
    return type(value).__name__


def test_inline_flow_that_returns_a_future_which_has_to_be_tried_again() -> None:
    """It waited where nothing ran what it waited for."""
    attempts: list[int] = []

    @task(retries=1, retry_delay_seconds=0.01)
    def second_time() -> str:
        attempts.append(1)
        if len(attempts) == 1:
            raise ValueError("once more")
        return "there"

    @flow(task_runner="inline")
    def census() -> Any:
        return second_time.submit()

    assert census() == "there"


@pytest.mark.parametrize("runner", ["inline", "threads"])
def test_flow_that_returns_a_map_over_a_future(runner: str) -> None:
    """Its failures were taken for results, since its items were not known when it was looked at."""

    @flow(task_runner=runner)
    def census(checked: Any) -> Any:
        return checked.map(numbers.submit(4))

    assert census(double) == [0, 2, 4, 6]
    state = census(not_two, return_state=True)  # type: ignore[call-arg]
    assert (state.name, state.message) == ("Failed", "1 of 4 returned runs did not complete.")


@pytest.mark.parametrize("runner", ["inline", "threads"])
def test_subflow_that_is_given_a_map_over_a_future(runner: str) -> None:
    @flow
    def below(values: Any) -> Any:
        return sum(values)

    @flow(task_runner=runner)
    def census(checked: Any) -> Any:
        return below(checked.map(numbers.submit(4)))

    assert census(double) == 12
    with pytest.raises(UpstreamTaskError, match="'not_two-2', which ended as Failed"):
        census(not_two)


@pytest.mark.parametrize("runner", ["inline", "threads"])
def test_waiting_for_a_map_over_a_future(runner: str) -> None:
    """Only the list's length was waited for, and a failure among its runs was let through."""

    @flow(task_runner=runner)
    def census(checked: Any) -> Any:
        mapped = checked.map(numbers.submit(4))
        waits = kind_of.submit(1, wait_for=[mapped])  # type: ignore[call-arg]
        waits.wait()
        assert mapped.done()
        given = kind_of.submit([mapped])
        given.wait()
        return [waits.state.name, given.state.name]

    assert census(double) == ["Completed", "Completed"]
    assert census(not_two) == ["NotReady", "NotReady"]


@pytest.mark.parametrize("runner", ["inline", "threads"])
def test_empty_map_is_an_empty_list_to_who_is_given_it(runner: str) -> None:
    @flow(task_runner=runner)
    def census() -> Any:
        assert kind_of.submit(double.map([])).result() == "list"
        assert kind_of.submit(double.map(numbers.submit(0))).result() == "list"
        return double.map([])

    assert type(census()) is list


def test_map_over_what_failed_has_settled() -> None:
    @flow(task_runner="threads")
    def census() -> Any:
        mapped = double.map(not_two.submit(2))
        told = [mapped.wait(30), mapped.done(), mapped.cancel()]
        with pytest.raises(UpstreamTaskError):
            mapped.result()
        return told

    assert census() == [True, True, 0]


def test_not_ready_from_the_start_is_told() -> None:
    @flow(task_runner="threads")
    def census() -> None:
        failed = not_two.submit(2)
        failed.wait()
        double.submit(failed).wait()

    with harness() as test:
        census()
    assert test.states("double-0") == ["NotReady"]


@pytest.mark.parametrize("retries", [0, 1])
@pytest.mark.parametrize("runner", ["inline", "threads", "asyncio"])
def test_timeout_of_a_task_with_a_retry_condition(runner: str, retries: int) -> None:
    """While the condition was asked, the outcome of what the runner had stopped got in before."""
    asked: list[str] = []

    def condition(_: Any, run: Any, state: Any) -> bool:
        asked.append(f"{state.name} {run.run_count}")
        return len(asked) <= retries

    @task(timeout_seconds=0.05, retries=3, retry_condition_fn=condition)
    async def endless() -> None:
        await asyncio.Event().wait()

    @flow(task_runner=runner)
    def census() -> Any:
        future = endless.submit()
        future.wait()
        return [future.state.name, future.task_run.run_count]

    assert census() == ["TimedOut", 1 + retries]
    assert asked == [f"TimedOut {n}" for n in range(1, retries + 2)]


def test_run_that_waits_again_gives_its_slot_back() -> None:
    """It kept the slot that it had been given before it was seen to wait for more."""
    counted, gate = threading.Event(), threading.Event()

    @task
    def counts() -> list[int]:
        counted.wait(30)
        return [0, 1]

    @task
    def waits(n: int) -> int:
        gate.wait(30)
        return n

    @task(resources={"gpu": 1})
    def on_gpu(values: Any) -> Any:
        return values

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=4, resources={"gpu": 1}))
    def census() -> Any:
        mapped = waits.map(counts.submit())
        first = on_gpu.submit([mapped])
        counted.set()
        second = on_gpu.submit("second").result(timeout=30)
        gate.set()
        return [first.result(timeout=30), second, on_gpu.submit("third").result(timeout=30)]

    assert census() == [[[0, 1]], "second", "third"]
