"""Which arguments of a map are mapped over, and which stay the same for each call."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from anabranch.annotations import Annotation, allow_failure
from anabranch.futures import TaskFuture

_NEVER = (str, bytes, bytearray, memoryview, Mapping, BaseModel, io.IOBase)


def is_mapped_over(value: Any) -> bool:
    """Whether a map makes one call for each item of this.

    Lists, tuples, sets, ranges, iterators, generators, arrays and series are; text, bytes,
    mappings, models, data frames and files are not, nor is anything marked but by
    `allow_failure`. A frame is told by its `columns`.
    """
    if isinstance(value, allow_failure):
        return is_mapped_over(value.value)  # pyright: ignore[reportUnknownMemberType]  # any value
    if isinstance(value, (Annotation, TaskFuture, type, *_NEVER)):
        return False
    if hasattr(value, "columns") or getattr(value, "ndim", 1) == 0:
        return False
    return isinstance(value, Iterable) or (
        hasattr(value, "__getitem__") and hasattr(value, "__len__")
    )
