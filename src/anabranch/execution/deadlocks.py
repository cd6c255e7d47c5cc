"""Blocking waits on an event loop: refused where the loop has to run what is waited for."""

# pyright: reportPrivateUsage=false
# The engine's rooms share the slots of the run record, which are private to users.

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any

from anabranch.errors import WouldDeadlockError
from anabranch.futures import TaskFuture
from anabranch.outcomes import SETTLED


def refuse_deadlock(futures: Sequence[TaskFuture[Any]]) -> None:
    """Raise `WouldDeadlockError` if these, or what they wait for, need the calling loop.

    Blocking a running loop on anything else is allowed, with a warning that Python shows once a
    place.
    """
    asyncio = sys.modules.get("asyncio")
    loop = None if asyncio is None else asyncio._get_running_loop()
    if loop is None:
        return
    seen: set[TaskFuture[Any]] = set()
    stack = [future for future in futures if future._phase < SETTLED]
    while stack:
        future = stack.pop()
        if future in seen:
            continue
        seen.add(future)
        shared: Any = future._shared
        if shared.runner.runs_on(loop):
            raise WouldDeadlockError(futures[0].name)
        if future._links is not None:
            stack += [each for each in future._links.blockers if each._phase < SETTLED]
    if futures:
        warnings.warn(
            f"{futures[0].name!r} is waited for by blocking inside an async function, which stops "
            "everything else on its event loop; use `await future`.",
            RuntimeWarning,
            stacklevel=6,
        )
