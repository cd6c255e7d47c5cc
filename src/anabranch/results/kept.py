"""How the value of a task is kept: beside the record of its run, in a storage, or not at all."""

from __future__ import annotations

import pickle
from collections.abc import Collection, Iterable
from json.encoder import encode_basestring_ascii
from math import isfinite
from typing import Any, cast

from anabranch.errors import UnserializableResult
from anabranch.execution.pickling import PROTOCOL
from anabranch.execution.pickling_at_rest import PastLimit, dumps_at_rest, known_size
from anabranch.outcomes import JSON, NOT_KEPT, PICKLE, Kept
from anabranch.records import made_of
from anabranch.results.previews import preview, size_text


def keep_inline(value: object, limit: int) -> Kept:
    """Keep the value in at most `limit` bytes; never raises, and stops work at the limit."""
    if type(value) is int:
        if -0x8000_0000_0000_0000 <= value <= 0x7FFF_FFFF_FFFF_FFFF:  # what others read, too
            text = f"{value}"
            size = len(text)
            if size <= limit:
                return made_of(Kept, (JSON, text.encode(), size, text, None))
    elif type(value) is str:
        if len(value) <= limit:
            data = encode_basestring_ascii(value).encode()
            if len(data) <= limit:
                return made_of(Kept, (JSON, data, len(data), preview(value), None))
    elif value is None or type(value) is bool or (type(value) is float and isfinite(value)):
        text = "null" if value is None else repr(value).lower()
        if len(text) <= limit:
            return made_of(Kept, (JSON, text.encode(), len(text), text, None))
    elif limit >= _SMALL and _is_small(value):
        data = pickle.dumps(value, PROTOCOL)
        return made_of(Kept, (PICKLE, data, len(data), preview(value), None))
    return _keep_pickled(value, limit)


_FEW, _SHORT = 16, 100
_SMALL = 64 + 2 * _FEW * (10 + 4 * _SHORT)
"""Bytes that the pickle of a small container never takes."""


def _is_small(value: object) -> bool:
    """Whether this is a short list, tuple or dict of short plain values, whose pickle needs no
    watching: a third of the time."""
    if type(value) is dict:
        held = cast("dict[object, object]", value)
        return len(held) <= _FEW and _are_small(held) and _are_small(held.values())
    if type(value) is list or type(value) is tuple:
        items = cast("Collection[object]", value)
        return len(items) <= _FEW and _are_small(items)
    return False


def _are_small(items: Iterable[object]) -> bool:
    for item in items:
        if type(item) is int:
            if not -0x8000_0000_0000_0000 <= item <= 0x7FFF_FFFF_FFFF_FFFF:
                return False
        elif type(item) is str:
            if len(item) > _SHORT:
                return False
        elif not (item is None or type(item) is float or type(item) is bool):
            return False
    return True


def _keep_pickled(value: object, limit: int) -> Kept:
    size = known_size(value)
    if size is not None and size > limit:
        return _too_large(value, size, limit)
    try:
        data = dumps_at_rest(value, "The result", limit)
    except PastLimit as past:
        return _too_large(value, past.size, limit)
    except UnserializableResult as error:
        reason = f"cannot be pickled: {error.path}: {error.reason}"
        return Kept(NOT_KEPT, None, None, preview(value), reason)
    return made_of(Kept, (PICKLE, data, len(data), preview(value), None))


def _too_large(value: Any, size: int | None, limit: int) -> Kept:
    told = f"more than {size_text(limit)}" if size is None else size_text(size)
    return Kept(NOT_KEPT, None, size, preview(value), f"too large: {told}")
