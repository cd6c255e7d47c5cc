"""A task that does nothing, on a cluster, beside the cluster's own engine."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table

from anabranch.task_runners.ray_connection import connected_ray
from benchmarks.clusters import Cluster, cluster
from benchmarks.overhead import bare, mapped, microseconds, submitted

TARGET = 1.3


def cluster_overhead(kind: str, tasks: int, rounds: int) -> None:
    """Print a table: each row's two sides alternate on one cluster of two workers, so that noise hits
    both. All that a user gets is on, and a measurement ends when everything is recorded."""
    logging.getLogger("anabranch").setLevel("ERROR")
    table = Table(title=f"{tasks:,} tasks of x + 1 on {kind}, medians of {rounds} alternations")
    for column in ("what", "µs a task", "beside", "µs a task", "ratio", "each", "target", ""):
        table.add_column(column, justify="left" if column in ("what", "beside", "") else "right")
    console = Console(width=110)
    with (
        console.status(f"starting {kind}") as status,
        cluster(kind, 2) as made,
        ENGINES[kind](made) as (name, engine),
    ):
        for what, ours in (("map", mapped), ("submit", submitted)):
            run = ours.with_options(task_runner=made.runner)
            run(200)
            engine(200)
            pairs: list[tuple[float, float]] = []
            for number in range(rounds):
                status.update(f"measuring {what} on {kind}, {number + 1} of {rounds}")
                pairs.append((microseconds(engine, tasks), microseconds(run, tasks)))
            ratios = [mine / theirs for theirs, mine in pairs]
            ratio = statistics.median(ratios)
            table.add_row(
                f"{kind}: {what}",
                f"{statistics.median(mine for _, mine in pairs):.0f}",
                name,
                f"{statistics.median(theirs for theirs, _ in pairs):.0f}",
                f"{ratio:.2f}",
                " ".join(f"{each:.2f}" for each in sorted(ratios)),
                f"{TARGET}",
                "met" if ratio <= TARGET else "MISSED",
            )
    console.print(table)


Engine = tuple[str, Callable[[int], int]]


@contextmanager
def _dask(made: Cluster) -> Generator[Engine]:
    from distributed import Client  # slow to load, and only here

    client: Any
    with Client(made.address, set_as_default=False) as client:
        yield (
            "client.map",
            lambda count: sum(client.gather(client.map(bare, range(count), pure=False))),
        )


@contextmanager
def _ray(made: Cluster) -> Generator[Engine]:
    with connected_ray(made.address, {}) as connection:
        ray: Any = connection.ray
        remote: Any = ray.remote(bare)
        yield ".remote", lambda count: sum(ray.get([remote.remote(n) for n in range(count)]))


ENGINES = {"dask": _dask, "ray": _ray}
