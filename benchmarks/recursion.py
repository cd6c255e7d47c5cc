"""Tasks that submit and wait, 50 deep, on the smallest cluster: seconds, and memory in all."""

from __future__ import annotations

import os
import threading
import time

from rich.console import Console

from anabranch import flow, task
from benchmarks.clusters import cluster, pss

MOST = 2_000_000_000


@task
def deeper(levels: int) -> int:
    return 1 + deeper.submit(levels - 1).result() if levels else 0


@flow
def deep(levels: int) -> int:
    return deeper.submit(levels).result()


def recursion(kind: str, levels: int) -> bool:
    """Print how long it took and what all processes held at their peak; whether under 2 GB."""
    console = Console(width=110)
    with console.status(f"starting {kind}") as status, cluster(kind, 1) as made:
        status.update(f"recursion to depth {levels} on {kind}")
        peak, most_processes, over = 0, 0, threading.Event()

        def watch() -> None:
            nonlocal peak, most_processes
            while not over.wait(0.1):
                processes = made.processes()
                most_processes = max(most_processes, len(processes))
                peak = max(peak, pss([*processes, os.getpid()]))

        thread = threading.Thread(target=watch)
        thread.start()
        began = time.perf_counter()
        answer = deep.with_options(task_runner=made.runner)(levels)
        seconds = time.perf_counter() - began
        time.sleep(0.3)
        over.set()
        thread.join()
    right = answer == levels
    console.print(
        f"{kind} of one worker and one thread: depth {levels} in {seconds:.1f} s, right: {right}; "
        f"{most_processes} processes of the cluster; with the flow's {peak / 1e6:.0f} MB at their peak "
        f"(under 2 GB: {peak < MOST})"
    )
    return right and peak < MOST
