"""What commands print: text for people on a terminal or in a pipe, JSON for scripts.

Whatever comes out of the store is text: never markup, and never a terminal's control sequence.
"""

from __future__ import annotations

import datetime as dt
import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from anabranch.errors import AnabranchError
from anabranch.store.queries import FlowRunRow

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

COMPLETED, FAILED, USAGE, CANCELLED, CRASHED = range(5)
EXIT_CODES: Final[Mapping[str, int]] = {
    "COMPLETED": COMPLETED,
    "FAILED": FAILED,
    "CANCELLED": CANCELLED,
    "CRASHED": CRASHED,
}
"""What a command that runs a flow exits with, by the type of the flow's state."""

PIPE_WIDTH: Final = 10_000
"""Columns where no terminal sets a limit: nothing is cut."""
LONGEST_NAME: Final = 24
LONGEST_FLOW: Final = 20
NARROWEST_MESSAGE: Final = 12
STYLES: Final = {
    "COMPLETED": "green",
    "FAILED": "red",
    "CRASHED": "red",
    "CANCELLED": "yellow",
    "CANCELLING": "yellow",
    "RUNNING": "cyan",
    "PENDING": "dim",
    "SCHEDULED": "yellow",
    "PAUSED": "yellow",
    "unfinished": "dim",
}


def console(stderr: bool = False) -> Console:
    """Prints on standard output or error; takes nothing for markup."""
    from rich.console import Console  # 40 ms that JSON need not spend

    stream = sys.stderr if stderr else sys.stdout
    return Console(
        file=stream,
        markup=False,
        emoji=False,
        highlight=False,
        width=None if stream.isatty() else PIPE_WIDTH,
    )


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def print_json_line(value: Any) -> None:
    print(json.dumps(value), flush=True)


def print_error(error: BaseException | str) -> None:
    """One red paragraph on standard error."""
    out = console(stderr=True)
    out.print(shown(str(error)), style="red", soft_wrap=not out.is_terminal)


def note(text: str) -> None:
    """A line for people, on standard error, so that it stays out of pipes."""
    out = console(stderr=True)
    out.print(shown(text), style="dim", soft_wrap=not out.is_terminal)


def exit_code(error: AnabranchError) -> int:
    """That of a wrong use where the error says so, else that of a failure."""
    return USAGE if isinstance(error, LookupError | ValueError | TypeError) else FAILED


# -- text -----------------------------------------------------------------------------------------

_CONTROLS = [*range(9), *range(11, 32), *range(127, 160)]
_TURNS = [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_UNSEEN = {
    code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" for code in _CONTROLS + _TURNS
}
"""Control characters, and those that turn the direction of writing."""


def shown(text: str) -> str:
    """The text with what would steer a terminal made visible."""
    return text.translate(_UNSEEN)


def one_line(text: str | None) -> str:
    """The text's lines as one."""
    return " ".join(shown(text or "").split())


def styled(text: str, style: str = "") -> Text:
    """Text of whatever content, for a table."""
    from rich.text import Text  # as in `console`

    return Text(shown(text), style, overflow="ellipsis")


def plain_table(*columns: str) -> Table:
    """A table without lines, whose first columns stay whole where the terminal is narrow."""
    from rich.table import Table  # as in `console`

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True, overflow="ellipsis")
    return table


def count_of(number: int, noun: str) -> str:
    """Such as `"1 run"` or `"2,000 runs"`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


# -- times ----------------------------------------------------------------------------------------


def iso(at: float | None) -> str | None:
    """ISO 8601 in UTC of seconds since the epoch."""
    if at is None:
        return None
    return dt.datetime.fromtimestamp(at, dt.UTC).isoformat(timespec="milliseconds")


def clock_time(at: float | None, now: float | None = None) -> str:
    """The local time, as short as it can be told: of today, of this year, or of any."""
    if at is None:
        return ""
    then = dt.datetime.fromtimestamp(at)
    today = dt.datetime.fromtimestamp(time.time() if now is None else now)
    if then.date() == today.date():
        return f"{then:%H:%M:%S}"
    return f"{then:%b %d %H:%M}" if then.year == today.year else f"{then:%Y-%m-%d}"


def length(seconds: float | None) -> str:
    """Such as `"0.25 s"`, `"42 s"`, `"3:05"`, `"1:02:03"` or `"3 d 02:00"`."""
    if seconds is None:
        return ""
    if seconds < 9.95:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    minutes, last = divmod(rest, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24:02}:{minutes:02}"
    return f"{hours}:{minutes:02}:{last:02}" if hours else f"{minutes}:{last:02}"


# -- runs -----------------------------------------------------------------------------------------


def run_json(run: FlowRunRow) -> dict[str, Any]:
    """A flow run's row for scripts."""
    return {
        "id": run.id,
        "name": run.name,
        "flow": run.flow,
        "state": run.state,
        "state_name": run.state_name,
        "start": iso(run.started),
        "end": iso(run.ended),
        "message": run.message,
        "attempt": run.attempt,
        "runner": run.runner,
        "tags": list(run.tags),
    }


def runs_table(runs: Sequence[FlowRunRow], now: float, width: int) -> Table:
    """The message gets what the other columns leave of the width."""
    lines = [_run_line(run, now) for run in runs]
    titles = ("ID", "NAME", "FLOW", "STATE", "STARTED", "TOOK")
    if width < PIPE_WIDTH:
        for line in lines:
            line[1].truncate(LONGEST_NAME, overflow="ellipsis")
            line[2].truncate(LONGEST_FLOW, overflow="ellipsis")
    taken = sum(
        max(len(title), *(line[place].cell_len for line in lines)) + 2
        for place, title in enumerate(titles)
    )
    left = width - taken
    table = plain_table(*titles, *(["MESSAGE"] if left >= NARROWEST_MESSAGE else []))
    for run, line in zip(runs, lines, strict=True):
        message = styled(one_line(run.message), "dim")
        message.truncate(max(left, 0), overflow="ellipsis")
        table.add_row(*line, *([message] if left >= NARROWEST_MESSAGE else []))
    return table


def _run_line(run: FlowRunRow, now: float) -> list[Text]:
    took = None if run.started is None else (run.ended or now) - run.started
    return [
        styled(run.short_id),
        styled(one_line(run.name)),
        styled(one_line(run.flow)),
        styled(one_line(run.state_name), STYLES.get(run.state, "")),
        styled(clock_time(run.started or run.created, now)),
        styled(length(took)),
    ]
