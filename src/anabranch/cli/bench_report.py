"""What `anabranch bench` prints of its results: a table, and how they stand beside a base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from anabranch.bench.comparing import Comparison, compare, geometric_mean, left_out, unlike
from anabranch.bench.results import CaseResult, mean_text
from anabranch.cli.output import console, count_of, note, one_line, plain_table, shown, styled

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text


def print_results(results: Sequence[CaseResult], base: Sequence[CaseResult] | None) -> None:
    """The table on standard output; what it does not say, as notes on standard error."""
    if not results:
        note("No case was found.")
        return
    compared = compare(results, base or ())
    console().print(results_table(compared, base is not None))
    left = [each for each in results if not each.is_measured]
    if left:
        note(f"{count_of(len(left), 'case')} of {len(results):,} could not be measured.")
    runners = {str(each.metadata["runner"]) for each in results if "runner" in each.metadata}
    if len(runners) > 1:  # it was resumed on another
        note(f"Measured on several task runners: {shown(', '.join(sorted(runners)))}.")
    if base is not None:
        _print_comparison(compared, left_out(results, base))


def _print_comparison(compared: Sequence[Comparison], only_base: Sequence[str]) -> None:
    mean = geometric_mean(compared)
    if mean is None:
        note("The base has no case that was measured here too.")
    else:
        count = sum(each.ratio is not None for each in compared)
        print(f"Geometric mean of {count_of(count, 'ratio')}: {ratio_text(mean)}")
    if only_base:
        note(f"Only in the base: {shown(', '.join(only_base))}.")
    differing = unlike(compared)
    if differing:
        out = console(stderr=True)
        told = f"Not measured alike, so the ratios say little. In the base: {'; '.join(differing)}."
        out.print(shown(told), style="yellow", soft_wrap=not out.is_terminal)


def results_table(compared: Sequence[Comparison], with_base: bool) -> Table:
    """A line for each case; those that were not measured have a word and their error instead."""
    problems = any(not each.result.is_measured for each in compared)
    titles = ["BENCHMARK", "MEAN ± 95 % CI", "REPEATS"]
    titles += ["BASE", "RATIO", "DIFFERENCE"] if with_base else []
    table = plain_table(*titles, *(["PROBLEM"] if problems else []))
    for place in (1, 2, 3)[: 3 if with_base else 2]:
        table.columns[place].justify = "right"
    for each in compared:
        result = each.result
        cells = [styled(one_line(result.name)), _mean_cell(result)]
        cells.append(styled(result.repeats if result.is_measured else ""))
        cells += _base_cells(each) if with_base else []
        cells += [styled(one_line(result.error), "dim")] if problems else []
        table.add_row(*cells)
    return table


def _mean_cell(result: CaseResult) -> Text:
    if not result.is_measured:
        return styled(result.status, "red")
    return styled(mean_text(result.mean))


def _base_cells(compared: Comparison) -> list[Text]:
    base, ratio = compared.base, compared.ratio
    if base is None:
        return [styled("not in base", "dim"), styled(""), styled("")]
    told = mean_text(base.mean) if base.is_measured else f"{base.status} in base"
    if ratio is None:
        return [styled(told, "" if base.is_measured else "red"), styled(""), styled("")]
    if not compared.significant:
        return [styled(told), styled(ratio_text(ratio), "dim"), styled("not significant", "dim")]
    return [
        styled(told),
        styled(ratio_text(ratio), "green" if ratio < 1 else "red"),
        styled("significant"),
    ]


def ratio_text(ratio: float) -> str:
    """Such as `"1.25x slower"`, of a mean as a share of the base's."""
    if round(max(ratio, 1 / ratio), 2) == 1:
        return "as fast"
    return f"{ratio:.2f}x slower" if ratio > 1 else f"{1 / ratio:.2f}x faster"
