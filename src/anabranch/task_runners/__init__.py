"""Task runners: where a flow's tasks run, chosen by an instance, a class or a string."""

from __future__ import annotations

import importlib
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from anabranch.errors import UnknownTaskRunnerError
from anabranch.task_runners.base import TaskRunner as TaskRunner

ENTRY_POINTS = "anabranch.task_runners"

_LAZY = {
    "InlineTaskRunner": "anabranch.task_runners.inline",
    "ThreadPoolTaskRunner": "anabranch.task_runners.threads",
    "AsyncioTaskRunner": "anabranch.task_runners.asyncio",
    "ProcessPoolTaskRunner": "anabranch.task_runners.processes",
    "DaskTaskRunner": "anabranch.task_runners.dask",
    "RayTaskRunner": "anabranch.task_runners.ray",
}
_SCHEMES = {
    "inline": "InlineTaskRunner",
    "threads": "ThreadPoolTaskRunner",
    "asyncio": "AsyncioTaskRunner",
    "processes": "ProcessPoolTaskRunner",
    "dask": "DaskTaskRunner",
    "ray": "RayTaskRunner",
}
_WITH_TARGET = frozenset({"dask", "ray"})


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def task_runner(given: TaskRunner | type[TaskRunner] | str) -> TaskRunner:
    """The runner that an instance, a class or a string stands for.

    Strings are `scheme`, `scheme?option=value` or `scheme://target?option=value`; in
    `scheme+protocol://target` the target that the runner gets is `protocol://target`. Raises
    `UnknownTaskRunnerError` and `TaskRunnerOptionError`.
    """
    if isinstance(given, TaskRunner):
        return given
    if isinstance(given, type) and issubclass(given, TaskRunner):  # pyright: ignore[reportUnnecessaryIsInstance]  # users without a type checker
        return given()
    text = str(given)
    head = text.split("?", 1)[0]
    scheme, plus, protocol = head.split("://", 1)[0].partition("+")
    target = urlsplit(text).netloc if "://" in head else ""
    target = f"{protocol}://{target}" if plus else target
    options = dict(parse_qsl(text.split("?", 1)[1], keep_blank_values=True)) if "?" in text else {}
    if isinstance(given, str) and scheme in _SCHEMES and (not target or scheme in _WITH_TARGET):  # pyright: ignore[reportUnnecessaryIsInstance]  # as above
        found: type[TaskRunner] = __getattr__(_SCHEMES[scheme])
        return found.from_string(target, options)
    from importlib.metadata import entry_points  # 12 ms that the runners of ours need not spend

    others = entry_points(group=ENTRY_POINTS)
    for entry in others:
        if entry.name == scheme and isinstance(given, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # as above
            return entry.load().from_string(target, options)
    raise UnknownTaskRunnerError(text, {*_SCHEMES, *(entry.name for entry in others)})
