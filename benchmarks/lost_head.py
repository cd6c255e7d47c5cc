"""SIGKILL for the scheduler of Dask or the head of Ray in the middle of a map: what the user sees."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from benchmarks.clusters import cluster

FLOW = Path(__file__).with_name("cluster_flow.py")
NAMES = {"dask": [" scheduler "], "ray": ["gcs_server", "raylet"]}


def lost_head(kind: str, count: int) -> bool:
    """Print what the user sees, and after how many seconds; whether the flow was over in 60."""
    console = Console(width=110)
    with (
        tempfile.TemporaryDirectory(prefix="anabranch-lost-") as folder,
        console.status(f"starting {kind}") as status,
        cluster(kind, 2) as made,
    ):
        process = subprocess.Popen(
            [sys.executable, str(FLOW), made.runner, str(count), folder],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        calls = Path(folder, "calls")
        while not calls.exists() or len(calls.read_text().splitlines()) < count:
            time.sleep(0.05)
        status.update(f"the head of {kind} is gone")
        for name in NAMES[kind]:
            for victim in made.processes(name):
                os.kill(victim, signal.SIGKILL)
        began = time.monotonic()
        assert process.stdout is not None  # it is a pipe
        first: float | None = None
        told: list[str] = []
        for line in process.stdout:
            told.append(line.rstrip())
            if first is None and "gone" in line:
                first = time.monotonic() - began
        code = process.wait()
        seconds = time.monotonic() - began
    console.print(
        f"{kind}: told after {first or -1:.1f} s, over after {seconds:.1f} s, exit code {code}"
    )
    return first is not None and seconds < 60
