"""Log lines that say which run they come from, and `print` as one of them."""

from __future__ import annotations

import builtins
import functools
import logging
import sys
import threading
from collections.abc import Generator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from anabranch.context import current_context
from anabranch.errors import MissingContextError

if TYPE_CHECKING:
    from rich.console import Console

ROOT = "anabranch"
FORMAT = "%(asctime)s.%(msecs)03d | %(levelname)-7s | %(message)s"


class RunLogger(logging.LoggerAdapter[logging.Logger]):
    """Puts the run's name before each line, and its ids and names on each record."""

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        about: Mapping[str, object] = self.extra or {}
        kwargs["extra"] = {**about, **(kwargs.get("extra") or {})}
        return f"{about['run_label']} | {msg}", kwargs


def get_run_logger() -> RunLogger:
    """The logger of the task run or flow run that the calling code belongs to.

    Raises `MissingContextError` outside of any run.
    """
    context = current_context()
    flow_run, task_run = context.flow_run, context.task_run
    if flow_run is None and task_run is None:
        raise MissingContextError("get_run_logger()")
    names = [run.name for run in (flow_run, task_run) if run is not None]
    about = {
        "run_label": "/".join(names),
        "flow_run_name": None if flow_run is None else flow_run.name,
        "flow_run_id": None if flow_run is None else flow_run.id,
        "task_run_name": None if task_run is None else task_run.name,
        "task_run_id": None if task_run is None else task_run.id,
    }
    kind = "flow_runs" if task_run is None else "task_runs"
    return RunLogger(logging.getLogger(f"{ROOT}.{kind}"), about)


def set_up_logging(level: str) -> None:
    """Give our loggers a handler, unless the user's own set-up has one for them."""
    logger = logging.getLogger(ROOT)
    if logger.level == logging.NOTSET:
        logger.setLevel(level)
    if logger.handlers or logging.getLogger().handlers:
        return
    logger.addHandler(_terminal_handler() if sys.stderr.isatty() else _plain_handler())


def _plain_handler() -> logging.Handler:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(FORMAT, datefmt="%H:%M:%S"))
    return handler


@functools.cache
def terminal_console() -> Console:
    """The one for standard error: log lines and the live display know of each other through it."""
    from rich.console import Console  # a terminal's, and slow to load

    return Console(stderr=True)


def _terminal_handler() -> logging.Handler:
    from rich.logging import RichHandler  # as above

    return RichHandler(
        console=terminal_console(), show_path=False, log_time_format="%H:%M:%S.%f", markup=False
    )


_patching = threading.Lock()
_patched = 0
_print = builtins.print


@contextmanager
def prints_logged() -> Generator[None]:
    """While the block runs, `print` in runs with `log_prints` goes to their logger."""
    global _print, _patched
    with _patching:
        if not _patched:
            _print = builtins.print
            _print_or_log.__dict__["stands_for"] = _print  # for digests; see `hashing.functions`
            builtins.print = _print_or_log
        _patched += 1
    try:
        yield
    finally:
        with _patching:
            _patched -= 1
            if not _patched:
                builtins.print = _print


def _print_or_log(*values: Any, **options: Any) -> None:
    if options.get("file") not in (None, sys.stdout) or not current_context().log_prints:
        _print(*values, **options)
        return
    separator = options.get("sep")
    text = (" " if separator is None else separator).join(map(str, values))
    get_run_logger().info("%s", text)
