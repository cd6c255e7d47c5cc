"""A map with dependents on a cluster; each call leaves a line about where it ran."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from anabranch import flow, task

LARGE = 25_000
"""Times that four bytes are repeated: more than rides back, so that the workers hold it."""


def note(folder: str, what: str, number: int) -> None:
    """One line, whole even where many write."""
    place = os.open(f"{folder}/calls", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(place, f"{what} {number} {os.getpid()}\n".encode())
    os.close(place)


@task
def make(number: int, folder: str) -> bytes:
    note(folder, "make", number)
    value = number.to_bytes(4, "big") * LARGE
    time.sleep(0.002)
    note(folder, "made", number)
    return value


@task
def use(value: bytes, folder: str) -> int:
    number = int.from_bytes(value[:4], "big")
    note(folder, "use", number)
    time.sleep(0.002)
    note(folder, "used", number)
    return number


@flow
def made_and_used(count: int, folder: str) -> int:
    made = make.map(range(count), folder=folder)
    return sum(use.map(made, folder=folder).result())


if __name__ == "__main__":
    runner, count, folder = sys.argv[1:]
    on_it = made_and_used.with_options(task_runner=runner)
    Path(folder, "answer").write_text(str(on_it(int(count), folder)))
