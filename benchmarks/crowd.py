"""Many processes that record their runs in one store at once: what each did, and what the store has."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from anabranch import flow, task
from anabranch.outcomes import COMPLETED
from anabranch.settings import load_settings
from anabranch.store.opening import open_store

TASKS = 100
"""In each run."""


@task
def double(x: int) -> int:
    return x * 2


@flow
def main() -> int:
    return sum(double.map(range(TASKS)).result())


class Crowd(NamedTuple):
    """What the processes say that they did, and what the store has of it."""

    runs: int
    tasks: int
    runs_stored: int
    tasks_stored: int
    complaints: list[str]

    @property
    def fine(self) -> bool:
        stored = (self.runs_stored, self.tasks_stored)
        return not self.complaints and (self.runs, self.tasks) == stored


def crowd(processes: int, seconds: float) -> bool:
    """Print what came of it; whether no run was lost and nobody complained."""
    console = Console(width=110)
    with console.status(f"{processes} processes run flows for {seconds:g} s"):
        told = run_crowd(processes, seconds)
    console.print(
        f"{processes} processes, {seconds:g} s, one store: {told.runs:,} runs with {told.tasks:,} "
        f"tasks; stored: {told.runs_stored:,} runs, {told.tasks_stored:,} tasks; "
        f"{len(told.complaints)} warnings or errors"
    )
    for line in told.complaints[:10]:
        console.print(line, markup=False)
    return told.fine


def run_crowd(processes: int, seconds: float) -> Crowd:
    """In the store of the settings, which should be empty."""
    command = [sys.executable, "-m", "benchmarks.crowd", str(seconds)]
    root = str(Path(__file__).parents[1])
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    children = [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": paths, "ANABRANCH_LOGGING_LEVEL": "WARNING"},
        )
        for _ in range(processes)
    ]
    runs, complaints = 0, list[str]()
    for child in children:
        out, err = child.communicate()
        runs += int(out.split()[-1]) if child.returncode == 0 else 0
        complaints += err.splitlines()
    settings = load_settings()
    database = open_store(settings.database_url, settings.home)
    try:
        stored = database.read("SELECT COUNT(*) FROM flow_run WHERE state_type = 'COMPLETED'")
        done = database.read("SELECT COUNT(*) FROM task_run WHERE phase = ?", (COMPLETED,))
    finally:
        database.close()
    return Crowd(runs, runs * TASKS, stored[0][0], done[0][0], complaints)


def _run_flows(seconds: float) -> None:
    until = time.monotonic() + seconds
    count = 0
    while time.monotonic() < until:
        if main() != TASKS * (TASKS - 1):
            raise AssertionError("a wrong answer")
        count += 1
    print(count)


if __name__ == "__main__":
    _run_flows(float(sys.argv[1]))
