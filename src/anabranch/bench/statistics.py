"""The mean of some values with its 95 % confidence interval, and whether two means differ."""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum, hypot, sqrt
from typing import NamedTuple

from anabranch.bench.pyperf_library import student_t


class Mean(NamedTuple):
    """A mean, and half the width of its 95 % confidence interval, by Student's t distribution."""

    value: float
    half_width: float


def mean_of(values: Sequence[float]) -> Mean:
    """Of two values or more."""
    mean, error = _mean_and_error(values)
    return Mean(mean, student_t(len(values) - 1) * error)


def is_significant(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether two means differ, by Welch's t test at 95 %.

    That of pyperf takes equal numbers of values alone, and `pyperf compare_to` calls all else
    significant.
    """
    (mean, error), (other_mean, other_error) = _mean_and_error(first), _mean_and_error(second)
    joint = hypot(error, other_error)
    if joint == 0:
        return mean != other_mean
    # The degrees of freedom are those of Welch and Satterthwaite.
    parts = error**4 / (len(first) - 1) + other_error**4 / (len(second) - 1)
    return abs(mean - other_mean) / joint >= student_t(int(joint**4 / parts))


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error."""
    count = len(values)
    mean = fsum(values) / count
    variance = fsum((value - mean) ** 2 for value in values) / (count - 1)
    return mean, sqrt(variance / count)
