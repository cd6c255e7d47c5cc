"""File systems that tests mount, where they may."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

IS_ROOT = os.geteuid() == 0


def mount(*arguments: str | Path) -> None:
    if not IS_ROOT:
        pytest.skip("only root can mount a file system")
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")


@contextmanager
def mounted(place: Path, *arguments: str | Path) -> Iterator[Path]:
    mount(*arguments, place)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)
