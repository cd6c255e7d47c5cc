"""What a process pays before its first task: imports, and a whole hello-world flow."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time

from rich.console import Console
from rich.table import Table

BARE = "from pydantic import BaseModel; import anyio, tenacity"
HELLO = """
from anabranch import flow
@flow
def hello(): return "hello"
hello()
"""
ROWS = (("import anabranch", "import anabranch", 1.3), ("a hello-world flow", HELLO, 1.6))


def startup(rounds: int) -> None:
    """Print the table: whole processes with an empty home, each beside the bare imports."""
    table = Table(title=f"process start to exit, medians of {rounds * 2} alternations")
    for column in ("what", "ms", "bare imports, ms", "ratio", "target", ""):
        table.add_column(column, justify="left" if column in ("what", "") else "right")
    for name, code, target in ROWS:
        pairs = [(_milliseconds(BARE), _milliseconds(code)) for _ in range(rounds * 2)]
        bare = statistics.median(theirs for theirs, _ in pairs)
        ours = statistics.median(mine for _, mine in pairs)
        met = "met" if ours / bare <= target else "MISSED"
        table.add_row(name, f"{ours:.0f}", f"{bare:.0f}", f"{ours / bare:.2f}", f"{target}", met)
    Console().print(table)


def _milliseconds(code: str) -> float:
    with tempfile.TemporaryDirectory() as home:
        script = os.path.join(home, "script.py")
        with open(script, "w") as file:
            file.write(code)
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, script],
            check=True,
            env={"HOME": home, "PATH": os.environ["PATH"]},
            stderr=subprocess.DEVNULL,
        )
        return (time.perf_counter() - started) * 1e3
