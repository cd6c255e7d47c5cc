"""For tests: of your flows (`harness`), and of task runners of your own (`RunnerContract`)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from anabranch.testing.clock import MovableClock as MovableClock
from anabranch.testing.harness import harness as harness

if TYPE_CHECKING:
    from anabranch.testing.contract import RunnerContract as RunnerContract

_LAZY = {"RunnerContract": "anabranch.testing.contract"}  # it needs pytest, the others do not


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["MovableClock", "RunnerContract", "harness"]
