"""Calls on Dask's workers: what travels and what stays there, what they tell, what limits them."""

from __future__ import annotations

import gc
import json
import logging
import os
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import distributed as typed_distributed
import numpy as np
import pytest
from dask_clusters import BIG, Counted, DaskProcesses, dask_processes, pids
from waits import until

from anabranch import (
    allow_failure,
    as_completed,
    concurrency,
    create_markdown_artifact,
    get_run_logger,
    rate_limit,
    unmapped,
)
from anabranch.cache_policies import INPUTS
from anabranch.errors import LostResultError, UnpicklableError
from anabranch.execution.pickling import dumps, loads
from anabranch.execution.portable import portable_exception, received_exception
from anabranch.store.limits import set_limit
from anabranch.store.sqlite import SqliteDatabase
from anabranch.task_runners import DaskTaskRunner
from anabranch.testing.contract.base import in_flow
from anabranch.testing.contract.tasks import broken, inc, note, notes, same, task

distributed: Any = typed_distributed
"""Much of it has no types."""


@pytest.fixture(scope="session")
def dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskProcesses]:
    """Two workers, of which the second has a GPU."""
    with dask_processes(tmp_path_factory.mktemp("dask")) as processes:
        processes.worker("--name", "plain")
        processes.worker("--name", "gpu", "--resources", "GPU=1")
        processes.wait_for(2)
        yield processes


def on(dask: DaskProcesses, body: Callable[..., Any], **options: Any) -> Any:
    """Run this as a flow on the cluster."""
    return in_flow(DaskTaskRunner(address=dask.address), body, **options)


class Locked:
    def __init__(self) -> None:
        self.lock = threading.Lock()


# -- tasks ----------------------------------------------------------------------------------------


@task
def fill(number: int) -> Any:
    return np.full(BIG, number, np.uint8)


@task
def first(array: Any) -> int:
    return int(array[0])


@task
def firsts(held: Any) -> list[int]:
    """Of arrays in a list, each in a dict."""
    return [int(each["array"][0]) for each in held]


@task
def its_pid(_: Any = None) -> int:
    return os.getpid()


@task
def waits_for_file(path: Path, text: str = "through") -> str:
    note(path.with_suffix(".began"), text)
    until(path.exists, f"{path}")
    return text


# -- where and when -------------------------------------------------------------------------------


def test_resources_choose_the_worker(dask: DaskProcesses) -> None:
    on_gpu = its_pid.with_options(resources={"GPU": 1})

    def body() -> Any:
        return set(on_gpu.map(range(8)).result()), set(
            its_pid.map(range(40), batch_size=1).result()
        )

    there, anywhere = on(dask, body)
    assert there == {dask.workers[1].pid}
    assert anywhere == {worker.pid for worker in dask.workers}


def waiting_on(dask_worker: Any) -> int:
    return len(dask_worker.state.constrained)


def test_what_is_urgent_goes_first(dask: DaskProcesses, tmp_path: Path) -> None:
    gate, order = tmp_path / "gate", tmp_path / "order"
    holds = waits_for_file.with_options(resources={"GPU": 1})

    @task(resources={"GPU": 1})
    def step(name: str) -> None:
        note(order, name)

    def body() -> None:
        holds.submit(gate)
        until(gate.with_suffix(".began").exists, "the first")
        for name, priority in (("first", 0), ("second", 0), ("last", -1), ("urgent", 3)):
            step.with_options(priority=priority).submit(name)
        with distributed.Client(dask.address, set_as_default=False) as client:
            until(lambda: max(client.run(waiting_on).values()) == 4, "all wait there")
        note(gate, "")

    on(dask, body)
    told = notes(order)
    assert told[0] == "urgent" and told[-1] == "last"
    assert sorted(told[1:-1]) == ["first", "second"]  # which of equals is first is Dask's to say


# -- what travels ---------------------------------------------------------------------------------


def test_what_cannot_be_sent_fails_alone_and_is_named(dask: DaskProcesses) -> None:
    lock = threading.Lock()

    @task
    def locked() -> None:
        with lock:
            pass

    @task
    def gives(number: Any) -> Any:
        return number if isinstance(number, int) and number == 2 else [number, threading.Lock()]

    def body() -> Any:
        good = inc.map(range(10))
        bad = [locked.submit(), same.submit({"model": Locked()}), gives.submit(1)]
        bad.append(gives.submit(fill.submit(1)))  # it is given an array, and gives it back
        bad += same.map([1, Locked(), 3])[1:2]
        told = [
            (getattr(error, "what", ""), getattr(error, "path", "")) for error in map(failure, bad)
        ]
        return told, good.result(), gives.submit(2).result(), bad[0].exception()

    told, good, later, error = on(dask, body)
    assert told == [
        ("Task 'locked'", "function.lock"),
        ("The arguments of same-0", "args[0]['model'].lock"),
        ("The result of gives-0", "result[1]"),
        ("The result of gives-1", "result[1]"),
        ("The arguments of same-2", "args[0].lock"),
    ]
    assert good == list(range(1, 11)) and later == 2
    assert isinstance(error, UnpicklableError)


def failure(future: Any) -> Any:
    return future.exception(timeout=20)


def test_what_cannot_be_read_there_fails_alone(
    dask: DaskProcesses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_here.py").write_text("class Thing: pass\ndef work(): return 1\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    import only_here  # pyright: ignore[reportMissingImports]  # it was made above

    work: Any = task(only_here.work)  # pyright: ignore[reportUnknownMemberType]  # as above

    def body() -> Any:
        bad = [same.submit(only_here.Thing()), work.submit()]  # pyright: ignore[reportUnknownMemberType]  # as above
        return [str(failure(future)) for future in bad], inc.submit(1).result()

    told, good = on(dask, body)
    assert ["only_here" in each for each in told] == [True, True] and good == 2


def test_a_large_result_never_comes_through_the_flow(dask: DaskProcesses, tmp_path: Path) -> None:
    @task
    def make() -> Counted:
        return Counted(tmp_path, 1_000_000)

    @task
    def size(value: Counted, *others: Any) -> int:
        return len(value.filling)

    unpickled = tmp_path / "unpickled"

    def body() -> Any:
        made = make.submit()
        sizes = [size.submit(made), *size.map([made, made]), size.submit(made, [made, {"x": made}])]
        assert [each.result() for each in sizes] == [1_000_000] * 4
        assert os.getpid() not in pids(unpickled)
        assert len(made.result().filling) == 1_000_000
        assert pids(unpickled)[-1] == os.getpid()
        return made

    assert len(on(dask, body).filling) == 1_000_000


def test_large_results_inside_of_all_that_tasks_do(dask: DaskProcesses) -> None:
    @task
    def inside(number: int) -> Any:
        mine = fill.submit(number)
        found = first.submit(mine).result(), int(mine.result()[0]), firsts.submit([{"array": mine}])
        return [*found[:2], *found[2].result()]

    @task
    def hands_on(number: int) -> Any:
        return fill.submit(number)

    @task
    def some(count: int) -> Any:
        return [np.full(BIG, number, np.uint8) for number in range(count)]

    @task
    async def awaits(held: Any) -> int:
        return first(held) + int((await fill.submit(3))[0])

    @task
    def yields(array: Any) -> Iterator[Any]:
        yield from (array, array + 1)

    def body() -> Any:
        one, two = fill.submit(1), fill.submit(2)
        failed = broken.submit()
        return {
            "containers": firsts.submit([{"array": one}, {"array": two}]),
            "inside": inside.submit(7),
            "handed on": first.submit(hands_on.submit(8)),
            "map over one": first.map(some.submit(3)).result(),
            "map over a map": first.map(fill.map(range(4))).result(),
            "async": awaits.submit(one),
            "generator": first.map(yields.submit(two)).result(),
            "unmapped": [int(each[0]) for each in same.map(same.map([one] * 3)).result()],
            "allowed": first.submit(allow_failure(one)),
            "failed": type(same.submit(allow_failure(failed)).result()).__name__,
            "direct": first(two) + first.fn(one.result()),
            "waited for": inc.submit(1, wait_for=[one, two]),
            "as they come": sorted(int(each.result()[0]) for each in as_completed([one, two])),
        }

    assert on(dask, body) == {
        "containers": [1, 2],
        "inside": [7, 7, 7],
        "handed on": 8,
        "map over one": [0, 1, 2],
        "map over a map": [0, 1, 2, 3],
        "async": 4,
        "generator": [2, 3],
        "unmapped": [1, 1, 1],
        "allowed": 1,
        "failed": "Broken",
        "direct": 3,
        "waited for": 2,
        "as they come": [1, 2],
    }


def test_what_nobody_holds_is_let_go(dask: DaskProcesses) -> None:
    kept: list[Any] = []

    def body() -> int:
        kept.append(fill.submit(9))
        first.submit(kept[0]).result()
        before = 3  # the value that is kept, and what calls of each of the two tasks share
        until(lambda: len(dask.keys()) == before, "the call's own key to go")
        futures = fill.map(range(6))
        total = sum(first.map(futures).result())
        assert len(dask.keys()) >= before + 6
        del futures
        gc.collect()
        until(lambda: len(dask.keys()) <= before, f"more than {before} keys")
        return total

    assert on(dask, body) == 15
    until(lambda: not dask.keys(), "keys after the flow's end")
    assert kept[0].result()[0] == 9


def test_a_result_that_is_too_much_to_bring_home_says_so(
    dask: DaskProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anabranch.task_runners.cluster_runner.HOME_BYTES", BIG + 10_000)
    kept: list[Any] = []

    def body() -> int:
        kept.extend(fill.map(range(3)))
        return sum(first.map(kept).result())

    assert on(dask, body) == 3
    there = 0
    for future in kept:
        try:
            there += len(future.result()) == BIG
        except LostResultError as error:
            assert "return it from the flow" in str(error)
    assert there == 1


def test_constants_and_functions_travel_once_a_worker(dask: DaskProcesses, tmp_path: Path) -> None:
    for name in ("constant", "held"):
        (tmp_path / name).mkdir()
    constant, held = Counted(tmp_path / "constant", 100_000), Counted(tmp_path / "held", 100_000)

    @task
    def use(number: int, other: Counted, *, scale: int) -> int:
        return scale * number + len(other.filling) - len(held.filling)

    def body() -> list[int]:
        use.submit(0, None, scale=1).wait()  # it fails, and knows the function
        return use.map(range(200), unmapped(constant), scale=3).result()

    assert on(dask, body) == [3 * number for number in range(200)]
    workers = {worker.pid for worker in dask.workers}
    for folder in (constant.folder, held.folder):
        # Once to know an equal call by it, and at most twice to send it.
        assert set(pids(folder / "pickled")) == {os.getpid()}
        assert len(pids(folder / "pickled")) <= 3
        there = Counter(pids(folder / "unpickled"))
        assert set(there) <= workers and set(there.values()) == {1}, there


# -- what they tell -------------------------------------------------------------------------------


@task(log_prints=True)
def talks(number: int, lines: int) -> None:
    for line in range(lines):
        print(f"of {number}: printed {line}")
        get_run_logger().info("of %d: logged %d", number, line)
    create_markdown_artifact(f"# of {number}", key=f"of-{number}")


def test_lines_and_artifacts_arrive_complete_and_in_order(
    dask: DaskProcesses,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ANABRANCH_HOME", str(tmp_path))
    with caplog.at_level(logging.INFO, "anabranch"):
        on(dask, lambda: talks.map(range(12), lines=30).wait())
    told = [record.getMessage().partition(" | ")[2] for record in caplog.records]
    for number in range(12):
        expected = [
            f"of {number}: {what} {line}" for line in range(30) for what in ("printed", "logged")
        ]
        assert [line for line in told if line.startswith(f"of {number}:")] == expected
    with sqlite3.connect(tmp_path / "anabranch.db") as database:
        rows = database.execute("SELECT key, data FROM artifact").fetchall()
    database.close()
    assert {key: json.loads(data) for key, data in rows} == {
        f"of-{number}": f"# of {number}" for number in range(12)
    }


# -- tasks that submit, wait, and are limited -----------------------------------------------------


def test_limits_inside_of_tasks(
    dask: DaskProcesses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANABRANCH_HOME", str(tmp_path))
    inside = tmp_path / "inside"

    @task
    def one_at_a_time(_: int) -> int:
        with concurrency("desk", strict=True):
            note(inside, "in")
            count = notes(inside).count("in") - notes(inside).count("out")
            note(inside, "out")
        rate_limit("door", strict=True)
        return count

    database = SqliteDatabase(tmp_path / "anabranch.db")
    set_limit(database, "desk", 1)
    set_limit(database, "door", 1, 20)
    database.close()
    began = time.monotonic()
    assert on(dask, lambda: one_at_a_time.map(range(11)).result()) == [1] * 11
    assert time.monotonic() - began > 0.4


def test_cached_results_large_and_small(dask: DaskProcesses, tmp_path: Path) -> None:
    @task(cache_policy=INPUTS, persist_result=True, result_storage=tmp_path / "results")
    def made(number: int) -> Any:
        note(tmp_path / "made", str(number))
        return np.full(BIG if number else 1, number, np.uint8)

    def body() -> Any:
        futures = [made.submit(number) for number in (0, 1, 0, 1)]
        return first.map(futures).result(), [future.state.name for future in futures]

    values, states = on(dask, body)
    assert values == [0, 1, 0, 1] and Counter(states) == {"Completed": 2, "Cached": 2}
    values, states = on(dask, body)
    assert values == [0, 1, 0, 1] and set(states) == {"Cached"}
    assert sorted(notes(tmp_path / "made")) == ["0", "1"]


def test_exceptions_keep_what_they_say_where_dask_is_loaded() -> None:
    for error in (SyntaxError("odd", ("a.py", 1, 2, "(", 1, 3)), OSError(2, "no", "there")):
        (back,) = loads(dumps([error], "It"))
        by_value, _ = loads(dumps([error, lambda: 1], "It"))
        assert [str(back), str(by_value)] == [str(error)] * 2
        assert str(received_exception(portable_exception(error))) == str(error)
