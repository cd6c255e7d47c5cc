"""Futures inside arguments: found before a task runs, replaced by their values when it does.

They are looked for anywhere in lists, tuples, sets, dicts, dataclasses, pydantic models and
annotations. Objects that contain themselves are passed by.
"""

# pyright: reportPrivateUsage=false
# The engine's rooms share the slots of the run record, which are private to users.

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import fractions
import pathlib
import types
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeGuard

from pydantic import BaseModel

from anabranch.annotations import Annotation, allow_failure, opaque, quote
from anabranch.errors import FutureCycleError, NestingTooDeepError
from anabranch.futures import FutureList, TaskFuture
from anabranch.outcomes import COMPLETED, SETTLED, Away, RemoteValue

DEPTH_LIMIT = 150

ATOMS: frozenset[type] = frozenset(
    {
        *(int, float, complex, bool, str, bytes, bytearray, memoryview, type(None), type, range),
        *(types.FunctionType, types.BuiltinFunctionType, types.ModuleType, types.EllipsisType),
        *(dt.datetime, dt.date, dt.time, dt.timedelta, dt.timezone, uuid.UUID),
        *(decimal.Decimal, fractions.Fraction, pathlib.PosixPath, pathlib.PurePosixPath),
    }
)

Blockers = dict[TaskFuture[Any], bool]
"""Each future that is waited for, and whether its failure is allowed."""


def needs_search(args: Iterable[Any]) -> bool:
    """Whether any of these could hold a future; quick for plain values."""
    return not ATOMS.issuperset(map(type, args))


class Search:
    """The futures found in the arguments of one call."""

    def __init__(self, where: str) -> None:
        self.blockers: Blockers = {}
        self.annotated = False
        self.unknown = False  # whether there is a list whose own futures are not known yet
        self._where = where
        self._found: dict[int, bool] = {}
        self._path: set[int] = set()
        self._loops: set[int] = set()

    @property
    def needed(self) -> bool:
        """Whether the arguments are not yet what the task is to get."""
        return self.annotated or bool(self.blockers)

    def look(self, value: Any, allowed: bool = False, depth: int = 0) -> bool:
        """Search a value; whether it holds a future.

        Raises `FutureCycleError` for one inside an object that contains itself, and
        `NestingTooDeepError` past `DEPTH_LIMIT` levels.
        """
        kind: type[Any] = value.__class__
        if kind in ATOMS:
            return False
        if _is_future(value):
            self._add(value, allowed)
            return True
        parts = PARTS(kind)
        if parts is None:
            return False
        if depth > DEPTH_LIMIT:
            raise NestingTooDeepError(self._where, DEPTH_LIMIT)
        identity = id(value)
        if identity in self._path:
            self._loops.add(identity)
            return False
        if identity in self._found and not allowed:
            return self._found[identity]
        self._path.add(identity)
        if _is_annotation(value):
            self.annotated = True
            allowed = allowed or isinstance(value, allow_failure)
        source = None
        if _is_list(value):
            source = value._source
            self.annotated = True  # also an empty one is replaced by a plain list
        if source is not None and source._phase != COMPLETED:
            self._add(source, allowed)  # its children are not known yet
            self.unknown = found = True
        else:
            found = False
            for part in parts(value):
                found = self.look(part, allowed, depth + 1) or found
        self._path.discard(identity)
        if found and identity in self._loops:
            raise FutureCycleError(self._where)
        self._found[identity] = found
        return found

    def _add(self, future: TaskFuture[Any], allowed: bool) -> None:
        self.blockers[future] = allowed and self.blockers.get(future, True)


def find_blockers(where: str, *values: Any) -> Search:
    """Search these values for futures; `where` names them in errors."""
    search = Search(where)
    for value in values:
        search.look(value)
    return search


def _container_parts(value: Any) -> Iterator[Any]:
    if ATOMS.issuperset(map(type, value)):
        return iter(())
    return iter(value)


def _mapping_parts(value: Mapping[Any, Any]) -> Iterator[Any]:
    if not ATOMS.issuperset(map(type, value)):
        yield from value
    if not ATOMS.issuperset(map(type, value.values())):
        yield from value.values()


def _dataclass_parts(value: Any) -> Iterator[Any]:
    return (getattr(value, each.name, None) for each in dataclasses.fields(value))


def _model_parts(value: BaseModel) -> Iterator[Any]:
    yield from value.__dict__.values()
    yield from (value.__pydantic_extra__ or {}).values()


def _annotation_parts(value: Annotation[Any]) -> Iterator[Any]:
    return iter((value.value,))


def _no_parts(value: Any) -> Iterator[Any]:
    return iter(())


Parts = Callable[[Any], Iterator[Any]]


def PARTS(kind: type[Any]) -> Parts | None:  # noqa: N802  # a table with rows for whole families of types
    """How to look inside a value of this type; None where nothing is looked for."""
    if kind in _EXACT:
        return _EXACT[kind]
    if issubclass(kind, quote | opaque):
        return _no_parts
    if issubclass(kind, Annotation):
        return _annotation_parts
    if issubclass(kind, FutureList | list | tuple | set | frozenset | deque):
        return _container_parts
    if issubclass(kind, dict):
        return _mapping_parts
    if issubclass(kind, BaseModel):
        return _model_parts
    if hasattr(kind, "__dataclass_fields__"):
        return _dataclass_parts
    return None


_EXACT: dict[type, Parts] = {
    list: _container_parts,
    tuple: _container_parts,
    set: _container_parts,
    frozenset: _container_parts,
    dict: _mapping_parts,
}


def _is_future(value: Any) -> TypeGuard[TaskFuture[Any]]:
    return isinstance(value, TaskFuture)


def _is_list(value: Any) -> TypeGuard[FutureList[Any]]:
    return isinstance(value, FutureList)


def _is_annotation(value: Any) -> TypeGuard[Annotation[Any]]:
    return isinstance(value, Annotation)


def resolve(value: Any, runner: object = None) -> Any:
    """The value with each settled future in it replaced by its result.

    The failure of an allowed future is replaced by its exception. What holds no future comes back
    as the same object. A result that stays with this `runner` is replaced by its `RemoteValue`.
    """
    return _Resolver(runner).resolve(value)


class _Resolver:
    def __init__(self, runner: object) -> None:
        self._runner = runner
        self._done: dict[int, Any] = {}

    def resolve(self, value: Any) -> Any:
        kind: type[Any] = value.__class__
        if kind in ATOMS:
            return value
        if _is_future(value):
            if value._phase < SETTLED or value._phase == COMPLETED:
                return self._remote(value) or value._settled_result()
            return value._exception()  # only an allowed failure comes this far
        if PARTS(kind) is None:
            return value
        identity = id(value)
        if identity not in self._done:
            self._done[identity] = value  # what a cycle back to it finds
            self._done[identity] = self._rebuilt(value, kind)
        return self._done[identity]

    def _remote(self, future: TaskFuture[Any]) -> RemoteValue | None:
        outcome = future._outcome
        if outcome is None or type(outcome.value) is not Away:
            return None
        remote = outcome.value.remote
        return remote if remote is not None and remote.home is self._runner else None

    def _rebuilt(self, value: Any, kind: Any) -> Any:
        if _is_annotation(value):
            quoted = isinstance(value, quote | opaque)
            return value.value if quoted else self.resolve(value.value)
        if _is_list(value):
            return [self.resolve(future) for future in value]
        parts = PARTS(kind)
        if parts is _mapping_parts:
            return self._rebuilt_dict(value, kind)
        if parts is _model_parts:
            changed = self._changed(value.__dict__)
            return value.model_copy(update=changed) if changed else value
        if parts is _dataclass_parts:
            names = [each.name for each in dataclasses.fields(kind)]
            fields = {name: getattr(value, name) for name in names if hasattr(value, name)}
            return _with_fields(value, names, self._changed(fields))
        old: list[Any] = list(value)
        new = [self.resolve(item) for item in old]
        if all(a is b for a, b in zip(old, new, strict=True)):
            return value
        if hasattr(kind, "_make"):
            return kind._make(new)  # a named tuple
        return kind(new)

    def _rebuilt_dict(self, value: dict[Any, Any], kind: type) -> Any:
        new = {self.resolve(key): self.resolve(item) for key, item in value.items()}
        pairs = zip(value.items(), new.items(), strict=False)
        if len(new) == len(value) and all(k is n and i is m for (k, i), (n, m) in pairs):
            return value
        if kind is dict:
            return new
        copied: Any = (
            value.copy()
        )  # keeps what a subclass has of its own, such as a default factory
        copied.clear()
        copied.update(new)
        return copied

    def _changed(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        resolved = {name: self.resolve(item) for name, item in fields.items()}
        return {name: item for name, item in resolved.items() if item is not fields[name]}


def _with_fields(value: Any, names: Iterable[str], changed: Mapping[str, Any]) -> Any:
    """A copy of a dataclass instance, frozen ones included, with these fields changed."""
    if not changed:
        return value
    copied: Any = object.__new__(value.__class__)
    kept = {name: getattr(value, name) for name in names if hasattr(value, name)}
    for name, item in {**getattr(value, "__dict__", {}), **kept, **changed}.items():
        object.__setattr__(copied, name, item)
    return copied
