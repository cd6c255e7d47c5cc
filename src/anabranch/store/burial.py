"""Runs whose process has died are recorded as such by whoever looks at them first."""

from __future__ import annotations

from typing import NamedTuple

from anabranch.store.database import Database
from anabranch.store.sessions import SessionRow, Watch, bury, is_gone, open_sessions


class Found(NamedTuple):
    """Open sessions, by what became of their processes: `buried` just now, `alive`, or `unseen`,
    which are on other hosts and cannot be told."""

    buried: list[SessionRow]
    alive: list[SessionRow]
    unseen: list[SessionRow]


def bury_the_dead(database: Database, watch: Watch, at: float) -> Found:
    """Close the sessions of processes that have died; what they ran has crashed, at `at`.

    A `watch` that is kept from call to call also finds those of other hosts, once they count no
    further.
    """
    found = Found([], [], [])
    for session in open_sessions(database):
        if watch.has_lapsed(session):
            if bury(database, session, at):
                found.buried.append(session)
        elif is_gone(session) is None:
            found.unseen.append(session)
        else:
            found.alive.append(session)
    return found
