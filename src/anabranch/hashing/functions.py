"""How code is written: functions, methods, classes and modules' names, each by what it does.

What the standard library holds counts by name alone: its sources change with the version.
"""

from __future__ import annotations

import functools
import inspect
import sys
import sysconfig
import types
import typing
from typing import Any, NamedTuple, cast

from anabranch.hashing.encoder import Encoder, Unencodable, Writer, module_name, type_name
from anabranch.hashing.sources import Source, source_of_class, source_of_code

_ALIAS = type(typing.List[int]).__mro__[1]  # noqa: UP006  # the base of what `typing` makes
_MOST_WRAPPERS = 100
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: what a class statement makes, and few types in C


class Behaviour(NamedTuple):
    """What a callable does, apart from its name; `bytecode` lets code without source count."""

    fn: Any
    bytecode: bool


class _Whole(NamedTuple):
    """The same for a function as it stands, with nothing taken off."""

    fn: Any
    bytecode: bool


class _NoSource(NamedTuple):
    """Stands for code that has no source, by its bytecode."""

    code: types.CodeType


_PRINTS = "anabranch.logging"
"""Where the `print` is that stands for Python's own."""


def told_name(fn: Any) -> str:
    """What errors call a function."""
    return str(getattr(fn, "__qualname__", None) or type(fn).__qualname__)


def find_writer(kind: type[Any]) -> Writer | None:
    """What writes classes, whatever their metaclass, and the aliases of `typing`."""
    if issubclass(kind, type):
        return _write_class
    if issubclass(kind, type(typing.Optional)):
        return _write_form
    return _write_alias if issubclass(kind, _ALIAS) else None


def importable_name(value: Any) -> str | None:
    """`module:name` of what stands under its own name in a module; None for anything else."""
    module = getattr(value, "__module__", None) or type(value).__module__
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    loaded = sys.modules.get(module) if isinstance(module, str) else None
    if loaded is None or module == "__main__" or not isinstance(name, str):
        return None
    return f"{module}:{name}" if getattr(loaded, name, None) is value else None


def _is_standard(module: str | None) -> bool:
    if not module or module.partition(".")[0] not in sys.stdlib_module_names:
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is None or file.startswith(_paths("stdlib", "platstdlib"))  # no user's of that name


@functools.cache
def _paths(*names: str) -> tuple[str, ...]:
    return tuple(sysconfig.get_path(name) for name in names)


def _write_function(encoder: Encoder, fn: types.FunctionType) -> None:
    stood_for = fn.__dict__.get("stands_for") if fn.__module__ == _PRINTS else None
    if stood_for is not None:  # a key is the same in a flow that logs prints
        encoder.write(stood_for)
        return
    name = f"{module_name(fn.__module__)}:{fn.__qualname__}"
    if _is_standard(fn.__module__):
        encoder.named("function", name)
    else:
        encoder.named("function", name)
        encoder.fields([("", _Whole(fn, False))])


def _write_class(encoder: Encoder, cls: type[Any]) -> None:
    encoder.named("class", type_name(cls))
    if not _is_standard(cls.__module__) and _is_made_in_python(cls):
        encoder.fields([("", Behaviour(cls, False))])


def _is_made_in_python(cls: type[Any]) -> bool:
    file = getattr(sys.modules.get(cls.__module__), "__file__", None) or ""
    return bool(cls.__flags__ & _HEAP_TYPE) and not file.endswith((".so", ".pyd"))


def _is_installed(module: str) -> bool:
    """Whether a module comes with a package, so that a name is enough to know its classes."""
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    return file.startswith(_paths("purelib", "platlib"))


def _write_behaviour(encoder: Encoder, given: Behaviour) -> None:
    """A decorated function counts with what is around it, unless that closes over something that
    has no identity; then what it wraps counts alone."""
    wrapped = getattr(given.fn, "__wrapped__", None)
    if isinstance(given.fn, types.FunctionType) and isinstance(wrapped, types.FunctionType):
        try:
            encoder.out += encoder.apart(_Whole(given.fn, given.bytecode), "")
            return
        except Unencodable:
            given = Behaviour(wrapped, given.bytecode)
    _write_whole(encoder, _Whole(_plain(given.fn), given.bytecode))


def _write_whole(encoder: Encoder, given: _Whole) -> None:
    fn, bytecode = given
    kind = cast("type[Any]", type(fn))
    if kind is functools.partial:
        inner = Behaviour(fn.func, bytecode)
        encoder.fields([("func", inner), ("args", fn.args), ("keywords", fn.keywords)])
    elif isinstance(fn, types.FunctionType):
        _write_function_behaviour(encoder, fn, bytecode)
    elif isinstance(fn, type):
        _write_class_behaviour(encoder, cast("type[Any]", fn))
    elif isinstance(fn, types.BuiltinFunctionType):
        encoder.write(fn)
    else:
        _write_class_behaviour(encoder, kind)


def _plain(fn: Any) -> Any:
    """The function inside what methods, tasks and caches put around it."""
    for _ in range(_MOST_WRAPPERS):  # an object may answer whatever it is asked
        inner = getattr(fn, "__func__", None) or getattr(fn, "__wrapped__", None)
        if inner is None or isinstance(fn, (type, types.FunctionType)):
            break
        fn = inner
    return fn


def _write_function_behaviour(encoder: Encoder, fn: types.FunctionType, bytecode: bool) -> None:
    encoder.fields(
        [
            ("source", _source(fn, bytecode)),
            ("closure", _closure(fn)),
            ("named", _named_functions(fn, bytecode)),
        ]
    )
    defaults = (fn.__defaults__, fn.__kwdefaults__)
    try:
        encoder.out += encoder.apart(defaults, "")
    except Unencodable:  # such as a bare object() that says "not given": its source counts
        encoder.write(None)


def _source(fn: types.FunctionType, bytecode: bool) -> bytes | _NoSource:
    found = source_of_code(fn.__code__)
    if found is not None:
        return found.digest
    if not bytecode:
        raise Unencodable(fn, "its source cannot be read")
    return _NoSource(fn.__code__)


def _closure(fn: types.FunctionType) -> dict[str, Any]:
    """The values that a function closes over; the class that `super()` needs, by name."""
    found: dict[str, Any] = {}
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        try:
            value = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
        found[name] = type_name(value) if name == "__class__" else value
    return found


def _named_functions(fn: types.FunctionType, bytecode: bool) -> dict[str, Any]:
    """The sources of the functions of its module that a function names, and that those name."""
    found: dict[str, bytes | _NoSource] = {}
    to_read = [fn]
    while to_read:
        for name in _names(to_read.pop()):
            if name in found or name not in fn.__globals__:
                continue
            named = inspect.unwrap(_plain(fn.__globals__[name]))
            if isinstance(named, types.FunctionType) and named.__globals__ is fn.__globals__:
                found[name] = _source(named, bytecode)
                to_read.append(named)
    return found


def _names(fn: types.FunctionType) -> frozenset[str]:
    found: Source | None = source_of_code(fn.__code__)
    return frozenset(_names_in(fn.__code__)) if found is None else found.names


def _names_in(code: types.CodeType) -> set[str]:
    inner = [_names_in(each) for each in code.co_consts if isinstance(each, types.CodeType)]
    return set(code.co_names).union(*inner)


def _write_class_behaviour(encoder: Encoder, cls: type[object]) -> None:
    """The class's own source, and those of its bases in the same module."""
    found: dict[str, bytes] = {}
    for each in cls.__mro__:
        if each.__module__ == cls.__module__:
            source = source_of_class(each)
            if source is not None:
                found[each.__qualname__] = source.digest
            elif not _is_installed(cls.__module__):
                raise Unencodable(cls, "its source cannot be read")
    encoder.fields([("source", found)])


def _write_bytecode(encoder: Encoder, given: _NoSource) -> None:
    code = given.code
    constants = [_NoSource(c) if isinstance(c, types.CodeType) else c for c in code.co_consts]
    variables = (code.co_varnames, code.co_freevars, code.co_cellvars)
    encoder.fields(
        [
            ("python", sys.implementation.cache_tag),
            ("code", code.co_code),
            ("constants", constants),
            ("names", (code.co_names, *variables, code.co_argcount, code.co_flags)),
            ("counts", (code.co_posonlyargcount, code.co_kwonlyargcount)),
            ("exceptions", code.co_exceptiontable),
        ]
    )


def _write_method(encoder: Encoder, value: types.MethodType) -> None:
    encoder.named("method", (value.__self__, value.__func__))


def _write_builtin(encoder: Encoder, value: Any) -> None:
    owner = value.__self__
    if owner is None or isinstance(owner, types.ModuleType):
        encoder.named("builtin", f"{value.__module__}:{value.__qualname__}")
    else:
        encoder.named("builtin method", (owner, value.__name__))


def _write_descriptor(encoder: Encoder, value: Any) -> None:
    encoder.named("descriptor", f"{type_name(value.__objclass__)}.{value.__name__}")


def _write_alias(encoder: Encoder, value: Any) -> None:
    origin = typing.get_origin(value)
    union = origin in (typing.Union, types.UnionType)  # Union[int, str] and int | str are equal
    encoder.named("alias", ("union" if union else origin, typing.get_args(value)))


def _write_form(encoder: Encoder, value: Any) -> None:
    encoder.named("typing form", str(value))


def _write_cached(encoder: Encoder, value: Any) -> None:
    encoder.named("cached function", value.__wrapped__)


WRITERS: dict[type[Any], Writer] = {
    Behaviour: _write_behaviour,
    _Whole: _write_whole,
    _NoSource: _write_bytecode,
    types.FunctionType: _write_function,
    types.MethodType: _write_method,
    types.BuiltinFunctionType: _write_builtin,
    types.MethodWrapperType: _write_builtin,
    types.MethodDescriptorType: _write_descriptor,
    types.WrapperDescriptorType: _write_descriptor,
    types.ClassMethodDescriptorType: _write_descriptor,
    types.GetSetDescriptorType: _write_descriptor,
    types.MemberDescriptorType: _write_descriptor,
    types.GenericAlias: _write_alias,
    type(int | str): _write_alias,
    type(functools.cache(told_name)): _write_cached,
}
