"""What became of a case: a row of the table, whether it was measured or not."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from anabranch.bench.hosts import Metadata
from anabranch.bench.statistics import Mean, mean_of

MEASURED: Final = "measured"
FAILED: Final = "failed"
WRONG: Final = "wrong answer"
TIMED_OUT: Final = "timed out"

ParamValue = str | int | float


class CaseResult(NamedTuple):
    """`benchmark` is the function's name, `values` are seconds of one call, `error` is one line.

    What was not measured has no values.
    """

    name: str
    benchmark: str
    params: Mapping[str, ParamValue]
    status: str
    error: str | None = None
    values: tuple[float, ...] = ()
    loops: int = 1
    warmups: tuple[tuple[int, float], ...] = ()
    metadata: Metadata = MappingProxyType({})

    @property
    def is_measured(self) -> bool:
        return self.status == MEASURED

    @property
    def mean(self) -> Mean:
        """Of a measured case."""
        return mean_of(self.values)

    @property
    def outcome(self) -> str:
        """On one line, such as `"1.02 ± 0.02 ms, 12 x 1"` or `"timed out: ..."`."""
        if not self.is_measured:
            return f"{self.status}: {self.error}"
        return f"{mean_text(self.mean)}, {self.repeats}"

    @property
    def repeats(self) -> str:
        return f"{len(self.values)} x {self.loops:,}"


UNITS: Final = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))


def unit_of(seconds: float) -> tuple[float, str]:
    """The unit in which so many seconds are 1 or more, and its length in seconds."""
    return next((unit for unit in UNITS if seconds >= unit[0]), UNITS[-1])


def mean_text(mean: Mean) -> str:
    """Such as `"12.30 ± 0.41 µs"`: the half width to two digits, the mean as exactly."""
    length, unit = unit_of(mean.value)
    half_width = mean.half_width / length
    digits = 0
    while digits < 4 and half_width < 9.95 / 10**digits:
        digits += 1
    return f"{mean.value / length:.{digits}f} ± {half_width:.{digits}f} {unit}"
