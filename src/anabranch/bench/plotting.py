"""A picture for each benchmark: its means over a param that is a number, else as bars."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from math import log10
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, NamedTuple

from anabranch.bench.pyperf_library import require_matplotlib
from anabranch.bench.results import CaseResult

LOG_FROM: Final = 1.5
"""Decades that values span on a logarithmic axis at least."""
DOTS_PER_INCH: Final = 150
LOWEST_SHARE: Final = 0.9
"""Of a mean that an error bar goes down at most on a logarithmic axis, which has no zero."""
LEGEND_INCHES: Final = 0.22
"""Of a line of the legend."""
BASE_COLOUR: Final = "0.65"


class Line(NamedTuple):
    """Results over one param; `label` says the values of others."""

    label: str
    points: list[tuple[float, CaseResult]]


def draw_plots(
    folder: Path, results: Sequence[CaseResult], base: Sequence[CaseResult] = ()
) -> list[Path]:
    """Write a PNG file for each benchmark that was measured, with the base's results of it if there
    are any; raises `OSError` and `MissingExtraError`."""
    require_matplotlib()
    folder.mkdir(parents=True, exist_ok=True)
    names = dict.fromkeys(each.benchmark for each in results if each.is_measured)
    return [_draw(folder, name, _measured(name, results), _measured(name, base)) for name in names]


def _measured(name: str, results: Iterable[CaseResult]) -> list[CaseResult]:
    return [each for each in results if each.benchmark == name and each.is_measured]


def _draw(
    folder: Path, name: str, results: Sequence[CaseResult], base: Sequence[CaseResult]
) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # 0.5 s that only plots need spend
    from matplotlib.figure import Figure

    param = numeric_param(results)
    height = 4.5 if param is not None else 1.8 + 0.3 * len(results) * (2 if base else 1)
    figure: Any = Figure(figsize=(8, height), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    if param is None:
        _draw_bars(axes, results, base)
    else:
        _draw_lines(axes, param, results, base)
    figure.suptitle(name, x=0.01, ha="left", fontweight="bold")
    axes.set_title(_about(results), loc="left", fontsize="small", color="0.4")
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        below = param is None
        place = "outside lower center" if below else "outside right upper"
        figure.set_figheight(max(height, LEGEND_INCHES * (len(labels) + 2)))
        title = None if param is None else ", ".join(_others(param, results))
        figure.legend(
            handles, labels, loc=place, title=title, frameon=False, ncols=2 if below else 1
        )
    path = folder / (re.sub(r"[^\w.-]", "_", name) + ".png")
    figure.savefig(path)
    return path


def _about(results: Sequence[CaseResult]) -> str:
    """What the picture shows, and where that was measured."""
    first, varying = results[0], varying_params(results)
    same = [f", {name}={value}" for name, value in first.params.items() if name not in varying]
    told = [str(first.metadata[key]) for key in ("hostname", "runner") if key in first.metadata]
    where = f"; on {', '.join(told)}" if told else ""
    return f"mean time of a call, with its 95 % confidence interval{''.join(same)}{where}"


def numeric_param(results: Sequence[CaseResult]) -> str | None:
    """The param with the most values, of those that are numbers everywhere and have several."""
    counts: dict[str, int] = {}
    for name in results[0].params:
        values = [each.params.get(name) for each in results]
        if all(isinstance(value, int | float) for value in values):
            counts[name] = len(set(values))
    several = [name for name, count in counts.items() if count > 1]
    return max(several, key=counts.__getitem__, default=None)


def varying_params(results: Sequence[CaseResult]) -> list[str]:
    """The params that do not have one value everywhere."""
    names = dict.fromkeys(name for each in results for name in each.params)
    return [name for name in names if len({each.params.get(name) for each in results}) > 1]


def _others(param: str, results: Sequence[CaseResult]) -> list[str]:
    return [name for name in varying_params(results) if name != param]


def lines_over(param: str, others: Sequence[str], results: Iterable[CaseResult]) -> list[Line]:
    """A line for each combination of the others' values, its points by the param's."""
    lines: dict[str, Line] = {}
    for each in results:
        label = ", ".join(str(each.params.get(name, "")) for name in others)
        value = each.params.get(param)
        if isinstance(value, int | float):
            lines.setdefault(label, Line(label, [])).points.append((value, each))
    return [Line(line.label, sorted(line.points, key=itemgetter(0))) for line in lines.values()]


# -- curves ---------------------------------------------------------------------------------------


def _draw_lines(
    axes: Any, param: str, results: Sequence[CaseResult], base: Sequence[CaseResult]
) -> None:
    others = _others(param, results)
    lines, base_lines = lines_over(param, others, results), lines_over(param, others, base)
    points = [point for line in [*lines, *base_lines] for point in line.points]
    logarithmic = _is_wide([result.mean.value for _, result in points])
    if _is_wide([value for value, _ in points]):
        axes.set_xscale("log")
    if logarithmic:
        axes.set_yscale("log")
    colours = {line.label: f"C{number % 10}" for number, line in enumerate(lines)}
    markers = {line.label: "os^D"[number // 10 % 4] for number, line in enumerate(lines)}
    for line in base_lines:
        if line.label in colours:
            style = {"linestyle": "--", "alpha": 0.7, "markerfacecolor": "white"}
            look = {"color": colours[line.label], "marker": markers[line.label], **style}
            _draw_line(axes, line, None, logarithmic, look)
    for line in lines:
        look = {"color": colours[line.label], "marker": markers[line.label]}
        _draw_line(axes, line, line.label or "this run", logarithmic, look)
    if base_lines:
        axes.plot(
            [], [], color="0.4", linestyle="--", marker="o", markerfacecolor="white", label="base"
        )
    axes.set_xlabel(param)
    axes.set_ylabel("time of a call")
    axes.grid(True, which="major", color="0.9")
    axes.set_axisbelow(True)
    _format_seconds(axes.yaxis)
    if not logarithmic:
        axes.set_ylim(bottom=0)


def _draw_line(
    axes: Any, line: Line, label: str | None, logarithmic: bool, look: dict[str, Any]
) -> None:
    results = [result for _, result in line.points]
    axes.errorbar(
        [value for value, _ in line.points],
        [each.mean.value for each in results],
        yerr=_error_bars(results, logarithmic),
        label=label,
        markersize=4,
        linewidth=1.3,
        capsize=3,
        **look,
    )


# -- bars -----------------------------------------------------------------------------------------


def _draw_bars(axes: Any, results: Sequence[CaseResult], base: Sequence[CaseResult]) -> None:
    known = {each.name: each for each in base}
    both = [*results, *base]
    shown = [each.mean.value for each in both]
    logarithmic = _is_wide(shown)
    height = 0.38 if base else 0.6
    places = list(range(len(results)))
    pairs = [(place, known[each.name]) for place, each in zip(places, results, strict=True)
             if each.name in known]  # fmt: skip  # as it reads
    if logarithmic:
        axes.set_xscale("log")
        ends = [each.mean.value + each.mean.half_width for each in both]
        axes.set_xlim(min(shown) / 4, 1.5 * max(ends))
    above = height / 2 if base else 0
    _draw_row_bars(
        axes, [place + above for place in places], results, "C0", "this run", logarithmic, height
    )
    if pairs:
        _draw_row_bars(
            axes,
            [place - above for place, _ in pairs],
            [each for _, each in pairs],
            BASE_COLOUR,
            "base",
            logarithmic,
            height,
        )
    varying = varying_params(results)
    axes.set_yticks(places, [_case_label(each, varying) for each in results])
    axes.invert_yaxis()
    axes.set_xlabel("time of a call")
    axes.grid(True, axis="x", color="0.9")
    axes.set_axisbelow(True)
    _format_seconds(axes.xaxis)


def _draw_row_bars(
    axes: Any,
    places: Sequence[float],
    results: Sequence[CaseResult],
    colour: str,
    label: str,
    logarithmic: bool,
    height: float,
) -> None:
    axes.barh(
        places,
        [each.mean.value for each in results],
        height,
        xerr=_error_bars(results, logarithmic),
        color=colour,
        label=label,
        error_kw={"capsize": 3, "linewidth": 1},
    )


def _case_label(result: CaseResult, names: Sequence[str]) -> str:
    told = [f"{name}={result.params[name]}" for name in names if name in result.params]
    return ", ".join(told) or result.name


# -- axes -----------------------------------------------------------------------------------------


def _is_wide(values: Sequence[float]) -> bool:
    """Whether the values need a logarithmic axis."""
    return min(values) > 0 and log10(max(values) / min(values)) > LOG_FROM


def _error_bars(results: Sequence[CaseResult], logarithmic: bool) -> list[list[float]]:
    """Lengths below and above the means."""
    above = [each.mean.half_width for each in results]
    if not logarithmic:
        return [above, above]
    return [[min(each.mean.half_width, LOWEST_SHARE * each.mean.value) for each in results], above]


def _format_seconds(axis: Any) -> None:
    """Ticks such as `20 µs`."""
    from matplotlib.ticker import EngFormatter  # as above

    axis.set_major_formatter(EngFormatter(unit="s"))
