"""`kill -9` in the middle of a map, then a resume: what ran again, what was lost."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

FLOW = Path(__file__).with_name("killed_flow.py")
COMPLETED = 9


class Killed(NamedTuple):
    """One kill. Times in seconds; `again` counts items that ran more than once."""

    runner: str
    after: float
    recorded: int
    begun: int
    again: int
    recorded_again: int
    missing: int
    right: bool
    resume: float


def kills(times: int, runners: tuple[str, ...], count: int, seed: int) -> bool:
    """Print a table of so many kills on each runner; whether nothing was lost or repeated."""
    moments = random.Random(seed)
    table = Table(title=f"kill -9 during a map of {count:,}, then `anabranch runs resume`")
    for column in Killed._fields:
        table.add_column(column.replace("_", " "), justify="right")
    console = Console(width=120)
    fine = True
    with console.status("killing") as status:
        for runner in runners:
            full = _seconds_of_a_run(runner, count)
            for number in range(times):
                status.update(f"killing on {runner}, {number + 1} of {times}")
                killed = kill_once(runner, count, moments.uniform(0.05, 0.95) * full)
                fine &= killed.right and not (killed.recorded_again or killed.missing)
                after = f"{killed.after:.2f}"
                row = killed._replace(after=0.0, resume=0.0)
                cells = [str(each) for each in row]
                cells[1], cells[-1] = after, f"{killed.resume:.2f}"
                table.add_row(*cells)
    console.print(table)
    console.print("nothing lost, nothing recorded ran again" if fine else "[red]NOT RIGHT[/]")
    return fine


def _seconds_of_a_run(runner: str, count: int) -> float:
    """From the first call to the last, of a run that nobody kills."""
    with tempfile.TemporaryDirectory(prefix="anabranch-kills-") as folder:
        process = _started(folder, runner, count)
        _wait_for_calls(process, Path(folder))
        began = time.monotonic()
        process.wait()
        return time.monotonic() - began


def kill_once(runner: str, count: int, after: float) -> Killed:
    """Kill a run so many seconds after its first call, resume it, and count."""
    with tempfile.TemporaryDirectory(prefix="anabranch-kills-") as folder:
        place = Path(folder)
        process = _started(folder, runner, count)
        _wait_for_calls(process, place)
        time.sleep(after)
        process.send_signal(signal.SIGKILL)
        process.wait()
        _wait_for_children(place)
        begun = len(Counter(_calls(place)))
        run_id, recorded = _recorded(place)
        began = time.monotonic()
        resumed = _anabranch(folder, "runs", "resume", run_id, "--runner", runner)
        seconds = time.monotonic() - began
        calls = Counter(_calls(place))
        answer = place / "answer"
        right = resumed.returncode == 0 and answer.read_text() == str(count * (count - 1))
        if not right:
            print(resumed.stderr, file=sys.stderr)
        return Killed(
            runner,
            after,
            len(recorded),
            begun,
            sum(times > 1 for times in calls.values()),
            sum(calls[item] > 1 for item in recorded),
            sum(item not in calls for item in range(count)),
            right,
            seconds,
        )


def _started(folder: str, runner: str, count: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "anabranch", "run", str(FLOW), "--runner", runner]
    return subprocess.Popen(
        [*command, "--param", f"count={count}"],
        env=_environment(folder),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _anabranch(folder: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "anabranch", *arguments],
        env=_environment(folder),
        capture_output=True,
        text=True,
        check=False,
    )


def _environment(folder: str) -> dict[str, str]:
    return {**os.environ, "ANABRANCH_HOME": folder, "KILLED_FLOW_FOLDER": folder}


def _wait_for_calls(process: subprocess.Popen[bytes], place: Path) -> None:
    while not (place / "calls").exists():
        if process.poll() is not None:
            raise RuntimeError("The run ended before its first call.")
        time.sleep(0.002)


def _wait_for_children(place: Path) -> None:
    """Pool processes leave when their parent dies: until none of them notes anything more."""
    calls = place / "calls"
    size = -1
    while size != calls.stat().st_size:
        size = calls.stat().st_size
        time.sleep(0.3)


def _calls(place: Path) -> list[int]:
    return [int(line) for line in (place / "calls").read_text().split()]


def _recorded(place: Path) -> tuple[str, list[int]]:
    """The run's id, and the items whose completion is recorded."""
    database = sqlite3.connect(place / "anabranch.db")
    try:
        run_id: str = database.execute("SELECT run_id FROM flow_run").fetchone()[0]
        rows = database.execute("SELECT number FROM task_run WHERE phase = ?", (COMPLETED,))
        return run_id, [number for (number,) in rows]
    finally:
        database.close()
