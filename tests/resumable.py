"""Flows to stop and go on with, whose calls are counted in a folder, and a look into their store."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anabranch.settings import load_settings
from anabranch.store.database import Row
from anabranch.store.opening import open_store

RUNNERS = ("inline", "threads?max_workers=4", "asyncio", "processes?max_workers=2")
PYTHON = (sys.executable, "-m", "anabranch")


def note(folder: str | Path, what: object) -> None:
    """One line, whole, whichever process writes it."""
    file = os.open(Path(folder) / "calls", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{what}\n".encode())
    os.close(file)


def noted(folder: str | Path) -> Counter[str]:
    """How often each was noted."""
    file = Path(folder) / "calls"
    return Counter(file.read_text().splitlines()) if file.exists() else Counter()


def forget(folder: str | Path) -> None:
    (Path(folder) / "calls").unlink(missing_ok=True)


def mark(folder: str | Path, name: str) -> None:
    (Path(folder) / name).touch()


def is_marked(folder: str | Path, name: str) -> bool:
    return (Path(folder) / name).exists()


def rows(sql: str, *values: object) -> list[Row]:
    """What the settings' store answers."""
    settings = load_settings()
    database = open_store(settings.database_url, settings.home)
    try:
        return database.read(sql, values)
    finally:
        database.close()


def change(sql: str, *values: object) -> int:
    settings = load_settings()
    database = open_store(settings.database_url, settings.home)
    try:
        with database.transaction() as transaction:
            return transaction.changed(sql, values)
    finally:
        database.close()


def only(sql: str, *values: object) -> Any:
    """The one value of the one row."""
    ((value,),) = rows(sql, *values)
    return value


def newest_run(name: str | None = None) -> str:
    """The id of the root run that began last."""
    where = "" if name is None else " AND flow_name = ?"
    given = () if name is None else (name,)
    found = rows(
        f"SELECT run_id FROM flow_run WHERE parent IS NULL{where} ORDER BY id DESC LIMIT 1", *given
    )
    return found[0][0]


def log_of(run_id: str) -> str:
    """All lines below a root run."""
    lines = rows(
        "SELECT message FROM log WHERE root = (SELECT id FROM flow_run WHERE run_id = ?) "
        "ORDER BY id",
        run_id,
    )
    return "\n".join(line for (line,) in lines)


def anabranch(
    *arguments: str, check: bool = True, **variables: str
) -> subprocess.CompletedProcess[str]:
    """The command line, in a process of its own."""
    done = subprocess.run(
        [*PYTHON, *arguments],
        env=environment(variables),
        capture_output=True,
        text=True,
        check=False,
    )
    if check:
        assert done.returncode == 0, done.stderr
    return done


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    return {**os.environ, **variables}
