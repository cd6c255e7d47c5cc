"""Dask with a single thread: tasks that wait for others there, and calls that are stopped."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dask_clusters import DaskProcesses, dask_processes
from waits import until

from anabranch.errors import CancelledRun, RunTimedOut
from anabranch.task_runners import DaskTaskRunner
from anabranch.testing.contract.base import in_flow
from anabranch.testing.contract.tasks import inc, note, notes, same, task


@pytest.fixture(scope="session")
def one_thread(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskProcesses]:
    with dask_processes(tmp_path_factory.mktemp("dask")) as processes:
        processes.worker()
        processes.wait_for(1)
        yield processes


def on(dask: DaskProcesses, body: Callable[..., Any]) -> Any:
    """Run this as a flow on the cluster."""
    return in_flow(DaskTaskRunner(address=dask.address), body)


def test_twenty_deep_and_wide_on_one_thread(one_thread: DaskProcesses) -> None:
    @task
    def goes_down(depth: int) -> int:
        return depth and 1 + goes_down.submit(depth - 1).result()

    @task
    def spreads(depth: int) -> int:
        return 1 if not depth else sum(spreads.map([depth - 1] * 3).result())

    @task
    async def goes_down_async(depth: int) -> int:
        return depth and 1 + await goes_down_async.submit(depth - 1)

    def body() -> Any:
        futures = goes_down.submit(20), spreads.submit(3), goes_down_async.submit(8)
        return [future.result() for future in futures]

    assert on(one_thread, body) == [20, 27, 8]


@task
def waits_for_file(path: Path, text: str = "through") -> str:
    note(path.with_suffix(".began"), text)
    until(path.exists, f"{path}")
    return text


@task
def loops(path: Path) -> None:
    note(path, "began")
    while True:
        time.sleep(0.005)


@task
async def loops_async(path: Path) -> None:
    note(path, "began")
    try:
        await asyncio.sleep(3600)
    finally:
        note(path, "ended")


def test_cancelled_before_it_begins(one_thread: DaskProcesses, tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    def body() -> Any:
        holds = waits_for_file.submit(gate)
        until(gate.with_suffix(".began").exists, "the first")
        queued = same.map([tmp_path / str(number) for number in range(20)])
        noted = waits_for_file.submit(tmp_path / "never")
        assert queued.cancel() == 20 and noted.cancel()
        for each in (*queued, noted):
            with pytest.raises(CancelledRun):
                each.result(timeout=10)
        note(gate, "")
        return holds.result(), inc.submit(1).result()

    assert on(one_thread, body) == ("through", 2)
    assert not (tmp_path / "never.began").exists()


@pytest.mark.parametrize("kind", [loops, loops_async])
def test_cancelled_while_it_runs(kind: Any, one_thread: DaskProcesses, tmp_path: Path) -> None:
    path = tmp_path / "notes"

    def body() -> Any:
        future = kind.submit(path)
        until(path.exists, "it")
        assert future.cancel()
        with pytest.raises(CancelledRun):
            future.result(timeout=10)
        return future.state.name, inc.submit(1).result(timeout=10)

    assert on(one_thread, body) == ("Cancelled", 2)
    assert notes(path) == ["began", "ended"][: 1 + (kind is loops_async)]


class SlowToRead:
    """Takes longer to arrive than the call that it is for may take."""

    def __setstate__(self, state: Any) -> None:
        time.sleep(1)


def test_a_timeout_that_passes_before_the_function_begins(
    one_thread: DaskProcesses, tmp_path: Path
) -> None:
    @task(timeout_seconds=0.2)
    def loops_with(held: Any) -> None:
        loops.fn(tmp_path / "notes")

    def body() -> Any:
        slow = SlowToRead()
        slow.__dict__["state"] = "something"  # else there is nothing to set
        future = loops_with.submit(slow)
        assert isinstance(future.exception(timeout=20), RunTimedOut)
        return inc.submit(1).result(timeout=10)

    assert on(one_thread, body) == 2
    assert not (tmp_path / "notes").exists()


@pytest.mark.parametrize("kind", [loops, loops_async])
def test_a_timeout_frees_the_worker(kind: Any, one_thread: DaskProcesses, tmp_path: Path) -> None:
    hasty = kind.with_options(timeout_seconds=0.2, retries=1)

    def body() -> Any:
        waits_for_file.submit(tmp_path).result()  # the worker has imported this module then
        future = hasty.submit(tmp_path / "notes")
        assert isinstance(future.exception(timeout=20), RunTimedOut)
        return future.state.name, inc.submit(1).result(timeout=10)

    assert on(one_thread, body) == ("TimedOut", 2)
    assert notes(tmp_path / "notes").count("began") == 2


def test_a_function_that_cannot_be_stopped_is_left_behind(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("ANABRANCH_CANCEL_GRACE", "0.3")
    gate = tmp_path / "gate"
    os.mkfifo(gate)

    @task(timeout_seconds=3600)
    def stuck() -> None:
        note(tmp_path / "began", "")
        gate.read_bytes()  # until someone writes there

    def body() -> Any:
        future = stuck.submit()
        until(lambda: future.state.name == "Running" and (tmp_path / "began").exists(), "it")
        assert future.cancel()
        with pytest.raises(CancelledRun):
            future.result(timeout=10)
        return future.state.name, inc.submit(1).result()

    with dask_processes(tmp_path) as dask, caplog.at_level(logging.INFO, "anabranch"):
        for _ in range(2):
            dask.worker()
        dask.wait_for(2)
        assert on(dask, body) == ("Cancelled", 2)
    assert "still running, and nothing can stop it: stuck-0 on tcp://" in caplog.text


@task
def blocks(gate: Path) -> bytes:
    """Nothing can end it: it does not come back to Python until somebody writes."""
    os.mkfifo(gate)
    return gate.read_bytes()


def let_go(gate: Path) -> None:
    """The interrupt waits for this moment too, and may close the other end before it is read."""
    with contextlib.suppress(BrokenPipeError):
        gate.write_bytes(b"x")


def test_a_call_that_is_cancelled_as_it_begins_takes_nobodys_place(
    one_thread: DaskProcesses, tmp_path: Path
) -> None:
    def body() -> Any:
        future = blocks.submit(tmp_path / "gate")
        until((tmp_path / "gate").exists, "the gate")
        future.cancel()
        return inc.submit(1).result(timeout=20)

    assert on(one_thread, body) == 2
    let_go(tmp_path / "gate")


def test_a_call_that_cannot_be_ended_gives_up_its_place(
    one_thread: DaskProcesses, tmp_path: Path
) -> None:
    def body() -> Any:
        future = blocks.with_options(timeout_seconds=0.2).submit(tmp_path / "gate")
        error = future.exception(timeout=20)
        return type(error).__name__, inc.submit(1).result(timeout=20)

    assert on(one_thread, body) == ("RunTimedOut", 2)
    let_go(tmp_path / "gate")
