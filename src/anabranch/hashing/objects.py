"""How objects are written: by their type's name and what they are made of.

The first that fits: `__anabranch_key__()`, a member of an enum, the fields of a dataclass, attrs
class or pydantic model, what a subclass of a built-in type holds and its attributes, the attributes
of an object whose class was written in Python, or what its `__getstate__()` makes of them.
"""

from __future__ import annotations

import copyreg
import dataclasses
import enum
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

from anabranch.hashing import values
from anabranch.hashing.encoder import SCALARS, Encoder, Unencodable, Writer
from anabranch.hashing.functions import importable_name

_KEY = "__anabranch_key__"
_BUILT_IN = tuple(kind for kind in (*SCALARS, *values.WRITERS) if kind is not type(None))


def keyed_writer(kind: type[Any]) -> Writer | None:
    """What writes objects that give their own key."""
    return _write_keyed if hasattr(kind, _KEY) else None


def find_writer(kind: type[Any]) -> Writer | None:
    """What writes the objects of a type that has no writer of its own."""
    if issubclass(kind, enum.Enum):
        return _write_member
    pydantic = sys.modules.get("pydantic")
    if pydantic is not None and issubclass(kind, pydantic.BaseModel):
        return _write_model
    base = next((base for base in kind.__mro__ if base in _BUILT_IN), None)
    if base is not None:
        return _subclass_writer(base)
    if dataclasses.is_dataclass(kind):
        return _write_dataclass
    if hasattr(kind, "__attrs_attrs__"):
        return _write_attrs
    logging = sys.modules.get("logging")
    if logging is not None and issubclass(kind, logging.Logger):
        return _write_logger
    if issubclass(kind, BaseException):
        return _write_exception
    return None if kind is object else _write_other


def _write_keyed(encoder: Encoder, value: Any) -> None:
    encoder.typed(value, [(_KEY + "()", getattr(value, _KEY)())])


def _write_member(encoder: Encoder, value: enum.Enum) -> None:
    # object() as a value only tells members apart, which their names do.
    held = value._value_
    content = None if type(held) is object else held
    encoder.typed(value, [("name", value.name), ("value", content)])


def _write_dataclass(encoder: Encoder, value: Any) -> None:
    encoder.typed(value, _read(value, [each.name for each in dataclasses.fields(value)]))


def _write_attrs(encoder: Encoder, value: Any) -> None:
    encoder.typed(value, _read(value, [each.name for each in value.__attrs_attrs__]))


def _read(value: Any, names: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """Those of the attributes that are set."""
    missing = object()
    for name in names:
        part = getattr(value, name, missing)
        if part is not missing:
            yield name, part


def _write_model(encoder: Encoder, value: Any) -> None:
    """A pydantic model by what its own comparison looks at; cached properties are not fields."""
    fields: list[str] = sorted(value.__pydantic_fields__)
    extra: dict[str, Any] = value.__pydantic_extra__ or {}
    private: dict[str, Any] = value.__pydantic_private__ or {}
    encoder.typed(value, [*_read(value, fields), *sorted(extra.items()), *sorted(private.items())])


def _write_logger(encoder: Encoder, value: Any) -> None:
    encoder.typed(value, [("name", value.name)])


def _write_exception(encoder: Encoder, value: BaseException) -> None:
    fields: list[tuple[str, Any]] = [("args", value.args)]
    if isinstance(value, OSError):  # its files are not among its arguments
        fields += [("filename", value.filename), ("filename2", value.filename2)]
    encoder.typed(value, [*fields, *_attributes(vars(value))])


def _subclass_writer(base: type[Any]) -> Writer:
    """Writes what a subclass of a built-in type holds, as that type does, and its attributes."""

    def write(encoder: Encoder, value: Any) -> None:
        attributes = _attributes(_state(value, base))
        names: tuple[str, ...] = getattr(value, "_fields", ())
        if base is tuple and names and len(names) == len(value):
            held: list[Any] = list(_EXACT[tuple](value))
            encoder.typed(value, [*zip(names, held, strict=True), *attributes])
        else:
            encoder.typed(value, [("", _Base(base, value)), *attributes])

    return write


def _items_of(base: Any) -> Callable[[Any], Any]:
    """Takes what a value holds as a `base`, whatever its own `__iter__` says."""
    return lambda value: base(base.__iter__(value))


def _pairs_of(value: Any) -> Any:
    plain: Any = dict
    return plain(plain.items(value))


_EXACT: dict[type[Any], Callable[[Any], Any]] = {
    int: int.__int__,
    float: float.__float__,
    complex: complex.__complex__,
    str: str.__str__,
    dict: _pairs_of,
    **{base: _items_of(base) for base in (tuple, list, set, frozenset)},
}


class _Base:
    """What a value holds as an instance of one of its bases."""

    __slots__ = ("base", "value")

    def __init__(self, base: type[Any], value: Any) -> None:
        self.base = base
        self.value = value


def _write_base(encoder: Encoder, given: _Base) -> None:
    exact = _EXACT.get(given.base)
    if exact is not None:
        encoder.write(exact(given.value))
    else:
        values.WRITERS[given.base](encoder, given.value)


def _state(value: Any, base: type[Any]) -> dict[str, Any]:
    """The attributes that the classes above a base give an object, in `__dict__` or slots."""
    found: dict[str, Any] = dict(getattr(value, "__dict__", {}))
    for cls in type(value).__mro__:
        if cls is base:
            break
        slots: Any = cls.__dict__.get("__slots__", ())
        for slot in [slots] if isinstance(slots, str) else slots:
            name = f"_{cls.__name__.lstrip('_')}{slot}" if _is_private(slot) else slot
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                found[name] = getattr(value, name)
    return found


def _is_private(name: str) -> bool:
    return name.startswith("__") and not name.endswith("__")


def _attributes(found: dict[str, Any]) -> list[tuple[str, Any]]:
    return sorted(found.items())


def _has_plain_state(kind: type[Any]) -> bool:
    """Whether all that an object holds stands in its attributes: no class of its own makes copies
    in its own way, and none was made in C."""
    return (
        kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__reduce__ is object.__reduce__
        and kind not in copyreg.dispatch_table
        and kind.__itemsize__ == 0
    )


def _plain_state(value: Any, kind: type[Any]) -> list[tuple[str, Any]]:
    """What the class says that copies need, or else all attributes."""
    try:
        if kind.__getstate__ is not object.__getstate__:
            return [("__getstate__()", value.__getstate__())]
        object.__reduce_ex__(value, 2)  # refuses what holds more than its attributes
    except TypeError as error:  # as a lock or a socket raises
        raise Unencodable(value, f"it holds more than its attributes ({error})") from None
    return _attributes(_state(value, object))


def _write_other(encoder: Encoder, value: Any) -> None:
    kind = cast("type[Any]", type(value))
    wrapped = getattr(value, "__wrapped__", None)
    if wrapped is not None and callable(value):  # a decorated function, such as a task
        encoder.typed(value, [("__wrapped__", wrapped)])
    elif _has_plain_state(kind):
        encoder.typed(value, _plain_state(value, kind))
    elif callable(value) and (name := importable_name(value)):  # one of a library's, made in C
        encoder.typed(value, [("name", name)])
    else:
        raise Unencodable(value, "such objects have no lasting identity")


WRITERS: dict[type[Any], Writer] = {_Base: _write_base}
