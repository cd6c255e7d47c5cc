"""Benchmark suites: functions with `@benchmark`, which `anabranch bench` measures as one flow."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anabranch.bench.definitions import Benchmark as Benchmark
    from anabranch.bench.definitions import benchmark as benchmark
    from anabranch.bench.suites import run_suite as run_suite

_LAZY = {"Benchmark": "definitions", "benchmark": "definitions", "run_suite": "suites"}

__all__ = sorted(_LAZY)  # pyright: ignore[reportUnsupportedDunderAll]  # the same names as above


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value
