"""A gigabyte that tasks hand to each other on a cluster: how much of it the flow's process sees."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console

from anabranch import flow, task
from benchmarks.clusters import cluster

LENGTH = 1_250_000  # numbers of 8 bytes each
Array = npt.NDArray[np.float64]


@task
def make(number: int) -> Array:
    return np.full(LENGTH, float(number))


@task
def double(array: Array) -> Array:
    return array * 2


@task
def add(left: Array, right: Array) -> Array:
    return left + right


@task
def first(array: Array) -> float:
    return float(array[0])


@flow
def reduced(count: int) -> float:
    arrays = list(double.map(make.map(range(count))))
    while len(arrays) > 1:
        odd = arrays[len(arrays) - len(arrays) % 2 :]
        arrays = [
            *add.map(arrays[0 : len(arrays) - len(odd) : 2], arrays[1 : len(arrays) : 2]),
            *odd,
        ]
    return first.map(arrays).result()[0]


def intermediate_results(kind: str, count: int) -> bool:
    """Print how much the flow's process grew; whether by less than 100 MB, with the right answer."""
    console = Console(width=110)
    with console.status(f"starting {kind}") as status, cluster(kind, 2) as made:
        run = reduced.with_options(task_runner=made.runner)
        run(2)  # loads what it needs
        status.update(f"{count} arrays of {LENGTH * 8 / 1e6:.0f} MB, mapped and reduced on {kind}")
        began = time.perf_counter()
        with _peak() as peak:
            answer = run(count)
        seconds = time.perf_counter() - began
    right, grown = answer == count * (count - 1), (peak[1] - peak[0]) / 1e6
    console.print(
        f"{kind}: {count} arrays of {LENGTH * 8 / 1e6:.0f} MB, mapped, then reduced, in {seconds:.1f} s; "
        f"right: {right}; the flow's process grew by {grown:.0f} MB at its peak (under 100: {grown < 100})"
    )
    return right and grown < 100


@contextmanager
def _peak() -> Generator[list[int]]:
    """Resident bytes of this process before, and at most, in the end."""
    pages = Path("/proc/self/statm")
    told = [0, 0]
    over = threading.Event()

    def watch() -> None:
        told[0] = told[1] = int(pages.read_text().split()[1]) * 4096
        while not over.wait(0.01):
            told[1] = max(told[1], int(pages.read_text().split()[1]) * 4096)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield told
    finally:
        over.set()
        thread.join()
