"""The runner for work that keeps processors busy: calls run in child processes."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

from anabranch.errors import TaskRunnerOptionError
from anabranch.task_runners.base import (
    Capabilities,
    Inbox,
    TaskRunner,
    counted,
    only_options,
    whole_number,
)
from anabranch.task_runners.process_pool import ProcessPool


class ProcessPoolTaskRunner(TaskRunner):
    """Runs calls in at most `max_workers` child processes, by default one for each processor.

    `resources` are amounts that tasks can ask for, such as `{"gpu": 1}`. A call that times out or
    is cancelled ends with its process, which is replaced. Children never import or run the script
    that started them, so it needs no main guard. Arguments and results are pickled.
    """

    scheme: ClassVar[str] = "processes"

    def __init__(
        self, max_workers: int | None = None, resources: Mapping[str, float] | None = None
    ) -> None:
        default = os.cpu_count() or 1
        self.max_workers = whole_number(self.scheme, "max_workers", max_workers, default)
        self.resources = counted(self.scheme, resources)

    @classmethod
    def from_string(cls, target: str, options: Mapping[str, str]) -> ProcessPoolTaskRunner:
        only_options(cls.scheme, options, ["max_workers"])
        return cls(options.get("max_workers"))  # pyright: ignore[reportArgumentType]  # checked there

    @contextmanager
    def open(self, inbox: Inbox, loop: Any) -> Generator[ProcessPool]:
        """Raises `TaskRunnerOptionError` on Windows, which cannot fork."""
        if sys.platform == "win32":
            raise TaskRunnerOptionError(self.scheme, "platform", sys.platform, "Linux or macOS")
        pool = ProcessPool(inbox, self.max_workers, self.capabilities())
        try:
            yield pool
        finally:
            pool.close()

    def capabilities(self) -> Capabilities:
        return Capabilities(
            name=self.scheme,
            priority=True,
            stops_sync=True,
            stops_async=True,
            parallel=True,
            remote=True,
            resources=self.resources,
        )

    def __repr__(self) -> str:
        return f"ProcessPoolTaskRunner(max_workers={self.max_workers})"
