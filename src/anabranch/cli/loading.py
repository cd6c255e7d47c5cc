"""Flows and tasks from `FILE`, `FILE:NAME` or `module:NAME`.

A file is loaded as the module that its stem names, with its folder first on the path: so it has a
name by which worker processes, and later ones, find it again. What stands behind its main guard does
not run.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterable
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import anabranch
from anabranch.errors import FlowFileError

if TYPE_CHECKING:
    from anabranch.flows import Flow
    from anabranch.tasks import Task


def load_flow(given: str) -> Flow[..., Any]:
    """The flow that `given` names, or the only one in its file. Raises `FlowFileError`."""
    return _load(given, anabranch.Flow, "flow")  # loads the engine, which other commands spare


def load_task(given: str) -> Task[..., Any]:
    """The same for a task."""
    return _load(given, anabranch.Task, "task")


def _load(given: str, kind: type[Any], noun: str) -> Any:
    module, name = _module_and_name(given)
    if name:
        return _named(given, module, name, kind, noun)
    its_own = {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, kind) and getattr(value, "__module__", None) == module.__name__
    }
    if len(its_own) == 1:
        return next(iter(its_own.values()))
    if not its_own:
        raise FlowFileError(given, f"there is no {noun} in it, no function decorated with @{noun}.")
    listed = ", ".join(f"{given}:{key}" for key in its_own)
    raise FlowFileError(given, f"it has several {noun}s; say which one: {listed}.")


def _named(given: str, module: ModuleType, name: str, kind: type[Any], noun: str) -> Any:
    try:
        found = attrgetter(name)(module)
    except AttributeError:
        found = None
    if isinstance(found, kind):
        return found
    known = {key: value for key, value in vars(module).items() if isinstance(value, kind)}
    for value in known.values():
        if getattr(value, "name", None) == name:
            return value
    told = f"it has: {', '.join(known)}" if known else f"it has no {noun}s"
    what = f"there is no {noun} {name!r}" if found is None else f"{name!r} is not a {noun}"
    raise FlowFileError(given, f"{what} in it; {told}.")


def _module_and_name(given: str) -> tuple[ModuleType, str]:
    head, colon, name = given.rpartition(":")
    if not colon or Path(given).exists():
        head, name = given, ""
    if head.endswith(".py") or os.sep in head or Path(head).exists():
        return load_file(Path(head)), name
    if not colon:
        problem = "there is no such file. A module is given as module:name, a file as file.py."
        raise FlowFileError(given, problem)
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(head), name
    except ModuleNotFoundError as error:
        if error.name is None or not (head == error.name or head.startswith(error.name + ".")):
            raise  # something that the module itself imports
        raise FlowFileError(given, f"there is no module {head!r}, and no such file.") from None


def load_file(path: Path) -> ModuleType:
    """The file as a module. Raises `FlowFileError`, and whatever its own code raises."""
    place = path.resolve()
    if not place.is_file():
        raise FlowFileError(str(path), "there is no such file.")
    name = place.stem
    if place.suffix != ".py" or "." in name:
        raise FlowFileError(str(path), "it needs a name like a module's: letters, then .py.")
    if str(place.parent) not in sys.path[:1]:
        sys.path.insert(0, str(place.parent))
    importlib.invalidate_caches()
    if name not in sys.modules and name in sys.stdlib_module_names:
        raise _taken(path, name)
    _forget_compiled(place)
    module = importlib.import_module(name)
    file = getattr(module, "__file__", None)
    if file is None or Path(file).resolve() != place:
        raise _taken(path, name)
    return module


def _forget_compiled(place: Path) -> None:
    """Python takes a file for unchanged that has its old size and was written in the same second;
    what runs here has to be what the file says."""
    try:
        Path(importlib.util.cache_from_source(place)).unlink(missing_ok=True)
    except (OSError, NotImplementedError):  # not ours to remove, or there is no such cache
        pass


def _taken(path: Path, name: str) -> FlowFileError:
    problem = f"the name {name!r} is that of another module. Rename the file."
    return FlowFileError(str(path), problem)


def parse_parameters(given: Iterable[str]) -> dict[str, Any]:
    """`k=v` texts as keywords; values are JSON where they parse as that, else text."""
    parameters: dict[str, Any] = {}
    for each in given:
        name, equals, text = each.partition("=")
        if not equals or not name.isidentifier():
            problem = "a parameter is given as name=value, such as --param limit=10."
            raise FlowFileError(each, problem)
        try:
            parameters[name] = json.loads(text)
        except ValueError:
            parameters[name] = text
    return parameters
