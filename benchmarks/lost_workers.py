"""SIGKILL for one worker of a cluster in the middle of a map: what ran again, and is it right."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.clusters import cluster

FLOW = Path(__file__).with_name("cluster_flow.py")
Calls = list[tuple[str, int, int]]
"""What was noted, the item's number, the process."""


def lost_workers(kind: str, count: int, rounds: int) -> bool:
    """Print a row for each kill of a worker's process on a cluster of two; whether each answer was
    right."""
    table = Table(title=f"SIGKILL for one of two workers during {count:,} items with dependents")
    columns = (
        *("cluster", "after", "held there", "in flight", "make again", "use again"),
        *("nowhere", "right", "seconds"),
    )
    for column in columns:
        table.add_column(column, justify="right")
    console, fine = Console(width=120), True
    with console.status("killing") as status:
        for number in range(rounds):
            status.update(f"killing a worker of {kind}, {number + 1} of {rounds}")
            row = _kill_a_worker(kind, count, (number + 1) / (rounds + 1))
            fine &= row[-2] == "True"
            table.add_row(*row)
    console.print(table)
    return fine


def _kill_a_worker(kind: str, count: int, part: float) -> list[str]:
    with (
        tempfile.TemporaryDirectory(prefix="anabranch-lost-") as folder,
        cluster(kind, 2) as made,
    ):
        place = Path(folder)
        environment = {**os.environ, "ANABRANCH_LOGGING_LEVEL": "WARNING"}
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, str(FLOW), made.runner, str(count), folder], env=environment
        )
        while len(_calls(place)) < part * 4 * count and process.poll() is None:
            time.sleep(0.05)
        victim = _calls(place)[-1][2]  # it is at work
        os.kill(victim, signal.SIGKILL)
        process.wait()
        seconds = time.monotonic() - began
        calls = _calls(place)
        answer = place / "answer"
        right = answer.exists() and answer.read_text() == str(count * (count - 1) // 2)
        its = {(what, number) for what, number, pid in calls if pid == victim}
        ended = {("make", n) for what, n in its if what == "made"}
        ended |= {("use", n) for what, n in its if what == "used"}
        began_there = {each for each in its if each[0] in ("make", "use")}
        flying, held = began_there - ended, {each for each in ended if each[0] == "make"}
        runs = Counter((what, number) for what, number, _ in calls if what in ("make", "use"))
        again = {each: times - 1 for each, times in runs.items() if times > 1}
        nowhere = [each for each in again if each not in flying | held]
        return [
            kind,
            f"{part:.0%}",
            str(len(held)),
            str(len(flying)),
            str(sum(n for (what, _), n in again.items() if what == "make")),
            str(sum(n for (what, _), n in again.items() if what == "use")),
            str(len(nowhere)),
            str(right),
            f"{seconds:.1f}",
        ]


def _calls(place: Path) -> Calls:
    try:
        lines = (place / "calls").read_text().splitlines()
    except FileNotFoundError:
        return []
    parts = [line.split() for line in lines]
    return [(what, int(number), int(pid)) for what, number, pid in parts]
