"""The store that a command looks at, with the dead buried first."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import NamedTuple

from anabranch.settings import load_settings
from anabranch.store.burial import Found, bury_the_dead
from anabranch.store.database import Database
from anabranch.store.opening import open_store
from anabranch.store.sessions import Watch


class OpenStore(NamedTuple):
    """`sessions` are the open ones, as they were found; `now` in seconds since the epoch."""

    database: Database
    sessions: Found
    now: float

    def unseen_host(self, root: int) -> str | None:
        """The host of a run's process, where that host is another."""
        return next((each.host for each in self.sessions.unseen if each.root == root), None)


@contextmanager
def opened_store() -> Generator[OpenStore]:
    """The settings' store. Runs whose process is gone show as crashed from here on."""
    settings = load_settings()
    database = open_store(settings.database_url, settings.home)
    try:
        now = time.time()
        yield OpenStore(database, bury_the_dead(database, Watch(), now), now)
    finally:
        database.close()
