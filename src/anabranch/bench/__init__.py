"""Benchmark suites: functions with `@benchmark`, which `anabranch bench` measures as one flow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anabranch.lazy import lazy

if TYPE_CHECKING:
    from anabranch.bench.definitions import Benchmark as Benchmark
    from anabranch.bench.definitions import benchmark as benchmark
    from anabranch.bench.suites import run_suite as run_suite

_LAZY = {"Benchmark": "definitions", "benchmark": "definitions", "run_suite": "suites"}

__all__ = sorted(_LAZY)  # pyright: ignore[reportUnsupportedDunderAll]  # the same names as above


__getattr__ = lazy(__name__, _LAZY, globals())
