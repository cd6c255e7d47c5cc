"""The live display on a terminal: for each task what runs, is done, has failed or waits.

It looks at counts a few times a second, so that its cost does not grow with the number of tasks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from anabranch.logging import terminal_console

if TYPE_CHECKING:
    from rich.table import Table

LOOKS_A_SECOND = 5
SHOWN_AFTER = 0.5
"""Seconds that a flow runs before the display comes up: short ones need none."""
TASKS_SHOWN = 12


class TaskProgress(NamedTuple):
    """Counts of one task's runs right now."""

    name: str
    total: int
    running: int
    done: int
    failed: int

    @property
    def waiting(self) -> int:
        return self.total - self.running - self.done - self.failed


Look = Callable[[], Sequence[TaskProgress]]


class Rates:
    """How many runs of each task settle a second, over its last few seconds."""

    def __init__(self, seconds: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._seen: dict[str, list[tuple[float, int]]] = {}

    def rate(self, progress: TaskProgress) -> float:
        """Runs a second; 0 until there are two looks to compare."""
        now = self._clock()
        seen = self._seen.setdefault(progress.name, [])
        seen.append((now, progress.done + progress.failed))
        while len(seen) > 2 and now - seen[0][0] > self._seconds:
            del seen[0]
        (since, before), (until, after) = seen[0], seen[-1]
        return (after - before) / (until - since) if until > since else 0.0


def render(tasks: Sequence[TaskProgress], rates: Rates) -> Table:
    """The display for these counts: a line a task, as wide as the terminal allows."""
    from rich.markup import escape  # rich loads where there is a terminal
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    table = Table.grid(padding=(0, 2), expand=False)
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=20, min_width=8)
    table.add_column(min_width=6, max_width=24)
    for _ in range(3):
        table.add_column(no_wrap=True, overflow="ellipsis")
    for task in tasks[-TASKS_SHOWN:]:
        rate = rates.rate(task)
        left = task.running + task.waiting
        parts = [
            f"[cyan]{task.running:,} running[/]" if task.running else "",
            f"[red]{task.failed:,} failed[/]" if task.failed else "",
            f"[dim]{task.waiting:,} waiting[/]" if task.waiting else "",
        ]
        speed = f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s" if rate else ""
        table.add_row(
            escape(task.name),
            ProgressBar(total=max(task.total, 1), completed=task.total - left, width=None),
            f"{task.done:,}/{task.total:,}",
            " ".join(part for part in parts if part),
            f"{speed} {duration(left / rate)} left" if rate and left else speed,
        )
    if len(tasks) > TASKS_SHOWN:
        table.add_row(f"[dim]and {len(tasks) - TASKS_SHOWN} more[/]")
    return table


def duration(seconds: float) -> str:
    """Such as `"42 s"`, `"3:05"` or `"1:02:03"`."""
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    if not minutes:
        return f"{whole} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def progress_display(look: Look, wanted: bool) -> Generator[None]:
    """Show the display while the block runs, unless it is short."""
    if not wanted:
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(
        target=_show, args=(look, ended), name="anabranch-progress", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(2)


def _show(look: Look, ended: threading.Event) -> None:
    if ended.wait(SHOWN_AFTER):
        return
    from rich.live import Live  # as above

    rates = Rates()
    live: Any = Live(console=terminal_console(), transient=True, auto_refresh=False)
    with live:
        while not ended.wait(1 / LOOKS_A_SECOND):
            live.update(render(look(), rates), refresh=True)
