"""Ray in the process of the tests, which has one connection at a time."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from anabranch.task_runners import RayTaskRunner
from anabranch.task_runners.ray_connection import Connection, connected_ray


class RayHere:
    """The connection of this process: it stays until a test wants another, whatever file that is in,
    since new workers take a second to start."""

    def __init__(self) -> None:
        self.wanted: object = None
        self.connection: Any = None
        self.lifetime = ExitStack()

    def connected(self, address: str | None, **options: Any) -> Connection:
        """A connection with these."""
        if self.wanted != (address, options):
            self.lifetime.close()
            self.wanted = address, options
            self.connection = self.lifetime.enter_context(connected_ray(address, options))
        return self.connection

    def have(self, address: str | None, **options: Any) -> RayTaskRunner:
        """A runner that shares the connection."""
        self.connected(address, **options)
        return RayTaskRunner(address=address)

    def close(self) -> None:
        self.lifetime.close()
