"""Named limits on how much runs at once, and how often, over all processes of one store.

This module can be called, so that `from anabranch import concurrency` and `import
anabranch.concurrency` are the same:

    with concurrency("database", occupy=2): ...
    async with concurrency("database"): ...
    rate_limit("api")
    await rate_limit("api")

A limit named `tag:NAME` holds for each task run with that tag, without a line in its code.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Awaitable, Callable, Generator, Iterable
from types import ModuleType
from typing import Any, cast

from anabranch.concurrency.waiting import Request, Slots, use, use_async
from anabranch.context import TaskRunContext, current_context
from anabranch.execution.functions import GENERATOR, SYNC
from anabranch.limits import Limit
from anabranch.store import limits as stored_limits
from anabranch.store.slots import settings_store


def rate_limit(
    names: str | Iterable[str],
    occupy: int = 1,
    timeout_seconds: float | None = None,
    strict: bool = False,
) -> Awaitable[None]:
    """Wait until the rates of these limits let this call go on; to be awaited in async code.

    Each call uses `occupy` slots up, which come back at the limit's `slots_per_second`. Raises
    `NotARateLimitError` for a limit without that, else as `concurrency` does.
    """
    request = Request(names, occupy, timeout_seconds, strict, True)
    if _is_async():
        return use_async(request)
    use(request)
    return Past()


def set_limit(name: str, slots: int, slots_per_second: float | None = None) -> None:
    """Make a limit, or change it. With `slots_per_second` it is one for `rate_limit`, which lets
    `slots` calls pass at once after a rest. No slots at all stop all who ask. Raises `OptionError`."""
    _ask(stored_limits.set_limit, name, slots, slots_per_second)


def remove_limit(name: str) -> bool:
    """Whether there was one. Whoever holds slots of it goes on."""
    return _ask(stored_limits.remove_limit, name)


def limits() -> list[Limit]:
    """All limits, and how many of their slots are in use."""
    return _ask(stored_limits.limits)


class Concurrency(ModuleType):
    """This module as it can be called."""

    Limit = Limit
    rate_limit = staticmethod(rate_limit)
    set_limit = staticmethod(set_limit)
    remove_limit = staticmethod(remove_limit)
    limits = staticmethod(limits)

    def __call__(
        self,
        names: str | Iterable[str],
        occupy: int = 1,
        timeout_seconds: float | None = None,
        strict: bool = False,
    ) -> Slots:
        """Hold slots of these limits for the length of a `with` or `async with` block.

        Waits until `occupy` slots of each are free, and then has all of them at once. Limits that do
        not exist limit nothing; with `strict` they raise `UnknownLimitError`. The block is not
        entered, with `ConcurrencySlotTimeoutError`, where that takes longer than `timeout_seconds`;
        `LimitTooSmallError` says that it would take forever. Slots of a process that died come free.
        """
        return Slots(Request(names, occupy, timeout_seconds, strict, False))

    def __reduce__(self) -> tuple[Any, ...]:
        return importlib.import_module, (self.__name__,)  # pickled by name, like any module


class Past:
    """A wait that is over, for those who await it all the same."""

    def __await__(self) -> Generator[None, None, None]:
        return
        yield  # what makes this a generator


def _is_async() -> bool:
    """Whether the calling code can await: a sync task cannot, even where a loop runs around it."""
    context = current_context()
    if isinstance(context, TaskRunContext):
        return context.call.spec.kind not in (SYNC, GENERATOR)
    loops: Any = sys.modules.get("asyncio")
    return loops is not None and loops._get_running_loop() is not None


def _ask(fn: Callable[..., Any], *args: Any) -> Any:
    engine = current_context().engine
    if engine is not None:
        return engine.limits.ask_limits(fn, *args)
    database = settings_store()
    try:
        return fn(database, *args)
    finally:
        database.close()


sys.modules[__name__].__class__ = Concurrency
concurrency = cast(Concurrency, sys.modules[__name__])
