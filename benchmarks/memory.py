"""What a task run costs in memory while somebody keeps its future, and streams that keep none."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from pathlib import Path

from anabranch import flow
from benchmarks.overhead import inc
from benchmarks.rows import Row, row

KEPT = 200_000
MOST_BYTES = 600.0


def resident(process: str = "self") -> int:
    """Bytes of memory that a process has, by its number."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * 4096


@flow(task_runner="threads")
def kept(count: int) -> float:
    """Bytes a run, of so many that have ended and whose futures are there."""
    inc.map(range(1_000)).result()
    inputs = list(range(count))
    gc.collect()
    before = resident()
    futures = inc.map(inputs)
    futures.wait()
    gc.collect()
    return (resident() - before) / len(futures)


def memory(rounds: int) -> Iterator[Row]:
    logging.getLogger("anabranch").setLevel("ERROR")
    pairs = [(MOST_BYTES, kept(KEPT)) for _ in range(rounds)]
    yield row("threads: a task run that is kept", "at most", pairs, 1.0, "bytes")
