"""Values on their way to another process, and what is said about those that cannot go."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FunctionType
from typing import Any

import cloudpickle  # pyright: ignore[reportMissingTypeStubs]  # it has none

from anabranch.errors import AnabranchError, RemoteTaskError, RemoteTraceback, UnpicklableError

PROTOCOL = 5
_by_value: Callable[[Any, int], bytes] = cloudpickle.dumps  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  # as above
DEEPEST = 20
"""Levels into a value that the search for its unpicklable part goes."""


def dumps(value: Any, what: str, names: Sequence[str] = ("value",)) -> bytes:
    """The value as bytes; raises `UnpicklableError` that names `what` and the offending part.

    With more than one name, `value` is a tuple, and the names are those of its items.
    """
    try:
        return _dumps(value)
    except Exception as error:
        named = dict(zip(names, value if len(names) > 1 else (value,), strict=True))
        path, reason = _offender(named, error)
        raise UnpicklableError(what, path, reason) from error


def loads(data: bytes) -> Any:
    """The other end of `dumps`; raises whatever the value's own code raises."""
    return pickle.loads(data)


def _dumps(value: Any) -> bytes:
    if not cloudpickle.list_registry_pickle_by_value():
        try:
            data = pickle.dumps(value, PROTOCOL)
        except Exception:  # a lambda, a local class: cloudpickle sends those by value
            return _by_value(value, PROTOCOL)
        if b"__main__" not in data:  # another process has another main module
            return data
    return _by_value(value, PROTOCOL)


# -- exceptions -----------------------------------------------------------------------------------


def portable_exception(error: BaseException) -> bytes:
    """An exception and its traceback's text as bytes, for `received_exception`.

    One that would not arrive as it is, becomes a `RemoteTaskError`.
    """
    text = "".join(traceback.format_exception(error))
    for made in (_as_it_is, _by_its_parts):
        try:
            data = _by_value((*made(error), text), PROTOCOL)
            if type(received_exception(data)) is type(error):
                return data
        except Exception:  # whatever its own code does: there is the next way
            continue
    stand_in = RemoteTaskError(type(error).__qualname__, _text_of(error), text)
    return _by_value((*_as_it_is(stand_in), text), PROTOCOL)


def received_exception(data: bytes) -> BaseException:
    """The exception, with its traceback in the other process as its cause."""
    error, made_from, text = loads(data)
    if error is None:
        cls, args, attributes = made_from
        error = cls.__new__(cls)
        error.args = args
        error.__dict__.update(attributes)
    error.__cause__ = RemoteTraceback(text)
    return error


def _as_it_is(error: BaseException) -> tuple[Any, Any]:
    return error, None


def _by_its_parts(error: BaseException) -> tuple[Any, Any]:
    """Our own errors build their message, so that their `args` do not fit their `__init__`."""
    if not isinstance(error, AnabranchError):
        raise TypeError
    return None, (type(error), error.args, dict(error.__dict__))


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "(its text cannot be made)"


# -- the search for the part that cannot be pickled -----------------------------------------------


def _offender(named: Mapping[str, Any], error: Exception) -> tuple[str, str]:
    """The path of the deepest part that cannot be pickled, and why."""
    parts: Iterator[tuple[str, Any]] = iter(named.items())
    path, seen = next(iter(named)), set[int]()
    for _ in range(DEEPEST):
        found = _first_bad(parts, seen)
        if found is None:
            break
        label, value, error = found
        path = label if not seen else path + label
        seen.add(id(value))
        parts = _parts(value)
    return path, str(error).splitlines()[0] if str(error) else type(error).__name__


def _first_bad(
    parts: Iterator[tuple[str, Any]], seen: set[int]
) -> tuple[str, Any, Exception] | None:
    for label, value in parts:
        if id(value) in seen:
            continue
        try:
            _by_value(value, PROTOCOL)
        except Exception as error:
            return label, value, error
    return None


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What a value is made of, with how Python code would reach it."""
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
