"""User functions: which kind one is, and how it travels to another process.

A function that can be imported travels as its module and name; any other by value. So do tasks and
flows, which stay the same object when they come back to where they were.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import uuid
from collections.abc import Callable
from operator import attrgetter
from pathlib import PurePath
from typing import Any, Final, SupportsIndex
from weakref import WeakValueDictionary

SYNC: Final = 0
ASYNC: Final = 1
GENERATOR: Final = 2
ASYNC_GENERATOR: Final = 3


def function_kind(fn: Callable[..., Any]) -> int:
    """SYNC, ASYNC, GENERATOR or ASYNC_GENERATOR, looked for behind partials and call methods."""
    target: Any = inspect.unwrap(fn)
    while hasattr(target, "func") and callable(target.func):
        target = target.func
    if not (inspect.isroutine(target) or inspect.isclass(target)):
        target = getattr(target.__class__, "__call__", target)  # noqa: B004  # wanted: the method itself
    if inspect.isasyncgenfunction(target):
        return ASYNC_GENERATOR
    if inspect.iscoroutinefunction(target):
        return ASYNC
    if inspect.isgeneratorfunction(target):
        return GENERATOR
    return SYNC


def function_key(fn: Callable[..., Any]) -> str:
    """`module:qualname`, with the script's stem for `__main__`."""
    module = getattr(fn, "__module__", None) or "unknown"
    if module == "__main__":
        path = getattr(sys.modules.get("__main__"), "__file__", None)
        module = PurePath(path).stem if path else "__main__"
    return f"{module}:{getattr(fn, '__qualname__', type(fn).__qualname__)}"


def function_entrypoint(fn: Callable[..., Any]) -> str | None:
    """Where another process finds a function: `module:name`, or `/path/file.py:name` for what only
    a script has; None where it has no name that leads to it."""
    module = getattr(fn, "__module__", None)
    qualname: str = getattr(fn, "__qualname__", "<")
    if module is None or "<" in qualname:
        return None
    loaded = sys.modules.get(module)
    path = getattr(loaded, "__file__", None)
    spec = getattr(loaded, "__spec__", None)
    if module != "__main__" and spec is not None and not is_loaded_by_path(module, path):
        return f"{module}:{qualname}"
    if module == "__main__" and spec is not None:  # run with `python -m`
        return f"{spec.name}:{qualname}"
    return None if path is None else f"{os.path.abspath(path)}:{qualname}"


def is_loaded_by_path(module: str, path: str | None) -> bool:
    """Whether a module was loaded from a file that its name does not lead to from elsewhere."""
    if path is None or "." in module:
        return False
    folder = os.path.dirname(os.path.abspath(path))
    installed = any(
        os.path.abspath(each) == folder and "site-packages" in each for each in sys.path if each
    )
    return not installed and PurePath(path).stem == module


def find_by_name(module: str, qualname: str) -> Any:
    """What stands under this name in a module, imported if need be."""
    return attrgetter(qualname)(importlib.import_module(module))


def importable_name(thing: Any) -> tuple[str, str] | None:
    """The module and name under which another process finds `thing`, or None.

    A decorated function counts where its task or flow stands under its name.
    """
    module = getattr(thing, "__module__", None)
    qualname = getattr(thing, "__qualname__", None)
    if module is None or qualname is None or module == "__main__" or "<" in qualname:
        return None
    loaded = sys.modules.get(module)
    if loaded is None or getattr(loaded, "__spec__", None) is None:
        return None
    try:
        found = attrgetter(qualname)(loaded)
    except AttributeError:
        return None
    if found is thing or getattr(found, "fn", None) is thing:
        return module, qualname
    return None


def function_by_name(module: str, qualname: str) -> Callable[..., Any]:
    """The plain function under this name, taken out of its task or flow."""
    found = find_by_name(module, qualname)
    return getattr(found, "fn", found)


_travelled: WeakValueDictionary[str, Any] = WeakValueDictionary()
"""Tasks and flows that went by value, or came so, by a token of their own."""


class Traveller:
    """A task or flow: pickled by name where that leads back to it, else by value, with a token by
    which each process knows it again."""

    fn: Callable[..., Any]

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        name = importable_name(self.fn)
        if name is not None and find_by_name(*name) is self:
            return find_by_name, name
        token: str = self.__dict__.setdefault("_token", uuid.uuid4().hex)
        _travelled[token] = self
        state = {name: value for name, value in self.__dict__.items() if name != "parameters"}
        return _known_again, (type(self), token), state  # state apart: it may lead back here

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "fn" not in self.__dict__:  # else it is the one that once left
            self.__dict__.update(state)


def _known_again(cls: type[Traveller], token: str) -> Traveller:
    thing = _travelled.get(token)
    if thing is None:
        thing = _travelled[token] = cls.__new__(cls)
    return thing
