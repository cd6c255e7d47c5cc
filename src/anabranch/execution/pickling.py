"""Values on their way to another process, and what is said about those that cannot go.

Functions that can be imported go by name, also those that stand under the name of their task;
futures go as references, which the other end gives a meaning, and values that stay on a cluster as
places in a list that travels beside them.
"""

from __future__ import annotations

import copyreg
import functools
import io
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from types import FunctionType
from typing import Any, Final, Protocol, cast

import cloudpickle  # pyright: ignore[reportMissingTypeStubs]  # it has none

from anabranch.errors import UnpicklableError
from anabranch.execution.functions import find_by_name, function_by_name, importable_name
from anabranch.futures import TaskFuture
from anabranch.outcomes import RemoteValue

PROTOCOL = 5
DEEPEST = 20
"""Levels into a value that the search for its unpicklable part goes."""


class Futures(Protocol):
    """Knows the futures that references stand for."""

    def future(self, prefix: int, key: int) -> TaskFuture[Any]: ...


def dumps(value: Any, what: str | Callable[[], str], names: Sequence[str] = ("value",)) -> bytes:
    """The value as bytes; raises `UnpicklableError` that names `what`, and the offending part.

    With more than one name, `value` is a tuple, and the names are those of its items.
    """
    try:
        return _dumps(value)
    except Exception as error:
        named = list(zip(names, value if len(names) > 1 else (value,), strict=True))
        path, reason = offender(named, error, _by_value)
        told = what if isinstance(what, str) else what()
        raise UnpicklableError(told, path, reason) from error


def dumps_apart(
    value: Any, what: Callable[[], str], names: Sequence[str] = ("value",)
) -> tuple[bytes, list[RemoteValue]]:
    """The same, with the remote values in it, which go by another way."""
    apart: list[RemoteValue] = []
    try:
        return _dumps(value, apart), apart
    except Exception as error:
        named = list(zip(names, value if len(names) > 1 else (value,), strict=True))
        path, reason = offender(named, error, lambda part: _by_value(part, []))
        raise UnpicklableError(what(), path, reason) from error


def loads(data: bytes, futures: Futures | None = None, values: Sequence[Any] = ()) -> Any:
    """The other end of `dumps`, and of `dumps_apart` with the `values`; raises whatever the value's
    own code raises."""
    if not values and (futures is None or FUTURE_MARK not in data):
        return pickle.loads(data)
    return _Unpickler(data, futures, values).load()


def _dumps(value: Any, apart: list[RemoteValue] | None = None) -> bytes:
    if not cloudpickle.list_registry_pickle_by_value():
        try:
            data = _plain(value)
        except Exception:  # a lambda, a local class, a future: the other way can send those
            return _by_value(value, apart)
        if b"__main__" not in data:  # another process has another main module
            return data
    return _by_value(value, apart)


FOREIGN: Final = "tblib.pickling_support"
"""What Dask loads: it makes pickles of all exceptions its own, which lose attributes such as the
message of a SyntaxError."""


def _plain(value: Any) -> bytes:
    if FOREIGN not in sys.modules:
        return pickle.dumps(value, PROTOCOL)
    file = io.BytesIO()
    pickler = pickle.Pickler(file, PROTOCOL)
    pickler.dispatch_table = _reducers(len(copyreg.dispatch_table))
    pickler.dump(value)
    return file.getvalue()


@functools.lru_cache(maxsize=1)
def _reducers(count: int) -> dict[type, Callable[[Any], Any]]:
    """Those that are registered, by now so many, but for the foreign ones."""
    return {
        each: reducer
        for each, reducer in list(copyreg.dispatch_table.items())
        if reducer.__module__ != FOREIGN
    }


def _by_value(value: Any, apart: list[RemoteValue] | None = None) -> bytes:
    file = io.BytesIO()
    pickler = ByValuePickler(file, PROTOCOL)
    pickler.apart = apart
    pickler.dump(value)  # pyright: ignore[reportUnknownMemberType]  # untyped there
    return file.getvalue()


class ByValuePickler(cloudpickle.Pickler):
    """Cloudpickle, with what it does not know: our futures, functions behind their task, and where a
    class stands in its module. `apart` takes remote values, where those can go."""

    apart: list[RemoteValue] | None = None

    def reducer_override(self, obj: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]  # untyped there
        if type(obj) is RemoteValue and self.apart is not None:
            self.apart.append(obj)
            return value_at, (len(self.apart) - 1,)
        if isinstance(obj, BaseException) and FOREIGN in sys.modules:
            return obj.__reduce_ex__(PROTOCOL)
        if isinstance(obj, TaskFuture):
            return future_at, obj._shared.home.reference(obj)  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType, reportUnknownArgumentType]  # the record's own
        if type(obj) is FunctionType and not cloudpickle.list_registry_pickle_by_value():
            name = importable_name(obj)
            if name is not None and find_by_name(*name) is not obj:  # it stands behind its task
                return function_by_name, name
        reduced = cast(Any, super()).reducer_override(obj)  # untyped there
        if isinstance(obj, type) and isinstance(reduced, tuple):
            parts = cast(tuple[Any, ...], reduced)
            if len(parts) == 6:  # a class by value
                make, args, (state, slots), *rest = parts
                return make, args, ({**state, "__qualname__": obj.__qualname__}, slots), *rest
        return cast(Any, reduced)


def future_at(prefix: int, key: int) -> TaskFuture[Any]:
    """What stands for a future in a pickle; only `loads` can give it a meaning."""
    raise TypeError("A future means nothing outside of the run that it belongs to.")


def value_at(index: int) -> Any:
    """What stands for a value that goes by another way."""
    raise TypeError("A value that came by another way is missing.")


FUTURE_MARK = future_at.__name__.encode()


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, futures: Futures | None, values: Sequence[Any]) -> None:
        super().__init__(io.BytesIO(data))
        self._futures = futures
        self._values = values

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if module_name == __name__:
            if global_name == future_at.__name__ and self._futures is not None:
                return self._futures.future
            if global_name == value_at.__name__:
                return self._values.__getitem__
        return super().find_class(module_name, global_name)


# -- the search for the part that cannot be pickled -----------------------------------------------


def offender(
    named: Sequence[tuple[str, Any]], error: Exception, attempt: Callable[[Any], object]
) -> tuple[str, str]:
    """The path of the deepest part at which `attempt` raises, and why."""
    parts: Iterator[tuple[str, Any]] = iter(named)
    path, seen = named[0][0], set[int]()
    for _ in range(DEEPEST):
        found = _first_bad(parts, seen, attempt)
        if found is None:
            break
        label, value, error = found
        path = label if not seen else path + label
        seen.add(id(value))
        parts = _parts(value)
    return path, str(error).splitlines()[0] if str(error) else type(error).__name__


def _first_bad(
    parts: Iterator[tuple[str, Any]], seen: set[int], attempt: Callable[[Any], object]
) -> tuple[str, Any, Exception] | None:
    for label, value in parts:
        if id(value) in seen:
            continue
        try:
            attempt(value)
        except Exception as error:
            return label, value, error
    return None


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What a value is made of, with how Python code would reach it."""
    if isinstance(value, TaskFuture):  # goes, or is refused, as a whole
        return
    yield from _items(value)
    for name, item in getattr(value, "__dict__", {}).items():
        yield f".{name}", item
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, name):
                yield f".{name}", getattr(value, name)


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """The parts that are not attributes: those of containers, and what a function refers to."""
    if isinstance(value, dict):
        for key, item in value.items():  # pyright: ignore[reportUnknownVariableType]  # a user's own
            yield f"[{key!r}]", item
    elif isinstance(value, list | tuple | set | frozenset):
        for number, item in enumerate(value):  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]  # a user's own
            yield f"[{number}]", item
    elif isinstance(value, FunctionType):
        code = value.__code__
        for name, cell in zip(code.co_freevars, value.__closure__ or (), strict=False):
            try:
                yield f".{name}", cell.cell_contents
            except ValueError:  # not filled yet
                continue
        for name in code.co_names:
            if name in value.__globals__:
                yield f".{name}", value.__globals__[name]
