"""Subflows side by side, each with tasks of its own; one of them fails, the others go on.

    python examples/side_by_side.py

`station.submit(...)` starts a subflow and gives a future, like the `submit` of a task. What failed
in a subflow is an exception of that future, for the flow above to raise, report or ignore.
"""

from __future__ import annotations

from statistics import mean

from rich.console import Console
from rich.table import Table

from anabranch import flow, task

READINGS = {
    "harbour": ["11.5", "12.0", "13.1", "12.6"],
    "summit": ["-3.2", "-2.9", "broken", "-1.4"],
    "valley": ["8.0", "9.4", "11.2", "10.6"],
}
"""Degrees Celsius as the stations sent them."""


@task(task_run_name="fahrenheit of {text}")
def fahrenheit(text: str) -> float:
    return float(text) * 9 / 5 + 32


@flow(flow_run_name="station {name}")
def station(name: str) -> float:
    """The mean of one station in degrees Fahrenheit; fails if a reading is no number."""
    return mean(fahrenheit.map(READINGS[name]).result())


@task
def warmest(means: dict[str, float]) -> str:
    return max(means, key=lambda name: means[name])


@flow
def compare() -> tuple[dict[str, float], dict[str, str], str]:
    """The means, why others are missing, and the warmest station."""
    futures = {name: station.submit(name) for name in READINGS}  # all of them run from here on
    means: dict[str, float] = {}
    missing: dict[str, str] = {}
    for name, future in futures.items():
        error = future.exception()
        if error is None:
            means[name] = future.result()
        else:
            missing[name] = str(error)
    return means, missing, warmest.submit(means).result()


def main() -> None:
    means, missing, warm = compare()
    table = Table("station", "mean °F")
    for name in READINGS:
        table.add_row(name, f"{means[name]:.2f}" if name in means else missing[name])
    Console().print(table)
    print(f"The warmest of {len(means)} stations is {warm}; {len(missing)} failed.")


if __name__ == "__main__":
    main()
