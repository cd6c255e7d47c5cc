"""Shapes that are deeper or wider than the pool: they end, and with the right answer."""

import os
from pathlib import Path
from typing import Any

import pytest

from anabranch import flow, task

TWO_WORKERS = ["threads?max_workers=2", "processes?max_workers=2"]


@task
def depth(left: int) -> int:
    return 0 if left == 0 else 1 + depth.submit(left - 1).result()


@task
def widening(left: int) -> int:
    return 1 if left == 0 else sum(widening.map([left - 1] * 3).result())


@task
def depth_and_processes(left: int) -> set[int]:
    return {os.getpid()} | (depth_and_processes.submit(left - 1).result() if left else set[int]())


@task
def waits_for_its_parent(path: Path, left: int) -> int:
    """The deepest call dies once, on top of all that wait for it."""
    if left == 0 and not path.exists():
        path.write_text("")
        os.kill(os.getpid(), 9)
    return 0 if left == 0 else 1 + waits_for_its_parent.submit(path, left - 1).result()


@task(timeout_seconds=0.5)
def stuck() -> None:
    import threading

    threading.Event().wait(3600)


@task
def deep_and_stuck(left: int) -> str:
    if left == 0:
        return type(stuck.submit().exception()).__name__
    return deep_and_stuck.submit(left - 1).result()


@task
def same(x: int) -> int:
    return x


@task
def following(x: Any) -> int:
    return x + 1


@pytest.mark.parametrize("runner", TWO_WORKERS)
def test_a_task_that_waits_for_itself_100_deep_on_two_workers(runner: str) -> None:
    @flow(task_runner=runner)
    def nested() -> int:
        return depth.submit(100).result()

    assert nested() == 100


@pytest.mark.parametrize("runner", TWO_WORKERS)
def test_tasks_that_widen_at_each_level_on_two_workers(runner: str) -> None:
    @flow(task_runner=runner)
    def tree() -> int:
        return widening.submit(5).result()

    assert tree() == 3**5


@pytest.mark.parametrize("runner", TWO_WORKERS)
def test_a_fan_in_of_1000_on_two_workers(runner: str) -> None:
    @flow(task_runner=runner)
    def fan_in() -> int:
        return same.submit(7, wait_for=same.map(range(1000))).result()

    assert fan_in() == 7


@pytest.mark.parametrize("runner", TWO_WORKERS)
def test_a_chain_of_10000_links_on_two_workers(runner: str) -> None:
    @flow(task_runner=runner)
    def chain() -> int:
        future = following.submit(0)
        for _ in range(9_999):
            future = following.submit(future)
        return future.result()

    assert chain() == 10_000


def test_nesting_on_processes_opens_few_of_them() -> None:
    @flow(task_runner="processes?max_workers=2")
    def nested() -> set[int]:
        return depth_and_processes.submit(60).result()

    assert len(nested()) <= 10  # two workers, and eight that stand in


def test_a_child_that_dies_under_nested_calls(tmp_path: Path) -> None:
    @flow(task_runner="processes?max_workers=2")
    def nested() -> int:
        return waits_for_its_parent.submit(tmp_path / "died", 40).result()

    assert nested() == 40
    assert (tmp_path / "died").exists()


@pytest.mark.parametrize("left", [1, 30])
def test_a_timeout_far_down_on_processes(left: int) -> None:
    @flow(task_runner="processes?max_workers=2")
    def nested() -> str:
        return deep_and_stuck.submit(left).result()

    assert nested() == "RunTimedOut"
