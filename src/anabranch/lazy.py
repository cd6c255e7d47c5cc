"""Names of a package that load when they are first used."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy(
    module: str, homes: Mapping[str, str], names: dict[str, Any], package: str | None = None
) -> Callable[[str], Any]:
    """A module's `__getattr__`. `homes` says in which module of the package, its own if none is given,
    a name stands; `names` are its globals, which keep what was found. It raises `AttributeError`."""

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        home = importlib.import_module(f"{package or module}.{homes[name]}")
        value = names[name] = getattr(home, name)
        return value

    return find
