"""The README's table of what runners can do is what they say of themselves; `python tests/test_readme.py`
writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anabranch import flow
from anabranch.context import current_context
from anabranch.task_runners import DaskTaskRunner, RayTaskRunner
from anabranch.task_runners.base import Capabilities

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- what runners can do -->", "<!-- end -->"


def capabilities() -> dict[str, Capabilities]:
    """Those of each runner, by its name."""

    def body() -> Any:
        return current_context().open_flow.runner.capabilities

    local = ("inline", "threads", "asyncio", "processes")
    told = [flow(task_runner=name, name=name)(body)() for name in local]
    told += [DaskTaskRunner().capabilities(), RayTaskRunner().capabilities()]
    return {each.name: each for each in told}


def table() -> str:
    """As it stands in the README."""
    runners = capabilities()
    rows = {
        "ends a sync task that is cancelled or passes its timeout": "stops_sync",
        "ends an async task likewise": "stops_async",
        "two tasks' Python code at the same time": "parallel",
        "tasks run in other processes": "remote",
        "`priority`": "priority",
    }
    lines = ["| | " + " | ".join(runners) + " |", "| --- " * (len(runners) + 1) + "|"]
    for what, name in rows.items():
        cells = ["yes" if getattr(each, name) else "no" for each in runners.values()]
        lines.append(f"| {what} | " + " | ".join(cells) + " |")
    cells = ["the engine's" if each.resources is None else "own" for each in runners.values()]
    lines.append("| `resources` are counted by | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def test_the_table_is_what_runners_say() -> None:
    text = README.read_text()
    assert text.partition(BEGIN)[2].partition(END)[0].strip() == table()


if __name__ == "__main__":
    before, _, rest = README.read_text().partition(BEGIN)
    README.write_text(f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}")
