"""What a process pays before its first task: imports, and a whole hello-world flow."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from benchmarks.rows import Row, alternated, row

BARE = "from pydantic import BaseModel; import anyio, tenacity"
HELLO = """
from anabranch import flow
@flow
def hello(): return "hello"
hello()
"""
ROWS = (("import anabranch", "import anabranch", 1.3), ("a hello-world flow", HELLO, 1.6))


def startup(rounds: int) -> Iterator[Row]:
    """Whole processes with an empty home, each beside the bare imports."""
    for name, code, target in ROWS:
        pairs = alternated(
            lambda: _milliseconds(BARE), lambda code=code: _milliseconds(code), rounds * 2
        )
        yield row(name, "bare imports", pairs, target, "ms")


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
