"""How many bytes a value takes on its way, found out without making a copy of arrays."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, Final

from anabranch.execution.pickling import FUTURE_MARK, PROTOCOL, dumps

STAYS_FROM: Final = 1 << 16
"""Values of so many bytes stay on the cluster."""

_SMALL = frozenset({type(None), bool, int, float})


def measured(value: Any, what: Callable[[], str]) -> int:
    """Bytes of the pickled value; 0 for one that has to travel whatever its size.

    Raises `UnpicklableError` that names `what` and the offending part.
    """
    if type(value) in _SMALL:
        return 0
    if type(value) is str or type(value) is bytes:
        return len(value)
    apart: list[pickle.PickleBuffer] = []
    try:
        data = pickle.dumps(value, PROTOCOL, buffer_callback=apart.append)
    except Exception:  # it may still travel by value
        data = b"__main__"
    if b"__main__" in data:
        data = dumps(value, what, ("result",))
    if FUTURE_MARK in data:
        return 0
    return len(data) + sum(each.raw().nbytes for each in apart)
