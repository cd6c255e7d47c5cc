"""Faults that a review found, each held by the test that showed it."""

from __future__ import annotations

import asyncio
import io
import itertools
import signal
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from test_signals import EXIT_CODES, GRACE, SLACK, end_of, script

from anabranch import UpstreamTaskError, flow, task
from anabranch.errors import AnnotationError, RunTimedOut, WouldDeadlockError
from anabranch.states import Failed
from anabranch.subscribers.progress import Rates, TaskProgress, render


class Broken(Exception):
    pass


@task
def inc(x: Any) -> Any:
    return x + 1


@task
async def inc_async(x: Any) -> Any:
    return x + 1


@task
async def numbers_async(n: int) -> list[int]:
    return list(range(n))


@task
def broken() -> None:
    raise Broken("no")


# B1: a wait that needs the calling loop hangs for ever (with the warning not an error)


def test_blocking_on_a_deferred_map() -> None:
    @flow(task_runner="asyncio")
    async def census() -> None:
        with pytest.raises(WouldDeadlockError):
            inc_async.map(numbers_async.submit(3)).result()

    asyncio.run(census())


@flow
def one() -> int:
    return 1


@flow
def uses_the_loop() -> int:
    return inc_async.submit(1).result()


@flow
def leaves_one_on_the_loop() -> None:
    inc_async.submit(1)


def test_blocking_on_a_subflow_that_waits_for_the_loop() -> None:
    @flow(task_runner="asyncio")
    async def census() -> None:
        with pytest.raises(WouldDeadlockError):
            one.submit(wait_for=[inc_async.submit(1)]).result()

    asyncio.run(census())


def test_blocking_on_a_subflow_that_runs_on_the_loop() -> None:
    @flow(task_runner="asyncio")
    async def census() -> None:
        with pytest.raises(WouldDeadlockError):
            uses_the_loop.submit().result()

    asyncio.run(census())


def test_a_sync_subflow_that_joins_what_runs_on_the_loop() -> None:
    @flow(task_runner="asyncio")
    async def census() -> None:
        with pytest.raises(WouldDeadlockError):
            leaves_one_on_the_loop()

    asyncio.run(census())


def test_a_direct_sync_call_with_a_future_of_the_loop() -> None:
    @flow(task_runner="asyncio")
    async def census() -> None:
        with pytest.raises(WouldDeadlockError):
            inc(inc_async.submit(1))

    asyncio.run(census())


# B2: flows over generators


def test_generator_flow() -> None:
    @flow
    def census(n: int):
        for i in range(n):
            yield inc.submit(i).result()

    @flow
    def outer() -> Any:
        return census.submit(3).result()

    assert list(census(3)) == [1, 2, 3]
    assert outer() == [1, 2, 3]


def test_failed_future_as_an_argument_of_a_called_flow() -> None:
    seen: list[Any] = []

    @flow
    def sub(x: Any) -> None:
        seen.append(x)

    @flow
    def census() -> None:
        with pytest.raises((UpstreamTaskError, Broken)):
            sub(broken.submit())

    census()
    assert seen == []


# B4: states in a return value


def test_failed_state_deep_in_the_value() -> None:
    @flow
    def census() -> Any:
        return {"a": [Failed(message="deep")]}

    assert census(return_state=True).name == "Failed"


def test_states_in_the_value_give_their_results() -> None:
    @flow
    def census() -> Any:
        return [inc.submit(1, return_state=True), {"k": inc.submit(2, return_state=True)}]

    assert census() == [2, {"k": 3}]


# B5: a flow's retry condition


def test_flow_retry_condition_that_raises_means_no() -> None:
    told: list[str] = []

    def condition(its: Any, run: Any, state: Any) -> bool:
        raise ValueError("I cannot say")

    @flow(
        retries=2,
        retry_condition_fn=condition,
        on_failure=[lambda its, run, state: told.append(state.name)],
    )
    def census() -> None:
        raise Broken("x")

    with pytest.raises(Broken):
        census()
    assert told == ["Failed"]


def test_flow_retry_condition_may_be_async() -> None:
    tries: list[int] = []

    async def condition(its: Any, run: Any, state: Any) -> bool:
        return False

    @flow(retries=2, retry_condition_fn=condition)
    def census() -> None:
        tries.append(1)
        raise Broken("x")

    with pytest.raises(Broken):
        census()
    assert len(tries) == 1


# B6: hooks of methods


def test_hooks_by_decorator_on_methods() -> None:
    told: list[str] = []

    class Survey:
        @task
        def step(self) -> int:
            return 1

        @step.on_completion
        def after_step(its: Any, run: Any, state: Any) -> None:  # noqa: N805
            told.append("task")

        @flow
        def run(self) -> int:
            return self.step.submit().result()

        @run.on_completion
        def after_run(its: Any, run: Any, state: Any) -> None:  # noqa: N805
            told.append("flow")

    Survey().run()
    assert told == ["task", "flow"]


# B7: timeouts that are not kept


def test_inline_wait_timeout_is_for_the_whole_wait() -> None:
    @task(retries=40, retry_delay_seconds=0.05)
    def flaky() -> None:
        raise Broken("x")

    @flow(task_runner="inline")
    def census() -> bool:
        future = flaky.submit()
        settled = future.wait(0.3)
        future.cancel()
        return settled

    assert census() is False


# B9: a single future as wait_for (Prefect takes it)


def test_wait_for_takes_a_single_future() -> None:
    @flow
    def census() -> int:
        return inc.submit(2, wait_for=inc.submit(1)).result()

    assert census() == 3


# B10: signals whose exception does not come out of the function as it went in


REPLACED = """
@flow(task_runner=RUNNER, on_cancellation=[ended])
def census():
    try:
        stuck.map(range(100)).wait()
    except BaseException:
        raise ValueError("mine") from None

census()
"""

SWALLOWED = """
@flow(task_runner=RUNNER)
def census():
    try:
        stuck.map(range(100)).wait()
    except BaseException:
        say("swallowed")
    stuck.map(range(100)).wait()

census()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda each: each.name)
def test_signal_replaced_by_another_exception(tmp_path: Path, number: signal.Signals) -> None:
    with script(tmp_path, REPLACED, "threads") as process:
        process.send_signal(number)
        out, err, _ = end_of(process, GRACE + SLACK)
    assert process.returncode in EXIT_CODES[number], err
    assert "hook Cancelled" in out, err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda each: each.name)
def test_second_signal_after_a_swallowed_one(tmp_path: Path, number: signal.Signals) -> None:
    with script(tmp_path, SWALLOWED, "threads") as process:
        process.send_signal(number)
        assert process.stdout is not None
        assert process.stdout.readline() == "swallowed\n"
        process.send_signal(number)
        _, err, _ = end_of(process, GRACE + SLACK)
    assert process.returncode in EXIT_CODES[number], err


def test_a_traceback_does_not_grow_with_each_result() -> None:
    @task
    def bad() -> None:
        raise ValueError("no good")

    @flow
    def census() -> list[int]:
        future = bad.submit()
        lengths: list[int] = []
        for _ in range(4):
            try:
                future.result()
            except ValueError as error:
                lengths.append(len(traceback.extract_tb(error.__traceback__)))
        return lengths

    lengths = census()
    assert len(set(lengths)) == 1


def test_a_submitted_subflow_that_fails_is_told_once_and_has_one_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @flow(flow_run_name="station {place}")
    def station(place: str) -> None:
        raise ValueError(f"nothing at {place}")

    @flow
    def network() -> str:
        future = station.submit("north")
        future.wait()
        return future.name

    with caplog.at_level("INFO", logger="anabranch"):
        assert network() == "station north"
    failed = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert failed == ["station north | flow 'station': Failed: ValueError: nothing at north"]
    assert "1 task run did not complete: station north (Failed)" in caplog.text


def test_the_display_keeps_to_one_line_a_task() -> None:
    tasks = [TaskProgress("a task with a rather long name [b]", 1_200, 12, 694, 17)]
    rates = Rates(clock=itertools.count().__next__)
    render(tasks, rates)
    table = render([tasks[0]._replace(done=760)], rates)
    console = Console(width=80, file=io.StringIO())
    console.print(table)
    shown = console.file.getvalue()  # type: ignore[attr-defined]  # it is a StringIO
    assert len(shown.splitlines()) == 1
    assert "12 running 17 failed 411 waiting" in shown
    assert "66/s" in shown


@task(timeout_seconds=0.2, retries=1)
def items_then_nothing() -> Iterator[int]:
    yield 1
    threading.Event().wait(3600)
    yield 2


@pytest.mark.parametrize("runner", ["inline", "threads"])
def test_a_generator_task_called_directly_keeps_its_timeout(runner: str) -> None:
    @flow(task_runner=runner)
    def census() -> tuple[list[int], str]:
        got: list[int] = []
        try:
            for item in items_then_nothing():
                got.append(item)
        except RunTimedOut as error:
            return got, type(error).__name__
        return got, "went on"

    assert census() == ([1], "RunTimedOut")


def test_a_submitted_subflow_that_blocks_keeps_its_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ANABRANCH_CANCEL_GRACE", "0.1")
    gate = threading.Event()

    @task
    def waits() -> None:
        gate.wait(30)

    @flow(timeout_seconds=0.2)
    def below() -> None:
        waits.submit().result()

    @flow
    def census() -> str:
        future = below.submit()
        future.wait(20)
        return future.state.name

    try:
        assert census() == "TimedOut"
    finally:
        gate.set()


def test_an_async_flow_goes_on_turning_its_loop_while_a_retry_is_decided() -> None:
    decided = threading.Event()

    def decides(*_: Any) -> bool:
        return decided.wait(20)

    runs: list[int] = []

    @flow(retries=1, retry_condition_fn=decides)
    async def census() -> int:
        runs.append(1)
        if len(runs) == 1:
            raise Broken("once")
        return len(runs)

    async def main() -> int:
        running = asyncio.create_task(census())
        while not runs:
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        decided.set()  # a loop that is held up never comes here in time
        return await running

    assert asyncio.run(main()) == 2


def test_annotations_that_cannot_be_read_are_told() -> None:
    def body(x: Missing) -> None:  # type: ignore[name-defined]  # noqa: F821  # the mistake itself
        pass

    with pytest.raises(AnnotationError, match="'Missing' is not defined"):
        flow(body)(1)


def test_a_body_that_closes_over_the_world_begins_at_once() -> None:
    world: list[Any] = []
    for _ in range(60):
        world = [world, world]

    @flow
    def census() -> int:
        return len(world)

    assert census() == 2


def test_a_body_that_closes_over_what_has_no_identity_counts_without_it() -> None:
    def made(lock: Any, more: int) -> list[bytes]:
        def one() -> tuple[Any, int]:
            return lock, more

        def other() -> tuple[int, Any]:
            return more, lock

        return [flow(one).source, flow(other).source]

    one, other = made(threading.Lock(), 1)
    assert one and other and one != other
    assert [one, other] == made(threading.Lock(), 1)
