"""A task that does nothing, on a cluster, beside the cluster's own engine."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

from anabranch.task_runners.ray_connection import connected_ray
from benchmarks.clusters import Cluster, cluster
from benchmarks.overhead import bare, mapped, mapped_alone, microseconds, submitted
from benchmarks.rows import Row, alternated, row

TARGETS = {"dask": 0.07, "ray": 0.05}
QUIET_SECONDS = 1.0
"""Before each measurement, of either side."""
ALONE = 1.3
"""The same where each call travels by itself."""


def cluster_overhead(
    kind: str, tasks: int, rounds: int, address: str | None = None, only: str = ""
) -> Iterator[Row]:
    """Rows whose two sides alternate on one cluster: of two workers, or the one at the address. All
    that a user gets is on, and a measurement ends when everything is recorded."""
    logging.getLogger("anabranch").setLevel("ERROR")
    with _cluster(kind, address) as made, ENGINES[kind](made) as (name, engine):
        for what, ours, target in (
            ("map", mapped, TARGETS[kind]),
            ("submit", submitted, None),
            ("each alone", mapped_alone, ALONE),
        ):
            if only in what:
                run = ours.with_options(task_runner=made.runner)
                run(2_000)
                engine(200)
                pairs = alternated(
                    lambda: _when_quiet(engine, tasks),
                    lambda run=run: _when_quiet(run, tasks),
                    rounds,
                )
                yield row(f"{kind}: {what}", name, pairs, target)


def _when_quiet(run: Callable[[int], int], tasks: int) -> float:
    """Microseconds a task, once the cluster is done with what came before: Ray frees what it held, and
    starts processes, for some time after the last result."""
    time.sleep(QUIET_SECONDS)
    return microseconds(run, tasks)


@contextmanager
def _cluster(kind: str, address: str | None) -> Generator[Cluster]:
    if address is None:
        with cluster(kind, 2) as made:
            yield made
    elif kind == "dask":
        yield Cluster(f"dask+{address}", address, "")
    else:
        yield Cluster(f"ray?address={address}", address, "")


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
