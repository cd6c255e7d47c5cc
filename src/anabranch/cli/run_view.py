"""How `anabranch runs show` draws a run: its head, its tasks over the time, and what to look at."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, Final

from anabranch.cli.output import (
    STYLES,
    clock_time,
    count_of,
    length,
    one_line,
    shown,
    styled,
)
from anabranch.cli.run_report import SLICES, UNFINISHED, RunReport, TaskGroup, parameters_of
from anabranch.outcomes import PHASE_STATES
from anabranch.store.queries import FlowRunRow
from anabranch.store.task_queries import TaskRunRow
from anabranch.store.waiting_queries import Waiting

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree

BLOCKS: Final = " ▁▂▃▄▅▆▇█"
"""By how many run at once, of the most that did."""
LONGEST_NAME: Final = 28
NARROWEST_BAR: Final = 12
GROUPS_SHOWN: Final = 40
LINES_OF_MESSAGE: Final = 3
_STATE_STYLES: Final = {name: STYLES[kind] for kind, name in PHASE_STATES} | {
    UNFINISHED: STYLES[UNFINISHED]
}
_ORDER: Final = ("Running", "Cancelling", "AwaitingRetry", "Pending", "Completed")


def draw(about: RunReport, width: int) -> Generator[Any]:
    """The parts of the drawing, for a terminal so many columns wide."""
    limit = about.limit
    yield from _head(about)
    if about.groups:
        yield ""
        yield from _timeline(about, width)
    if about.subflows:
        yield ""
        yield _tree(about, limit)
    if about.waiting:
        yield ""
        yield styled("Waiting", "bold")
        yield from _cut(about.waiting, limit, _waiting_line)
    if about.failures:
        yield ""
        yield styled("Failures", "bold")
        for failure in about.failures[:limit]:
            yield from _failure_lines(failure, width)
        if len(about.failures) > limit:
            yield styled("  and more; --limit shows them", "dim")
    if about.artifacts:
        yield ""
        yield styled("Artifacts", "bold")
        yield from _cut(about.artifacts, limit, _artifact_line)


def _cut(lines: Sequence[Any], limit: int, line: Any) -> Generator[Any]:
    for each in lines[:limit]:
        yield line(each)
    if len(lines) > limit:
        yield styled("  and more; --limit shows them", "dim")


# -- head -----------------------------------------------------------------------------------------


def _head(about: RunReport) -> Generator[Any]:
    from rich.table import Table  # as in `output.console`
    from rich.text import Text

    run = about.run
    yield Text.assemble(
        (one_line(run.name), "bold"),
        "  ",
        (one_line(run.state_name), STYLES.get(run.state, "")),
        overflow="ellipsis",
        no_wrap=True,
    )
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in _facts(about):
        table.add_row(label, styled(value))
    yield table


def _facts(about: RunReport) -> Generator[tuple[str, str]]:
    run = about.run
    yield "id", run.id
    place = f" in {one_line(run.entrypoint)}" if run.entrypoint else ""
    yield "flow", one_line(run.flow) + place
    if run.message:
        yield "message", "\n".join(shown(run.message).splitlines()[:LINES_OF_MESSAGE])
    if run.started is not None:
        since = clock_time(run.started, about.now)
        if run.ended is None:
            yield "started", f"{since}, {length(about.now - run.started)} ago"
        else:
            took = length(run.ended - run.started)
            yield "ran", f"{since} to {clock_time(run.ended, about.now)}, {took}"
    if run.attempt > 1:
        yield "attempt", str(run.attempt)
    if run.runner:
        yield "runner", one_line(run.runner)
    parameters = parameters_of(run)
    if parameters:
        yield (
            "parameters",
            ", ".join(f"{name}={one_line(text)}" for name, text in parameters.items()),
        )
    if run.tags:
        yield "tags", ", ".join(one_line(tag) for tag in run.tags)
    if run.preview:
        yield "result", one_line(run.preview)
    if run.not_resumable:
        yield "resume", f"not possible: {one_line(run.not_resumable)}"


# -- tasks over the time --------------------------------------------------------------------------


def _timeline(about: RunReport, width: int) -> Generator[Any]:
    from rich.text import Text  # as in `output.console`

    groups = about.groups[:GROUPS_SHOWN]
    names = [one_line(group.task) for group in groups]
    told = [_counts(group) for group in groups]
    name_width = min(max(map(len, names)), LONGEST_NAME, max(width // 4, 8))
    counts_width = min(max(text.cell_len for text in told), width // 2)
    bar_width = max(width - name_width - counts_width - 4, NARROWEST_BAR)
    bar_width = min(bar_width, SLICES)
    last = length(about.end - about.start)
    yield Text.assemble(
        ("Tasks".ljust(name_width), "bold"),
        ("  0 s" + last.rjust(bar_width - 3), "dim"),
        no_wrap=True,
    )
    for name, counts, group in zip(names, told, groups, strict=True):
        label = styled(name)
        label.truncate(name_width, overflow="ellipsis", pad=True)
        bar = Text(density(group, about.slice_seconds, bar_width), _style(group))
        line = Text.assemble(label, "  ", bar, "  ", counts, no_wrap=True, overflow="ellipsis")
        line.truncate(width, overflow="ellipsis")
        yield line
    if len(about.groups) > len(groups):
        yield styled(f"and {count_of(len(about.groups) - len(groups), 'task')} more", "dim")


def density(group: TaskGroup, slice_seconds: float, width: int) -> str:
    """A block for each column: how many of the task's runs ran then, of the most that did."""
    busy = [0.0] * SLICES
    for stretch in group.stretches:
        begin = min(stretch.begin, SLICES - 1)
        until = SLICES - 1 if stretch.until is None else min(max(stretch.until, begin), SLICES - 1)
        whole = stretch.runs * slice_seconds * (until - begin + 1)
        seconds = whole if stretch.seconds is None else min(stretch.seconds, whole)
        for place in range(begin, until + 1):
            busy[place] += seconds / (until - begin + 1)
    edges = [column * SLICES // width for column in range(width + 1)]
    columns = [sum(busy[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    most = max(columns)
    steps = len(BLOCKS) - 1
    return "".join(
        BLOCKS[math.ceil(each / most * steps - 0.05)] if each else " " for each in columns
    )


def _style(group: TaskGroup) -> str:
    return "red" if group.has_failed else "cyan" if group.is_running else "green"


def _counts(group: TaskGroup) -> Text:
    """How many runs are in which state: those that ask for a look first."""
    from rich.text import Text  # as in `output.console`

    def place(state: str) -> int:
        return _ORDER.index(state) if state in _ORDER else -1

    parts: list[tuple[str, str]] = []
    for state in sorted(group.counts, key=place):
        told = f"{group.counts[state]:,} {state.lower()}"
        parts += [(", ", "dim"), (told, _STATE_STYLES.get(state, ""))]
    return Text.assemble(*parts[1:], no_wrap=True)


# -- lists ----------------------------------------------------------------------------------------


def _tree(about: RunReport, limit: int) -> Tree:
    from rich.tree import Tree  # as in `output.console`

    below: dict[int | None, list[FlowRunRow]] = {}
    for run in about.subflows:
        below.setdefault(run.parent, []).append(run)
    tree = Tree(styled("Subflows", "bold"), guide_style="dim")
    branches: list[tuple[Tree, int]] = [(tree, about.run.row)]
    while branches:
        branch, row = branches.pop()
        its = below.get(row, [])
        for run in its[:limit]:
            branches.append((branch.add(_subflow_line(run, about.now)), run.row))
        if len(its) > limit:
            branch.add(styled(f"and {count_of(len(its) - limit, 'subflow')} more", "dim"))
    return tree


def _subflow_line(run: FlowRunRow, now: float) -> Text:
    from rich.text import Text  # as in `output.console`

    took = "" if run.started is None else length((run.ended or now) - run.started)
    return Text.assemble(
        one_line(run.name),
        (f"  {one_line(run.flow)}", "dim"),
        (f"  {one_line(run.state_name)}", STYLES.get(run.state, "")),
        (f"  {took}", "dim"),
        no_wrap=True,
        overflow="ellipsis",
    )


def _waiting_line(wait: Waiting) -> Text:
    from rich.text import Text  # as in `output.console`

    why = _why(wait)
    name = (f"  {one_line(wait.name)}", "")
    return Text.assemble(name, (f"  {why}", "dim"), no_wrap=True, overflow="ellipsis")


def _why(wait: Waiting) -> str:
    since = f" since {clock_time(wait.since)}" if wait.since is not None else ""
    if wait.reason == "upstream":
        told = [f"{one_line(each.name)} ({each.state_name})" for each in wait.upstream[:3]]
        more = len(wait.upstream) - len(told)
        return "waits for " + ", ".join(told) + (f" and {more:,} more" if more else "")
    if wait.reason == "queued":
        return f"queued with the runner{since}"
    if wait.reason == "AwaitingRetry":
        reason = f": {one_line(wait.message)}" if wait.message else ""
        return f"AwaitingRetry{since}, after attempt {wait.attempt}{reason}"
    return f"{wait.reason}{since}"


def _failure_lines(run: TaskRunRow, width: int) -> Generator[Text]:
    """The message on the same line where it has the room, else below."""
    from rich.text import Text  # as in `output.console`

    attempts = f", attempt {run.attempt}" if run.attempt > 1 else ""
    head = Text.assemble(
        f"  {one_line(run.name)}",
        (f"  {one_line(run.state_name)}{attempts}", STYLES.get(run.state, "")),
    )
    lines = shown(run.message or "").splitlines()
    if len(lines) == 1 and head.cell_len + len(lines[0]) + 2 <= width:
        yield head.append(f"  {lines[0]}", "dim")
        return
    yield head
    indent = " " * 4
    wrapped = [
        part
        for line in lines[:LINES_OF_MESSAGE]
        for part in textwrap.wrap(line, width, initial_indent=indent, subsequent_indent=indent)
    ]
    for part in wrapped[:LINES_OF_MESSAGE]:
        yield Text(part, "dim")


def _artifact_line(artifact: Any) -> Text:
    from rich.text import Text  # as in `output.console`

    name = one_line(artifact.key) or artifact.id[:8]
    return Text.assemble(
        f"  {name}",
        (f"  {one_line(artifact.type)}  {one_line(artifact.description)}", "dim"),
        no_wrap=True,
        overflow="ellipsis",
    )
