"""A figure beside another and beside its target, and tables of such."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

WIDTH = 118


class Row(NamedTuple):
    """`ratio` is the median of `each`, which are those of single rounds, a pair each. `target` is the
    most that it may be, None where there is none."""

    what: str
    figure: str
    beside: str
    other: str
    ratio: float
    each: tuple[float, ...]
    target: float | None

    @property
    def is_met(self) -> bool:
        return self.target is None or self.ratio <= self.target


def row(
    what: str,
    beside: str,
    pairs: Sequence[tuple[float, float]],
    target: float | None,
    unit: str = "µs",
) -> Row:
    """Of what was measured in pairs, the other's figure first."""
    ratios = tuple(sorted(mine / theirs for theirs, mine in pairs))
    figure, other = (
        _shown(statistics.median(column), unit)
        for column in ([mine for _, mine in pairs], [theirs for theirs, _ in pairs])
    )
    return Row(what, figure, beside, other, statistics.median(ratios), ratios, target)


def show(title: str, rows: Iterable[Row]) -> None:
    """Print a table of them, once all are there."""
    console = Console(width=WIDTH)
    done: list[Row] = []
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    try:
        with Progress(
            *columns, console=console, transient=True, refresh_per_second=2
        ) as progress:  # each refresh takes the interpreter from what is measured
            measuring = progress.add_task("measuring")
            for each in rows:
                done.append(each)
                progress.update(measuring, description=f"{len(done)} measured, last {each.what}")
    finally:  # what was measured before a fault is not lost
        console.print(_table(title, done))


def _table(title: str, rows: Iterable[Row]) -> Table:
    table = Table(title=title)
    for column in ("what", "figure", "beside", "figure", "ratio", "least to most", "target", ""):
        table.add_column(column, justify="left" if column in ("what", "beside", "") else "right")
    for each in rows:
        spread = f"{_digits(each.each[0])} to {_digits(each.each[-1])}"
        target = "-" if each.target is None else f"{each.target:g}"
        told = "" if each.target is None else ("met" if each.is_met else "MISSED")
        cells = (each.what, each.figure, each.beside, each.other, _digits(each.ratio))
        table.add_row(*cells, spread, target, told)
    return table


def _digits(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.3f}"


def alternated(
    other: Callable[[], float], ours: Callable[[], float], rounds: int
) -> list[tuple[float, float]]:
    """Both measured so often by turns, so that noise hits both."""
    return [(other(), ours()) for _ in range(rounds)]


def _shown(value: float, unit: str) -> str:
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f} {unit}"
