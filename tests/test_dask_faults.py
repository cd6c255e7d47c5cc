"""What a Dask cluster may do to a flow: have no workers, lose them, lose its scheduler."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dask_clusters import BIG, DaskProcesses, dask_processes, gone
from waits import until

from anabranch import CrashedRun, flow, get_run_logger
from anabranch.task_runners import DaskTaskRunner
from anabranch.testing.contract.base import in_flow
from anabranch.testing.contract.tasks import inc, note, notes, task


@pytest.fixture
def dask(tmp_path: Path) -> Iterator[DaskProcesses]:
    """A cluster that has no workers yet."""
    with dask_processes(tmp_path) as processes:
        yield processes


@pytest.fixture
def two(dask: DaskProcesses) -> DaskProcesses:
    for _ in range(2):
        dask.worker()
    dask.wait_for(2)
    return dask


def on(dask: DaskProcesses, body: Callable[..., Any], **options: Any) -> Any:
    """Run this as a flow on the cluster."""
    return in_flow(DaskTaskRunner(address=dask.address), body, **options)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    until(lambda: gone(pid), f"the end of {pid}")


def test_what_calls_wait_for_is_said(dask: DaskProcesses, caplog: pytest.LogCaptureFixture) -> None:
    heavy = inc.with_options(name="heavy", resources={"GPU": 1})

    def body() -> list[int]:
        futures = [*inc.map(range(3)), heavy.submit(5)]
        until(lambda: "4 calls wait: the Dask cluster has no workers yet" in caplog.text, "a word")
        dask.worker("--resources", "RAM=2")
        waits = "heavy-0 waits for resources {'GPU': 1}, which no worker has; the 1 workers have: "
        until(lambda: waits + "{'RAM': 2.0}" in caplog.text, "a word of the resource")
        dask.worker("--resources", "GPU=1")
        return [future.result() for future in futures]

    with caplog.at_level(logging.WARNING, "anabranch"):
        assert on(dask, body) == [1, 2, 3, 6]
    warned = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert len([each for each in warned if each.name.startswith("anabranch")]) == 2


def test_a_killed_worker_costs_no_result_and_no_retry(two: DaskProcesses, tmp_path: Path) -> None:
    began, ended = tmp_path / "began", tmp_path / "ended"

    @task
    def work(number: int) -> int:
        note(began, f"{number} {os.getpid()}")
        time.sleep(0.02)
        note(ended, f"{number} {os.getpid()}")
        return number * 2

    def body() -> Any:
        futures = work.map(range(100))
        until(lambda: len(notes(ended)) > 30, "30 of them")
        kill(two.workers[0].pid)
        return futures.result(), {state.name for state in futures.states()}

    values, states = on(two, body)
    assert values == [2 * number for number in range(100)] and states == {"Completed"}
    again = {number: times for number, times in Counter(_numbers(began)).items() if times > 1}
    there = {number for number, pid in _pairs(began) if pid == two.workers[0].pid}
    assert set(again) <= there and len(again) <= 5  # in flight, or told of by a frame that was lost


def _pairs(path: Path) -> list[tuple[int, int]]:
    return [(int(number), int(pid)) for number, pid in map(str.split, notes(path))]


def _numbers(path: Path) -> list[int]:
    return [number for number, _ in _pairs(path)]


def test_a_call_that_kills_each_worker_crashes(tmp_path: Path) -> None:
    began = tmp_path / "began"

    @task(retries=3)
    def poison() -> None:
        note(began, f"0 {os.getpid()}")
        os.kill(os.getpid(), signal.SIGKILL)

    @task
    def fine(number: int) -> int:
        return number

    def body() -> Any:
        good = fine.map(range(20)).result()  # those beside it are suspects too for Dask
        bad = poison.submit()
        dependent = fine.submit(bad)
        bad.wait()
        told = bad.state.name, bad.state.message, str(dependent.exception())
        return told, good, fine.submit(7).result()

    options = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}
    with dask_processes(tmp_path, options) as dask:
        for _ in range(2):
            dask.worker(nanny=True)
        (state, message, dependent), good, later = on(dask, body)
    assert state == "Crashed" and message.startswith("poison-0: KilledWorker: ")
    assert good == list(range(20)) and later == 7 and "'poison-0', which ended as" in dependent
    assert 1 < len(notes(began)) <= 4  # the retries are for what the task raises


@pytest.mark.parametrize("end", [DaskProcesses.end, DaskProcesses.kill])
def test_large_results_of_a_lost_worker_are_made_again(
    end: Callable[..., None], two: DaskProcesses, tmp_path: Path
) -> None:
    made = tmp_path / "made"

    @task
    def fill(number: int) -> Any:
        note(made, f"{number} {os.getpid()}")
        return np.full(BIG, number, np.uint8)

    @task
    def total(*arrays: Any) -> int:
        return sum(int(array[0]) for array in arrays)

    def body() -> Any:
        futures = fill.map(range(10))
        futures.wait()
        lost = [number for number, pid in _pairs(made) if pid == two.workers[0].pid]
        assert 0 < len(lost) < 10
        end(two, two.workers[0])
        sums = total.map(futures)
        together = total.submit(*futures)
        return lost, sums.result(), together.result(), [int(each.result()[0]) for each in futures]

    lost, sums, together, values = on(two, body)
    assert sums == values == list(range(10)) and together == 45
    assert {number for number, times in Counter(_numbers(made)).items() if times > 1} <= set(lost)


@pytest.mark.parametrize("which", ["outer", "inner"])
def test_a_worker_that_is_killed_while_its_task_waits(
    which: str, two: DaskProcesses, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"

    @task
    def inner() -> int:
        note(tmp_path / "inner", f"0 {os.getpid()}")
        until(gate.exists, "the gate")
        return 20

    @task
    def outer() -> int:
        note(tmp_path / "outer", f"0 {os.getpid()}")
        return 1 + inner.submit().result()

    def body() -> int:
        future = outer.submit()
        until(lambda: (tmp_path / "inner").exists(), "the inner one")
        pids = {name: _pairs(tmp_path / name)[0][1] for name in ("outer", "inner")}
        kill(pids[which])
        note(gate, "")
        return future.result(timeout=30)

    assert on(two, body) == 21
    assert len(notes(tmp_path / which)) == 2


def test_calls_that_nothing_can_end_hold_up_no_others(dask: DaskProcesses, tmp_path: Path) -> None:
    @task(timeout_seconds=0.5, retries=1)
    def stuck() -> None:
        note(tmp_path / "began", "")
        threading.Event().wait(40)  # no exception reaches it there

    def times_out() -> str:
        future = stuck.submit()
        future.wait(10)
        return future.state.name

    dask.worker()
    for flows in (1, 2):
        assert on(dask, times_out) == "TimedOut"
        assert len(notes(tmp_path / "began")) == 2 * flows
    assert on(dask, lambda: inc.submit(1).result(timeout=10)) == 2


def test_a_killed_scheduler_ends_the_flow(
    two: DaskProcesses, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    @task
    def endless() -> None:
        note(tmp_path / "began", "")
        while True:
            time.sleep(0.01)

    killed: list[float] = []

    def body() -> int:
        completed = inc.submit(1)
        assert completed.result() == 2
        future, waiting = endless.submit(), inc.map(range(50))
        until(lambda: (tmp_path / "began").exists(), "it")
        killed.append(time.monotonic())
        two.scheduler.kill()
        waiting.wait()
        assert {state.name for state in waiting.states()} <= {"Completed", "Crashed"}
        return future.result()

    run: Any = flow(task_runner=DaskTaskRunner(address=two.address))(body)
    state = run(return_state=True)
    assert time.monotonic() - killed[0] < 8  # Dask itself tries for ten
    assert state.name == "Failed"  # by the exception of the call that it asked
    assert type(state.data).__name__ == "CrashedRun"
    assert two.address in state.message and "resume the run" in state.message
    assert caplog.text.count("its scheduler is gone") < 5  # and not once for each call


def test_a_killed_local_cluster_ends_the_flow(tmp_path: Path) -> None:
    pids: list[int] = []

    @task
    def endless() -> None:
        note(tmp_path / "began", f"{os.getppid()} {os.getpid()}")
        while True:
            time.sleep(0.01)

    def body() -> None:
        future = endless.submit()
        pids.extend(
            _pairs(until(lambda: notes(tmp_path / "began") and tmp_path / "began", "it"))[0]
        )
        os.kill(pids[0], signal.SIGKILL)
        future.result(timeout=20)

    with pytest.raises(CrashedRun, match="its scheduler is gone"):
        in_flow("dask?n_workers=1&threads_per_worker=1", body)
    until(lambda: all(map(gone, pids)), f"the end of {pids}")


def test_lines_of_a_worker_that_is_told_to_leave(
    two: DaskProcesses, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ended = tmp_path / "ended"

    @task(log_prints=True)
    def talks(number: int) -> int:
        for line in range(10):
            get_run_logger().info("of %d: line %d", number, line)
            time.sleep(0.002)
        print(f"of {number}: printed")
        note(ended, f"{number} {os.getpid()}")
        return number

    def body() -> list[int]:
        futures = talks.map(range(60))
        until(lambda: len(notes(ended)) > 15, "15 of them")
        two.workers[0].terminate()
        return futures.result()

    with caplog.at_level(logging.INFO, "anabranch"):
        assert on(two, body) == list(range(60))
    two.end(two.workers[0])
    lines = [record.getMessage().partition(" | ")[2] for record in caplog.records]
    for number in range(60):
        told = [line for line in lines if line.startswith(f"of {number}:")]
        whole = [*(f"of {number}: line {line}" for line in range(10)), f"of {number}: printed"]
        assert told[-11:] == whole, number  # what it said before is of an attempt that was lost


def test_a_killed_flow_takes_its_local_cluster_along(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"""
import os, time
from anabranch import flow, task

@task
def endless():
    with open({str(tmp_path / "pids")!r}, "w") as file:
        print(os.getpid(), os.getppid(), file=file, flush=True)
    while True:
        time.sleep(0.01)

@flow(task_runner="dask?n_workers=1&threads_per_worker=1")
def census():
    endless.submit().wait()

census()
""")
    process = subprocess.Popen([sys.executable, script])
    path = tmp_path / "pids"
    told: str = until(lambda: path.exists() and path.read_text(), "the task")
    process.kill()
    process.wait()
    for pid in map(int, told.split()):
        until(lambda pid=pid: gone(pid), f"the end of {pid}")


def test_a_killed_flow_leaves_nothing_on_a_cluster(dask: DaskProcesses, tmp_path: Path) -> None:
    dask.worker()
    script = tmp_path / "script.py"
    script.write_text(f"""
import os, time
from pathlib import Path
from anabranch import flow, task
from anabranch.task_runners import DaskTaskRunner
began = Path({str(tmp_path / "began")!r})

@task
def work(number):
    began.touch()
    time.sleep(0.01)
    return bytes(200_000)

@flow(task_runner=DaskTaskRunner(address={dask.address!r}))
def census():
    work.map(range(1_000)).wait()

census()
""")
    process = subprocess.Popen([sys.executable, script])
    until(lambda: (tmp_path / "began").exists(), "the task")
    process.kill()
    process.wait()
    until(lambda: not dask.keys(), "keys after the flow's end")
    assert on(dask, lambda: inc.submit(1).result()) == 2
