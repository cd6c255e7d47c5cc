"""Plots of what was measured, as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def draw_lines(
    path: str,
    title: str,
    labels: tuple[str, str],
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    log_x: bool = False,
) -> None:
    """Draw a line for each name into a file, whose kind its ending says; `labels` are those of x and
    y. Raises `ImportError` without matplotlib."""
    from matplotlib.figure import Figure  # an extra

    figure: Any = Figure(figsize=(8, 4.5), layout="constrained")  # its own types are partly unknown
    axes = figure.subplots()
    for name, (xs, ys) in lines.items():
        axes.plot(xs, ys, label=name, marker="o" if len(xs) < 20 else None)
    if log_x:
        axes.set_xscale("log")
    axes.set(xlabel=labels[0], ylabel=labels[1], title=title)
    axes.set_ylim(bottom=0)
    if len(lines) > 1:
        axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
