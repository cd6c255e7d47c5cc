"""Values on their way to rest: pickled alone, within a limit, for a process of another day.

As in `pickling.py`, plain pickle goes first, and cloudpickle by value where that will not do; but
futures do not go, as their run will be over, and nothing is pickled past the limit.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Callable
from typing import Any

import cloudpickle  # pyright: ignore[reportMissingTypeStubs]  # it has none

from anabranch.errors import UnserializableResult
from anabranch.execution.pickling import PROTOCOL, ByValuePickler, offender
from anabranch.execution.script_classes import (
    class_of_main,
    class_of_script,
    fill_class,
    place_in_script,
)
from anabranch.futures import TaskFuture


class PastLimit(Exception):
    """A value is larger than the limit; `size` in bytes where it is known."""

    def __init__(self, size: int | None = None) -> None:
        super().__init__(size)
        self.size = size


def dumps_at_rest(value: Any, what: str, limit: int = sys.maxsize) -> bytes:
    """The value as at most `limit` bytes, for `pickling.loads`.

    Raises `PastLimit`, and `UnserializableResult` with the path of the offending part.
    """
    try:
        return _dumps(value, limit)
    except PastLimit:
        raise
    except RecursionError as error:
        raise UnserializableResult(what, "pickle", "result", "it is nested too deep") from error
    except Exception as error:
        path, reason = offender([("result", value)], error, lambda part: _is_writable(part, limit))
        raise UnserializableResult(what, "pickle", path, reason) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # a library in Rust that gave up, no signal
            raise
        raise UnserializableResult(what, "pickle", "result", str(error)) from error


def _dumps(value: Any, limit: int) -> bytes:
    if not cloudpickle.list_registry_pickle_by_value():
        file = _file(limit)
        try:
            _plain_pickler(file).dump(value)
        except (PastLimit, RecursionError):
            raise
        except Exception:  # a lambda, a local class: the other way can write those
            return _by_value(value, limit)
        data = file.getvalue()
        if b"__main__" not in data:  # another process has another main module
            return data
    return _by_value(value, limit)


def _by_value(value: Any, limit: int) -> bytes:
    file = _file(limit)
    _ByValue(file, limit).dump(value)  # pyright: ignore[reportUnknownMemberType]  # untyped there
    return file.getvalue()


def _is_writable(part: Any, limit: int) -> None:
    try:
        _by_value(part, limit)
    except PastLimit:  # then its size is what is wrong with it
        pass


class _Bounded(io.BytesIO):
    """A file that takes so many bytes, and raises `PastLimit` instead of taking more."""

    limit: int

    def write(self, data: Any, /) -> int:
        if type(data) is pickle.PickleBuffer:  # of a large array, which may be in another order
            data = data.raw()
        if self.tell() + len(data) > self.limit:
            raise PastLimit
        return super().write(data)


def _file(limit: int) -> _Bounded:
    file = _Bounded()
    file.limit = limit  # an __init__ of its own would take twice the time, for each result
    return file


class _Plain(pickle.Pickler):
    limit: int

    def reducer_override(self, obj: Any, /) -> Any:
        if isinstance(obj, type):
            return _by_script(obj) or NotImplemented  # those of the main module go by value
        _look_at(obj, self.limit)
        return NotImplemented


def _plain_pickler(file: _Bounded) -> _Plain:
    pickler = _Plain(file, PROTOCOL)
    pickler.limit = file.limit  # as above
    return pickler


class _ByValue(ByValuePickler):
    def __init__(self, file: _Bounded, limit: int) -> None:
        super().__init__(file, PROTOCOL)  # pyright: ignore[reportUnknownMemberType]  # untyped there
        self._limit = limit

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, type):
            return _by_script(obj) or _by_main(obj, super().reducer_override(obj))
        _look_at(obj, self._limit)
        return super().reducer_override(obj)


def _by_script(cls: type[Any]) -> tuple[Any, ...] | None:
    """How a class of a script is pickled where that was loaded as a module; None for any other."""
    place = None if cls.__module__ == "__main__" else place_in_script(cls)
    return None if place is None else (class_of_script, (*place, cls.__module__))


def _by_main(cls: type[Any], reduced: Any) -> Any:
    """Cloudpickle's way for a class that goes by value, which a process that has the script need
    not go."""
    place = place_in_script(cls) if cls.__module__ == "__main__" else None
    if place is None or reduced is NotImplemented:
        return reduced
    make, args, state, _, _, fill = reduced
    return class_of_main, (*place, make, args), (fill, state), None, None, fill_class


def _look_at(thing: Any, limit: int) -> None:
    """Refuse what must not be written, before the pickler makes a copy of it."""
    if isinstance(thing, TaskFuture):
        raise TypeError("a future means nothing outside of its run; return its result instead")
    size = known_size(thing)
    if size is not None and size > limit:
        raise PastLimit(size)


def known_size(value: object) -> int | None:
    """About how many bytes an array, a frame, bytes or text take; None for anything else.

    Asks only libraries that are known to answer at once.
    """
    if type(value) is bytes or type(value) is str or type(value) is bytearray:
        return len(value)
    if type(value).__module__ == "builtins":
        return None
    for cls in type(value).__mro__:
        ask = _SIZES.get(cls.__module__.partition(".")[0])
        if ask is not None:
            try:
                return ask(value)
            except Exception:  # of a kind that has no such number
                return None
    return None


def _number_of_bytes(value: Any) -> int | None:
    nbytes = getattr(value, "nbytes", None)
    return None if nbytes is None else int(nbytes)  # some give a number of numpy's


def _pandas_size(value: Any) -> int | None:
    used = value.memory_usage(index=False, deep=False)
    return int(used.sum()) if hasattr(used, "sum") else int(used)


def _polars_size(value: Any) -> int | None:
    return value.estimated_size()


_SIZES: dict[str, Callable[[Any], int | None]] = {
    "numpy": _number_of_bytes,
    "pandas": _pandas_size,
    "polars": _polars_size,
    "pyarrow": _number_of_bytes,
}
