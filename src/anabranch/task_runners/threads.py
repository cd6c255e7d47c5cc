"""The default runner: calls run on worker threads of this process."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

from anabranch.task_runners.base import (
    Capabilities,
    Inbox,
    TaskRunner,
    counted,
    only_options,
    whole_number,
)
from anabranch.task_runners.thread_pool import ThreadPool


class ThreadPoolTaskRunner(TaskRunner):
    """Runs calls on at most `max_workers` threads, by default `min(32, cpus + 4)`.

    `resources` are amounts that tasks can ask for, such as `{"gpu": 1}`. Threads cannot be
    stopped: a call that times out or is cancelled goes on unseen until it returns, while another
    thread takes its place. An async task runs on a loop that its thread keeps.
    """

    scheme: ClassVar[str] = "threads"

    def __init__(
        self, max_workers: int | None = None, resources: Mapping[str, float] | None = None
    ) -> None:
        default = min(32, (os.cpu_count() or 1) + 4)
        self.max_workers = whole_number(self.scheme, "max_workers", max_workers, default)
        self.resources = counted(self.scheme, resources)

    @classmethod
    def from_string(cls, target: str, options: Mapping[str, str]) -> ThreadPoolTaskRunner:
        only_options(cls.scheme, options, ["max_workers"])
        return cls(options.get("max_workers"))  # pyright: ignore[reportArgumentType]  # checked there

    @contextmanager
    def open(self, inbox: Inbox, loop: Any) -> Generator[ThreadPool]:
        pool = ThreadPool(inbox, self.max_workers, self.capabilities())
        try:
            yield pool
        finally:
            pool.close()

    def capabilities(self) -> Capabilities:
        return Capabilities(
            name=self.scheme,
            priority=True,
            stops_sync=False,
            stops_async=False,
            parallel=False,
            resources=self.resources,
        )

    def __repr__(self) -> str:
        return f"ThreadPoolTaskRunner(max_workers={self.max_workers})"
