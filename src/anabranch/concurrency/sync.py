"""Limits in sync code: `with concurrency("name"): ...` and `rate_limit("name")`."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager

from anabranch.concurrency.waiting import Request, Slots, use


def concurrency(
    names: str | Iterable[str],
    occupy: int = 1,
    timeout_seconds: float | None = None,
    strict: bool = False,
) -> AbstractContextManager[None]:
    """Hold slots of these limits for the length of the block; see `anabranch.concurrency`."""
    return Slots(Request(names, occupy, timeout_seconds, strict, False))


def rate_limit(
    names: str | Iterable[str],
    occupy: int = 1,
    timeout_seconds: float | None = None,
    strict: bool = False,
) -> None:
    """Wait until the rates of these limits let this call go on; see `anabranch.concurrency`."""
    use(Request(names, occupy, timeout_seconds, strict, True))
