"""A task that does next to nothing, on each runner, beside what the runner is made of."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import anyio

from anabranch import flow, task
from benchmarks.rows import Row, alternated, row


def bare(x: int) -> int:
    return x + 1


async def bare_async(x: int) -> int:
    return x + 1


inc = task(bare)
inc_async = task(bare_async)


@task
def parent(x: int) -> int:
    return inc.submit(x).result()


@flow
def mapped(count: int) -> int:
    return sum(inc.map(range(count)).result())


@flow
def mapped_alone(count: int) -> int:
    return sum(inc.map(range(count), batch_size=1).result())


@flow
def submitted(count: int) -> int:
    futures = [inc.submit(n) for n in range(count)]
    return sum(future.result() for future in futures)


@flow
def called(count: int) -> int:
    return sum(inc(n) for n in range(count))


@flow
def one_by_one(count: int) -> int:
    return sum(inc.submit(n).result() for n in range(count))


@flow
def parents(count: int) -> int:
    return sum(parent.map(range(count)).result())


@task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@flow
def fan_in(count: int) -> int:
    """Ten of them at a time, then one that adds them up: a tenth of the tasks more."""
    sums = [total.submit(inc.map(range(n, n + 10))) for n in range(0, count, 10)]  # pyright: ignore[reportArgumentType]  # futures stand for their values
    return sum(future.result() for future in sums)


@flow
def unlinked(count: int) -> int:
    """The same submissions, where nothing waits for anything."""
    parts = [(inc.map(range(n, n + 10)), total.submit([n])) for n in range(0, count, 10)]
    for _, future in parts:
        future.result()
    return sum(sum(futures.result()) for futures, _ in parts)


@flow(task_runner="asyncio")
async def mapped_async(count: int) -> int:
    return sum(await inc_async.map(range(count)))


@flow(task_runner="asyncio")
async def submitted_async(count: int) -> int:
    futures = [inc_async.submit(n) for n in range(count)]
    return sum([await future for future in futures])


mapped_on_processes = mapped.with_options(task_runner="processes?max_workers=2")
submitted_on_processes = submitted.with_options(task_runner="processes?max_workers=2")


def thread_pool(count: int) -> int:
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(bare, n) for n in range(count)]
        return sum(future.result() for future in futures)


def thread_pool_one_by_one(count: int) -> int:
    with ThreadPoolExecutor(8) as pool:
        return sum(pool.submit(bare, n).result() for n in range(count))


def process_pool(count: int) -> int:
    with ProcessPoolExecutor(2) as pool:
        return sum(pool.map(bare, range(count), chunksize=100))


def process_pool_submit(count: int) -> int:
    with ProcessPoolExecutor(2) as pool:
        futures = [pool.submit(bare, n) for n in range(count)]
        return sum(future.result() for future in futures)


def task_group(count: int) -> int:
    async def run() -> None:
        async with anyio.create_task_group() as group:
            for n in range(count):
                group.start_soon(bare_async, n)

    anyio.run(run)
    return count * (count + 1) // 2


Run = Callable[[int], int]


def strictly(run: Run) -> Run:
    """The same with `strict` durability."""

    def strict(count: int) -> int:
        os.environ["ANABRANCH_DURABILITY"] = "strict"
        try:
            return run(count)
        finally:
            del os.environ["ANABRANCH_DURABILITY"]

    return strict


def overhead(tasks: int, rounds: int, only: str = "") -> Iterator[Row]:
    """A row for each way to run tasks in this process or its children, beside what that is made of.

    All that a user gets is on: runs are recorded in an SQLite store of the benchmark's own, and a
    measurement ends when everything is committed.
    """
    logging.getLogger("anabranch").setLevel("ERROR")
    threads, processes = "ThreadPoolExecutor(8)", "ProcessPoolExecutor(2).map"
    rows: list[tuple[str, Run, str, Run, float | None, int]] = [
        ("threads: map", mapped, threads, thread_pool, 0.5, tasks),
        ("threads: submit", submitted, threads, thread_pool, 1.0, tasks),
        ("threads: map, strict", strictly(mapped), threads, thread_pool, None, tasks),
        ("threads: submit, strict", strictly(submitted), threads, thread_pool, None, tasks),
        ("direct calls", called, threads, thread_pool, 0.7, tasks),
        ("threads: submit, result, ...", one_by_one, threads, thread_pool_one_by_one, 1.5, tasks // 4),
        ("threads: parents that block", parents, threads, thread_pool, 2.0, tasks // 4),
        ("threads: map of 10, then sum", fan_in, "without links", unlinked, 1.5, tasks // 4),
        ("asyncio: map", lambda n: asyncio.run(mapped_async(n)), "anyio task group", task_group, 0.4, tasks),
        ("asyncio: submit", lambda n: asyncio.run(submitted_async(n)), "anyio task group", task_group, 0.6, tasks),
        ("processes: map", mapped_on_processes, f"{processes} of 100", process_pool, 2.0, tasks),
        ("processes: submit", submitted_on_processes, "ProcessPoolExecutor(2).submit", process_pool_submit, None, tasks // 4),
    ]  # fmt: skip
    for name, ours, other_name, other, target, count in rows:
        if only in name:
            ours(100)
            pairs = alternated(
                lambda other=other, count=count: microseconds(other, count),
                lambda ours=ours, count=count: microseconds(ours, count),
                rounds,
            )
            yield row(name, other_name, pairs, target)


def microseconds(run: Run, count: int) -> float:
    """A task, of a run that adds 1 to so many numbers; raises `AssertionError` for a wrong sum."""
    started = time.perf_counter()
    result = run(count)
    seconds = time.perf_counter() - started
    if result != count * (count + 1) // 2:
        raise AssertionError(f"wrong answer: {result}")
    return seconds / count * 1e6
