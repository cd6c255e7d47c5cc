"""Tasks of some length on two workers: how much longer than the ideal, with and without groups."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from anabranch import flow, task
from anabranch.task_runners.ray_connection import connected_ray
from benchmarks.clusters import cluster
from benchmarks.rows import Row, row

WORKERS = 2
SECONDS = 0.05
LONGEST = 2.0
LOCAL = ("threads", "asyncio", "processes")
CLUSTERS = ("dask", "ray")


@task
def sleeps(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@task
async def sleeps_async(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


def _sleep(seconds: float) -> None:
    time.sleep(seconds)


def alike(count: int) -> list[float]:
    """So many of the same length."""
    return [SECONDS] * count


def heavy_tailed(count: int, seed: int = 1) -> list[float]:
    """So many with about the same mean, most of them short and few very long."""
    rng = random.Random(seed)
    drawn = [min(LONGEST / SECONDS, rng.paretovariate(1.1)) for _ in range(count)]
    scale = SECONDS * count / sum(drawn)
    return [scale * each for each in drawn]


SHAPES = {"of 50 ms": alike, "heavy-tailed": heavy_tailed}


def ideal(lengths: list[float]) -> float:
    """Seconds that no schedule on so many workers can beat."""
    return max(sum(lengths) / WORKERS, max(lengths))


@flow
def mapped(lengths: list[float], batch_size: Any) -> float:
    """Seconds from the first submission to the last result, the runner at work before."""
    sleeps.map([0.0] * 2 * WORKERS).result()
    started = time.perf_counter()
    sleeps.map(lengths, batch_size=batch_size).result()
    return time.perf_counter() - started


@flow
async def mapped_async(lengths: list[float], batch_size: Any) -> float:
    await sleeps_async.map([0.0] * 2 * WORKERS)
    started = time.perf_counter()
    await sleeps_async.map(lengths, batch_size=batch_size)
    return time.perf_counter() - started


def makespan(
    tasks: int,
    rounds: int,
    kinds: tuple[str, ...] = (*LOCAL, *CLUSTERS),
    shapes: tuple[str, ...] = tuple(SHAPES),
    batch_sizes: tuple[Any, ...] = ("auto", 1),
    target: float = 1.05,
) -> Iterator[Row]:
    """A row for each runner, shape and batch size; on Ray also one of Ray alone, which is what that is
    held against."""
    logging.getLogger("anabranch").setLevel("ERROR")
    for kind in kinds:
        with _runner(kind) as (runner, bare):
            for shape in shapes:
                lengths = SHAPES[shape](tasks)
                best = ideal(lengths)
                for size in batch_sizes:
                    run = mapped_async if kind == "asyncio" else mapped
                    ours = run.with_options(task_runner=runner)
                    pairs: list[tuple[float, float]] = []
                    for _ in range(rounds):
                        measured: Any = ours(lengths, size)
                        if kind == "asyncio":
                            measured = asyncio.run(measured)
                        pairs.append((bare(lengths) if bare else best, measured))
                    beside = "Ray alone" if bare else f"the ideal, {best:.1f} s"
                    groups = "in groups" if size == "auto" else "each alone"
                    yield row(f"{kind}: {tasks} {shape}, {groups}", beside, pairs, target, "s")


@contextmanager
def _runner(kind: str) -> Generator[tuple[str, Any]]:
    """What names the runner, and what does the same with its engine alone, where that has a cost of
    its own which nobody on top of it can save."""
    if kind in LOCAL:
        option = "max_concurrency" if kind == "asyncio" else "max_workers"
        yield f"{kind}?{option}={WORKERS}", None
        return
    with ExitStack() as lifetime:
        made = lifetime.enter_context(cluster(kind, WORKERS))
        bare: Any = None
        if kind == "ray":
            connection = lifetime.enter_context(connected_ray(made.address, {}))
            ray: Any = connection.ray
            remote: Any = ray.remote(_sleep)

            def alone(lengths: list[float]) -> float:
                ray.get([remote.remote(0.0) for _ in range(2 * WORKERS)])
                started = time.perf_counter()
                ray.get([remote.remote(each) for each in lengths])
                return time.perf_counter() - started

            bare = alone

        yield made.runner, bare
