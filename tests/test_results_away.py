"""Results that are not held in memory: dropped once they are stored, read again when asked for."""

from __future__ import annotations

import asyncio
import os
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from anabranch import FutureList, flow, task
from anabranch.cache_policies import INPUTS
from anabranch.errors import MissingResultError
from anabranch.outcomes import Away
from anabranch.results import LocalStorage
from anabranch.states import Completed

RUNNERS = ["threads", "asyncio", "processes", "inline"]
MEGABYTE = 1_000_000


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANABRANCH_HOME", str(tmp_path / "home"))


@task(persist_result=True, cache_result_in_memory=False)
def large(x: int) -> bytearray:
    return bytearray(os.urandom(MEGABYTE // 2)) + bytes([x % 256]) * (MEGABYTE // 2)


@task
def last(data: bytearray) -> int:
    return data[-1]


def _is_away(future: Any) -> bool:
    return type(future._outcome.value) is Away


@pytest.mark.parametrize("runner", RUNNERS)
def test_memory_stays_flat(runner: str) -> None:
    count = 60
    used: list[int] = []

    @flow(task_runner=runner)
    def pipeline() -> list[int]:
        futures = large.map(range(count))
        futures.wait()
        used.append(tracemalloc.get_traced_memory()[0])
        assert all(map(_is_away, futures))
        return FutureList(last.map(futures)).result()

    tracemalloc.start()
    try:
        assert pipeline() == list(range(count))
    finally:
        tracemalloc.stop()
    assert used[0] < 20 * MEGABYTE


@pytest.mark.parametrize("runner", RUNNERS)
def test_the_value_is_had_when_it_is_asked_for(runner: str, tmp_path: Path) -> None:
    hooked: list[int] = []
    with_hook = large.with_options(
        on_completion=[lambda task, run, state: hooked.append(len(state.result()))],
        result_storage=tmp_path / "there",
    )

    @task(persist_result=True, cache_result_in_memory=False)
    def gives_state() -> Any:
        return Completed(data=bytearray(5))

    @task(persist_result=True, cache_result_in_memory=False)
    def small() -> int:
        return 3

    @flow(task_runner=runner)
    def pipeline() -> Any:
        future = with_hook.submit(7)
        assert future.result()[-1] == future.state.result()[-1] == 7
        assert _is_away(future)
        direct = large(8)
        assert type(direct) is bytearray and direct[-1] == 8
        assert large(8, return_state=True).result()[-1] == 8  # pyright: ignore[reportCallIssue]
        assert gives_state.submit().result() == bytearray(5)
        assert small.submit().result() == small() == 3
        return future

    assert len(pipeline()) == MEGABYTE // 2 * 2
    assert hooked == [MEGABYTE]


def test_awaited() -> None:
    @flow
    async def pipeline() -> int:
        return (await large.submit(4))[-1]

    assert asyncio.run(pipeline()) == 4


@task
def inside() -> int:
    future = large.submit(9)
    return future.result()[-1] + large(1)[-1]


def test_on_worker_processes() -> None:
    @flow(task_runner="processes?max_workers=2")
    def pipeline() -> int:
        return inside.submit().result()

    assert pipeline() == 10


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    kept = large.with_options(result_storage=tmp_path / "there", result_storage_key="mine")

    @flow
    def pipeline() -> None:
        future = kept.submit(1)
        future.wait()
        (tmp_path / "there" / "mine").unlink()
        with pytest.raises(MissingResultError, match="mine"):
            future.result()
        with pytest.raises(MissingResultError, match="mine"):
            last.submit(future).result()

    pipeline()


@pytest.mark.parametrize("storage", [None, "shared"])
def test_cached_results_are_not_held_either(storage: str | None, tmp_path: Path) -> None:
    options: Any = {} if storage is None else {"result_storage": tmp_path / storage}
    cached = large.with_options(cache_policy=INPUTS, **options)

    @flow
    def pipeline() -> list[bytearray]:
        first, second = cached.submit(1), cached.submit(1)
        values = [first.result(), second.result()]
        assert sorted([first.state.name, second.state.name]) == ["Cached", "Completed"]
        assert _is_away(first) and _is_away(second)
        return values

    one, two = pipeline()
    assert one == two


def test_handed_back_by_a_retry_of_the_flow() -> None:
    @flow(retries=1)
    def pipeline() -> int:
        future = large.submit(6)
        future.wait()
        if not tries:
            tries.append(future.task_run_id)
            raise ValueError
        assert future.task_run_id == tries[0] and _is_away(future)
        return future.result()[-1]

    tries: list[str] = []
    assert pipeline() == 6


def test_drafts_that_a_killed_writer_left_are_swept_up(tmp_path: Path) -> None:
    old, new, other = (tmp_path / name for name in (f".{'a' * 32}", f".{'b' * 32}", ".profile"))
    for path in (old, new, other):
        path.write_bytes(b"half")
    day_ago = time.time() - 25 * 3600
    for path in (old, other):
        os.utime(path, (day_ago, day_ago))
    storage = LocalStorage(tmp_path)
    storage.write("key", b"whole")
    assert not old.exists()
    assert new.read_bytes() == other.read_bytes() == b"half"
    assert storage.keys() == ["key"]
