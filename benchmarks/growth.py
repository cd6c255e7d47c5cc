"""What a task costs among few and among many: the same map, ten times as long each time."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Generator
from contextlib import contextmanager, nullcontext

from rich.console import Console
from rich.table import Table

from benchmarks.clusters import cluster
from benchmarks.memory import resident
from benchmarks.overhead import mapped
from benchmarks.pictures import draw_lines

FEWEST = 1_000
MANY = 10_000
TARGET = 1.2
ROUNDS = 3


def growth(kind: str, most: int, plot: str | None) -> bool:
    """Print a table from a thousand to so many tasks; whether one costs about the same in all."""
    logging.getLogger("anabranch").setLevel("ERROR")
    table = Table(title=f"map of x + 1 on {kind}, least of {ROUNDS} runs, to the end of the flow")
    for column in ("tasks", "seconds", "µs a task", f"beside {MANY:,}", "MiB at the end"):
        table.add_column(column, justify="right")
    counts = [FEWEST]
    while counts[-1] * 10 <= most:
        counts.append(counts[-1] * 10)
    costs: dict[int, float] = {}
    console = Console()
    with _runner(kind) as runner, console.status("") as status:
        run = mapped.with_options(task_runner=runner)
        run(FEWEST)
        for count in counts:
            status.update(f"{kind}: {count:,} tasks")
            seconds: list[float] = []
            for _ in range(ROUNDS if count < 1_000_000 else 1):
                gc.collect()
                started = time.perf_counter()
                run(count)
                seconds.append(time.perf_counter() - started)
            costs[count] = min(seconds) / count * 1e6
            beside = f"{costs[count] / costs[MANY]:.2f}" if count >= MANY else ""
            size = f"{resident() / (1 << 20):.0f}"
            table.add_row(f"{count:,}", f"{min(seconds):.2f}", f"{costs[count]:.1f}", beside, size)
    console.print(table)
    ratio = costs[counts[-1]] / costs[MANY]
    told = "met" if ratio <= TARGET else "MISSED"
    console.print(f"{counts[-1]:,} beside {MANY:,}: {ratio:.2f} x, at most {TARGET}: {told}")
    if plot:
        lines = {kind: (list(costs), list(costs.values()))}
        draw_lines(plot, f"cost of a task, {kind}", ("tasks in the map", "µs a task"), lines, True)
        console.print(f"cost over count: {plot}")
    return ratio <= TARGET


@contextmanager
def _runner(kind: str) -> Generator[str]:
    with nullcontext() if kind == "threads" else cluster(kind, 2) as made:
        yield kind if made is None else made.runner
