"""One flow on clusters: an existing Dask scheduler, a Dask cluster that grows, Ray with resources.

    python examples/on_a_cluster.py            # all three, on this machine
    python examples/on_a_cluster.py ray        # one of: scheduler, adaptive, ray

The flow knows nothing of where it runs. The matrices that its tasks hand to each other stay on the
workers; only sums come home.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from anabranch import flow, get_run_logger, task
from anabranch.task_runners import DaskTaskRunner, RayTaskRunner, TaskRunner

Matrix = npt.NDArray[np.float64]


@task(retries=2)
def matrix(seed: int) -> Matrix:
    return np.random.default_rng(seed).random((600, 600))


@task
def squared(matrix: Matrix) -> Matrix:
    return matrix @ matrix


@task
def trace(matrix: Matrix) -> float:
    get_run_logger().debug("a matrix of %.1f MB", matrix.nbytes / 1e6)
    return float(np.trace(matrix))


@flow
def traces(count: int, licences: int = 0) -> float:
    counted = trace.with_options(resources={"licence": licences}) if licences else trace
    return sum(counted.map(squared.map(matrix.map(range(count)))).result())


@contextmanager
def existing_scheduler() -> Generator[TaskRunner]:
    """A scheduler that somebody started, here with two workers."""
    from distributed import LocalCluster  # only where it is used: slow to load

    made: Any = LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0"
    )
    with made as cluster:
        yield DaskTaskRunner(address=cluster.scheduler_address)


@contextmanager
def adaptive_cluster() -> Generator[TaskRunner]:
    """One that is made for the flow, and has between one and two workers as there is work."""
    yield DaskTaskRunner(
        cluster_kwargs={"n_workers": 0, "threads_per_worker": 1},
        adapt_kwargs={"minimum": 1, "maximum": 2},
    )


@contextmanager
def ray_with_resources() -> Generator[TaskRunner]:
    """A local Ray that counts a resource of ours, of which two tasks can have some at once."""
    yield RayTaskRunner(init_kwargs={"num_cpus": 2, "resources": {"licence": 2}})


RUNNERS = {"scheduler": existing_scheduler, "adaptive": adaptive_cluster, "ray": ray_with_resources}


def main() -> None:
    wanted = sys.argv[1:] or list(RUNNERS)
    unknown = [name for name in wanted if name not in RUNNERS]
    if unknown:
        sys.exit(f"on_a_cluster.py: {unknown[0]!r} is none of {', '.join(RUNNERS)}")
    table = Table("cluster", "sum of traces", "seconds")
    for name in wanted:
        began = time.perf_counter()
        with RUNNERS[name]() as runner:
            total = traces.with_options(task_runner=runner)(20, licences=int(name == "ray"))
        table.add_row(name, f"{total:.3f}", f"{time.perf_counter() - began:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
