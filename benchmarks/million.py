"""A million items through one flow: time, memory while it runs, and what a kill at half costs."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from benchmarks.clusters import cluster
from benchmarks.kills import COMPLETED
from benchmarks.memory import resident
from benchmarks.pictures import draw_lines

MIB = 1 << 20
MOST_GROWTH = 100 * MIB
SCRIPT = """
import sys
from anabranch import flow, task

@task
def inc(x):
    return x + 1

@flow(task_runner=sys.argv[1])
def streamed(count):
    total = 0
    for number, future in enumerate(inc.stream(range(count)), 1):
        total += future.result()
        if number % 10_000 == 0 or number == count:
            print("at", number, flush=True)
    return total

if __name__ == "__main__":
    count = int(sys.argv[2])
    state = streamed(count, return_state=True) if len(sys.argv) < 4 else streamed.resume(sys.argv[3], return_state=True)
    print("sum", state.result(), flush=True)
"""


class Life(NamedTuple):
    """Of one process: how it ended, its times and sizes while it streamed, and what it said last."""

    code: int
    samples: list[tuple[float, int]]
    reached: int
    total: int | None

    @property
    def growth(self) -> int:
        """Bytes more than at the first items."""
        return max(size for _, size in self.samples) - self.samples[0][1]


class Recorded(NamedTuple):
    """Of the flow run that began last: its task runs that are recorded as completed, and how many
    items these are of."""

    run_id: str
    completed: int
    items: int


def million(kind: str, count: int, plot: str | None) -> bool:
    """Stream so many items whole, then again with a kill at half, then resume that; whether sums and
    counts are right, and memory within its limit."""
    console = Console()
    with _runner(kind) as runner, console.status("") as status:

        def said(what: str) -> None:
            status.update(f"{kind}: {what}")

        script = Path(os.environ["ANABRANCH_HOME"], "streamed.py")
        script.write_text(SCRIPT)
        whole = _live([str(script), runner, str(count)], said, "streamed")
        killed = _live([str(script), runner, str(count)], said, "to be killed", count // 2)
        before = _latest_run()
        resumed = _live([str(script), runner, str(count), before.run_id], said, "resumed")
        after = _latest_run()
        stored = sum(file.stat().st_size for file in script.parent.glob("anabranch.db*"))
    expected = count * (count + 1) // 2
    seconds = whole.samples[-1][0] - whole.samples[0][0]
    right = whole.total == expected and resumed.total == expected and killed.code == -signal.SIGKILL
    console.print(
        f"{kind}: {count:,} items in {seconds:.1f} s from the first ten thousand to the last, "
        f"{seconds / count * 1e6:.1f} µs each; memory grew by {whole.growth / MIB:.0f} MiB "
        f"to {max(size for _, size in whole.samples) / MIB:.0f}; at most {MOST_GROWTH // MIB} wanted"
    )
    console.print(
        f"killed at {killed.reached:,}: {before.completed:,} recorded as completed; resumed in "
        f"{resumed.samples[-1][0] - resumed.samples[0][0]:.1f} s: {after.items:,} items recorded, "
        f"{after.completed - after.items:,} of them twice; sums {'right' if right else 'WRONG'}"
    )
    console.print(
        f"the store has {stored / MIB:,.0f} MiB, {stored / (2 * count):.0f} bytes a task run"
    )
    if plot:
        _draw(plot, kind, {"whole": whole, "killed at half": killed, "resumed": resumed})
        console.print(f"memory over time: {plot}")
    return right and after[1:] == (count, count) and whole.growth <= MOST_GROWTH


@contextmanager
def _runner(kind: str) -> Generator[str]:
    with nullcontext() if kind == "threads" else cluster(kind, 2) as made:
        yield kind if made is None else made.runner


def _live(
    arguments: list[str], said: Callable[[str], None], what: str, kill_at: int | None = None
) -> Life:
    """Run the script, look at its memory from the first items on, and kill it once it is so far."""
    with Path(os.environ["ANABRANCH_HOME"], "said").open("w+") as errors:
        command = [sys.executable, *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert process.stdout is not None  # a pipe
        samples, reached, total = _watched(process, said, what, kill_at)
        if not samples:
            errors.seek(0)
            raise RuntimeError(f"{what}: {errors.read()[-2_000:]}")
    return Life(process.wait(), samples, reached, total)


def _watched(
    process: subprocess.Popen[str], said: Callable[[str], None], what: str, kill_at: int | None
) -> tuple[list[tuple[float, int]], int, int | None]:
    samples: list[tuple[float, int]] = []
    reached, total = 0, None
    assert process.stdout is not None  # a pipe
    with process.stdout:
        for line in process.stdout:
            word, number = line.split()
            if word == "sum":
                total = int(number)
                continue
            reached = int(number)
            samples.append((time.monotonic(), resident(str(process.pid))))
            said(f"{what}, at {reached:,}")
            if kill_at is not None and reached >= kill_at:
                process.kill()
                break
    return samples, reached, total


def _latest_run() -> Recorded:
    with closing(sqlite3.connect(Path(os.environ["ANABRANCH_HOME"], "anabranch.db"))) as store:
        row, run_id = store.execute(
            "SELECT id, run_id FROM flow_run ORDER BY created DESC LIMIT 1"
        ).fetchone()
        counted = (
            "SELECT count(*), count(DISTINCT number) FROM task_run WHERE flow_run = ? AND phase = ?"
        )
        return Recorded(run_id, *store.execute(counted, (row, COMPLETED)).fetchone())


def _draw(path: str, kind: str, lives: dict[str, Life]) -> None:
    """Memory over time of each."""
    lines = {
        name: (
            [at - life.samples[0][0] for at, _ in life.samples],
            [size / MIB for _, size in life.samples],
        )
        for name, life in lives.items()
    }
    title = f"{max(life.reached for life in lives.values()):,} items streamed on {kind}"
    draw_lines(path, title, ("seconds", "resident memory of the flow's process, MiB"), lines)
