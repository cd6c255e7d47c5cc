"""Limits in async code: `async with concurrency("name"): ...` and `await rate_limit("name")`."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager

from anabranch.concurrency.waiting import Request, Slots, use_async


def concurrency(
    names: str | Iterable[str],
    occupy: int = 1,
    timeout_seconds: float | None = None,
    strict: bool = False,
) -> AbstractAsyncContextManager[None]:
    """Hold slots of these limits for the length of the block; see `anabranch.concurrency`."""
    return Slots(Request(names, occupy, timeout_seconds, strict, False))


async def rate_limit(
    names: str | Iterable[str],
    occupy: int = 1,
    timeout_seconds: float | None = None,
    strict: bool = False,
) -> None:
    """Wait until the rates of these limits let this call go on; see `anabranch.concurrency`."""
    await use_async(Request(names, occupy, timeout_seconds, strict, True))
