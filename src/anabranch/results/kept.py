"""How the value of a task is kept: beside the record of its run, in a storage, or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from platform import python_version
from typing import Any

from anabranch.errors import ResultNotKeptError, UnreadableResultError, UnserializableResult
from anabranch.execution.pickling import loads
from anabranch.execution.pickling_at_rest import PastLimit, dumps_at_rest, known_size
from anabranch.outcomes import JSON, NOT_KEPT, PICKLE, STORED, Kept
from anabranch.results.previews import preview, size_text
from anabranch.results.result_store import ResultStore

_new: Callable[[type[Kept], tuple[Any, ...]], Kept] = tuple.__new__  # half the time of Kept(...)
_SMALLEST, _LARGEST = -(2**63), 2**63 - 1


def keep_inline(value: Any, limit: int) -> Kept:
    """Keep the value in at most `limit` bytes; never raises, and stops work at the limit."""
    kind = type(value)
    if kind is int:
        if _SMALLEST <= value <= _LARGEST:
            text = int.__repr__(value)
            size = len(text)
            if size <= limit:
                return _new(Kept, (JSON, text.encode(), size, text, None))
    elif kind in _PLAIN:
        data = _json(value, limit)
        if data is not None:
            return _new(Kept, (JSON, data, len(data), preview(value), None))
    else:
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
    return _new(Kept, (PICKLE, data, len(data), preview(value), None))


_PLAIN = {str, float, bool, type(None)}


def _json(value: str | float | bool | None, limit: int) -> bytes | None:
    """The value as JSON, or None where it does not fit or JSON has no such value."""
    if type(value) is str:
        if len(value) > limit:
            return None
    elif value != value or value in _INFINITE:
        return None
    data = _encode(value).encode("ascii")
    return data if len(data) <= limit else None


_INFINITE = (float("inf"), float("-inf"))
_encode = json.JSONEncoder().encode


def _too_large(value: Any, size: int | None, limit: int) -> Kept:
    told = f"more than {size_text(limit)}" if size is None else size_text(size)
    return Kept(NOT_KEPT, None, size, preview(value), f"too large: {told}")


def stored(store: ResultStore, key: str, value: Any, size: int) -> Kept:
    """What is left of a value that the store has under the key."""
    where = {
        "location": store.storage.location(key),
        "key": key,
        "serializer": store.serializer.name,
    }
    return Kept(STORED, json.dumps(where).encode(), size, preview(value), None)


def recover(kept: Kept, store: ResultStore | None = None) -> Any:
    """The value again; a pickle is loaded as it is, so check its signature first.

    What is stored is read through `store`, or from where it says itself, if that is a folder or a
    URL. Raises `ResultNotKeptError`, `UnreadableResultError`, and all that `ResultStore.read` does.
    """
    if kept.form == NOT_KEPT or kept.data is None:
        raise ResultNotKeptError(kept.reason or "nothing says why")
    if kept.form == JSON:
        return json.loads(kept.data)
    if kept.form == STORED:
        where: dict[str, str] = json.loads(kept.data)
        if store is None:
            store = ResultStore(where["location"].rpartition("/")[0], where["serializer"])
        return store.read(where["key"]).value
    try:
        return loads(kept.data)
    except Exception as error:  # of a class that is gone or changed
        reason = f"{type(error).__name__}: {error}"
        writer, reader = "code or versions other than these", f"Python {python_version()}"
        raise UnreadableResultError("The result of a run", reason, writer, reader) from error
