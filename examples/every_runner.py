"""The same flow on every task runner: equal results, different times.

    python examples/every_runner.py

Counting primes keeps a processor busy: threads take as long as one task after the other, while
processes use all processors, once they have started.
"""

from __future__ import annotations

import os
import time

from rich.console import Console
from rich.table import Table

from anabranch import flow, task

RUNNERS = ["inline", "threads", "asyncio", "processes"]


@task
def count_primes(start: int, stop: int) -> int:
    return sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(max(start, 2), stop))


@flow
def primes_below(limit: int, step: int) -> int:
    starts = range(0, limit, step)
    stops = [min(start + step, limit) for start in starts]
    return sum(count_primes.map(starts, stops).result())


def main() -> None:
    results: set[int] = set()
    table = Table("task runner", "primes", "seconds", title=f"on {os.cpu_count()} processors")
    for runner in RUNNERS:
        began = time.perf_counter()
        primes = primes_below.with_options(task_runner=runner)(limit=250_000, step=10_000)
        seconds = time.perf_counter() - began
        results.add(primes)
        table.add_row(runner, f"{primes:,}", f"{seconds:.2f}")
    Console().print(table)
    print("All results are equal." if len(results) == 1 else "The results differ!")


if __name__ == "__main__":
    main()  # child processes never run this script, so it would do without the `if`
