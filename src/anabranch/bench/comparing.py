"""Results beside those of an earlier suite, the base: how the means relate, and whether it counts."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from anabranch.bench.hosts import differences
from anabranch.bench.results import CaseResult
from anabranch.bench.statistics import is_significant


class Comparison(NamedTuple):
    """A case and the base's of its name; `ratio` is its mean as a share of the base's, None where
    one of them was not measured."""

    result: CaseResult
    base: CaseResult | None
    ratio: float | None = None
    significant: bool = False


def compare(results: Sequence[CaseResult], base: Sequence[CaseResult]) -> list[Comparison]:
    """The results in their order, each with what the base has of it."""
    known = {each.name: each for each in base}
    return [_compared(each, known.get(each.name)) for each in results]


def _compared(result: CaseResult, base: CaseResult | None) -> Comparison:
    if base is None or not base.is_measured or not result.is_measured:
        return Comparison(result, base)
    ratio = result.mean.value / base.mean.value
    return Comparison(result, base, ratio, is_significant(base.values, result.values))


def geometric_mean(compared: Sequence[Comparison]) -> float | None:
    """Of all ratios; None where there is none."""
    ratios = [each.ratio for each in compared if each.ratio is not None]
    return statistics.geometric_mean(ratios) if ratios else None


def unlike(compared: Sequence[Comparison]) -> list[str]:
    """In what the hosts and runners of base and result differ, for any case, in order."""
    found: dict[str, None] = {}
    for each in compared:
        if each.base is not None and each.ratio is not None:
            found |= dict.fromkeys(differences(each.base.metadata, each.result.metadata))
    return list(found)


def left_out(results: Sequence[CaseResult], base: Sequence[CaseResult]) -> list[str]:
    """Names of cases that only the base has."""
    names = {each.name for each in results}
    return [each.name for each in base if each.name not in names]
