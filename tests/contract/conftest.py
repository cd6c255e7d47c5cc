"""The contract as a table: `--contract-table FILE` writes what came of each behaviour on each runner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

_cells: dict[tuple[str, str], str] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--contract-table", help="write behaviours and runners to this file")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    parts = report.nodeid.split("::")
    if len(parts) != 3 or not parts[1].startswith("Test"):
        return
    place = parts[2].removeprefix("test_").replace("_", " "), parts[1].removeprefix("Test")
    if report.failed:
        _cells[place] = "FAILED"
    elif report.skipped and isinstance(report.longrepr, tuple):
        _cells[place] = report.longrepr[2].removeprefix("Skipped: ")
    elif report.when == "call":
        _cells.setdefault(place, "yes")


def pytest_sessionfinish(session: pytest.Session) -> None:
    target: Any = session.config.getoption("--contract-table")
    if target and not hasattr(session.config, "workerinput"):
        Path(target).write_text(table(_cells))


def table(cells: dict[tuple[str, str], str]) -> str:
    """Rows are behaviours, columns runners; what is not there is empty."""
    runners = sorted({runner for _, runner in cells})
    lines = ["| behaviour | " + " | ".join(runners) + " |", "| --- " * (len(runners) + 1) + "|"]
    for behaviour in sorted({behaviour for behaviour, _ in cells}):
        row = [cells.get((behaviour, runner), "") for runner in runners]
        lines.append(f"| {behaviour} | " + " | ".join(row) + " |")
    return "\n".join([*lines, ""])
