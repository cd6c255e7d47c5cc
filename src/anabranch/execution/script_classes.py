"""Classes of scripts at rest: each process has the script under another module name, if at all.

A script is `__main__` where it is run, and a module of its own name where it was loaded to be
resumed; so its classes are found by the path of its file.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from operator import attrgetter
from types import ModuleType
from typing import Any

from anabranch.execution.functions import find_by_name, is_loaded_by_path


def place_in_script(cls: type[Any]) -> tuple[str, str] | None:
    """The file of the script that a class stands in, and its name there; None for other classes."""
    module: Any = getattr(cls, "__module__", None)
    if not isinstance(module, str) or "." in module or "<" in cls.__qualname__:
        return None
    path: str | None = getattr(sys.modules.get(module), "__file__", None)
    if path is None or not (module == "__main__" or _is_script(module, path)):
        return None
    return os.path.abspath(path), cls.__qualname__


@lru_cache(maxsize=256)
def _is_script(module: str, path: str) -> bool:
    return is_loaded_by_path(module, path)


def class_of_script(path: str, qualname: str, module: str) -> type[Any]:
    """The class of a script that has been loaded, or can be by its module's name."""
    found = _found(path, qualname)
    return find_by_name(module, qualname) if found is None else found


def class_of_main(path: str, qualname: str, make: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """The class of a script if that has been loaded; else one that is made, to be filled."""
    found = _found(path, qualname)
    return make(*args) if found is None else found


def fill_class(cls: type[Any], given: tuple[Callable[..., Any], Any]) -> None:
    """Give a class that was made what belongs to it; a script's own stays as it is."""
    fill, state = given
    place = place_in_script(cls)
    if place is None or _found(*place) is not cls:
        fill(cls, state)


def _found(path: str, qualname: str) -> type[Any] | None:
    for module in _modules_of(path):
        try:
            found = attrgetter(qualname)(module)
        except AttributeError:
            continue
        if isinstance(found, type):
            return found
    return None


def _modules_of(path: str) -> Iterator[ModuleType]:
    """The modules that were loaded from this file, the main one first."""
    real = os.path.realpath(path)
    name = os.path.basename(real)
    main = sys.modules.get("__main__")
    for module in (main, *list(sys.modules.values())):
        file = getattr(module, "__dict__", {}).get("__file__")
        if not isinstance(module, ModuleType) or not isinstance(file, str):
            continue
        if file.endswith(name) and os.path.realpath(file) == real:
            yield module
