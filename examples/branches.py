"""A flow whose shape depends on its results: integrate a peak, with more points where it is steep.

    python examples/branches.py

The range is cut into intervals. A task integrates each of them roughly and says how far off it may
be; intervals that are too far off are halved and go to the next round. How many rounds and tasks
there are is known only when the flow ends. All this takes is `while`, `for` and `if`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from anabranch import flow, get_run_logger, task

WIDTH = 0.01
"""Of the peak; the smaller, the steeper."""


class Interval(NamedTuple):
    left: float
    right: float


class Estimate(NamedTuple):
    area: float
    error: float


class Round(NamedTuple):
    intervals: int
    good: int
    area: float  # of all intervals that are good by now


def peak(x: float) -> float:
    return WIDTH / (x * x + WIDTH * WIDTH)


@task
def integrate(interval: Interval) -> Estimate:
    """Simpson's rule on the interval and on its halves; how much they differ tells the error."""
    left, right = interval
    middle = (left + right) / 2
    whole = simpson(left, right)
    halves = simpson(left, middle) + simpson(middle, right)
    return Estimate(area=halves, error=abs(halves - whole) / 15)


def simpson(left: float, right: float) -> float:
    middle = (left + right) / 2
    return (right - left) / 6 * (peak(left) + 4 * peak(middle) + peak(right))


@flow
def integrate_peak(left: float, right: float, tolerance: float, most_rounds: int) -> list[Round]:
    """Halve intervals until each is within its share of the tolerance."""
    rounds: list[Round] = []
    area = 0.0
    intervals = [Interval(left, right)]
    while intervals and len(rounds) < most_rounds:
        estimates = integrate.map(intervals).result()
        halves: list[Interval] = []
        for interval, estimate in zip(intervals, estimates, strict=True):
            share = tolerance * (interval.right - interval.left) / (right - left)
            if estimate.error <= share:
                area += estimate.area
            else:
                middle = (interval.left + interval.right) / 2
                halves += [Interval(interval.left, middle), Interval(middle, interval.right)]
        halved = len(halves) // 2
        rounds.append(Round(len(intervals), len(intervals) - halved, area))
        intervals = halves
    if intervals:
        get_run_logger().warning("%s intervals are left after the last round", len(intervals))
    return rounds


def main() -> None:
    rounds = integrate_peak(-1, 1, tolerance=1e-6, most_rounds=30)
    table = Table("round", "intervals", "good enough", "area so far")
    for number, (intervals, good, area) in enumerate(rounds, start=1):
        table.add_row(str(number), str(intervals), str(good), f"{area:.8f}")
    Console().print(table)
    exact = 2 * math.atan(1 / WIDTH)
    tasks = sum(each.intervals for each in rounds)
    print(f"The area is {rounds[-1].area:.8f} after {tasks} tasks; exact is {exact:.8f}.")


if __name__ == "__main__":
    main()
