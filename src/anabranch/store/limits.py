"""Limits in the store: made, changed, removed and listed."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from anabranch.errors import OptionError
from anabranch.limits import TAG, Limit
from anabranch.store.database import Database
from anabranch.store.sessions import COLUMNS, SessionRow, Watch, bury


def set_limit(
    database: Database, name: str, slots: int, slots_per_second: float | None = None
) -> None:
    """Make a limit, or change it; raises `OptionError`."""
    _check(name, slots, slots_per_second)
    with database.transaction() as transaction:
        transaction.changed(
            "INSERT INTO concurrency_limit (name, slots, slots_per_second, used, at) "
            "VALUES (?, ?, ?, 0, ?) ON CONFLICT (name) DO UPDATE SET "
            "slots = excluded.slots, slots_per_second = excluded.slots_per_second",
            (name, slots, slots_per_second, time.time()),
        )


def _check(name: Any, slots: Any, slots_per_second: Any) -> None:
    owner = f"limit {name!r}"
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise OptionError("A limit", "name", name, "a name of one line")
    if isinstance(slots, bool) or not isinstance(slots, int) or not 0 <= slots < 1 << 31:
        raise OptionError(owner, "slots", slots, "a whole number, 0 or more")
    if slots_per_second is None:
        return
    numeric = isinstance(slots_per_second, int | float) and not isinstance(slots_per_second, bool)
    if not numeric or not 0 < slots_per_second < math.inf:
        raise OptionError(owner, "slots_per_second", slots_per_second, "a number above 0")


def remove_limit(database: Database, name: str) -> bool:
    """Whether there was one. Who holds slots of it goes on."""
    with database.transaction() as transaction:
        removed = transaction.changed("DELETE FROM concurrency_limit WHERE name = ?", (name,))
        transaction.changed("DELETE FROM lease WHERE name = ?", (name,))
    return bool(removed)


def limits(database: Database) -> list[Limit]:
    """All of them by name, once the slots of dead processes are free."""
    found = database.read(
        "SELECT name, slots, slots_per_second, used, at FROM concurrency_limit ORDER BY name"
    )
    bury_holders(database, Watch(), [row[0] for row in found])
    held = dict(database.read("SELECT name, SUM(slots) FROM lease GROUP BY name"))
    now = time.time()
    every: list[Limit] = []
    for name, slots, per_second, used, at in found:
        left = max(0.0, used - max(0.0, now - at) * per_second) if per_second else 0.0
        every.append(Limit(name, slots, per_second, int(held.get(name, 0)) + round(left, 3)))
    return every


def tag_limits(database: Database) -> frozenset[str]:
    """The names of all limits by tag."""
    found = database.read("SELECT name FROM concurrency_limit WHERE name LIKE ?", (f"{TAG}%",))
    return frozenset(row[0] for row in found)


def bury_holders(database: Database, watch: Watch, names: Sequence[str]) -> None:
    """Free the slots of these limits that dead processes hold."""
    if not names:
        return
    holders = database.read(
        f"SELECT {COLUMNS} FROM session WHERE closed IS NULL AND id IN "
        f"(SELECT session FROM lease WHERE name IN ({places(names)}))",
        tuple(names),
    )
    for row in holders:
        session = SessionRow(*row)
        if watch.has_lapsed(session):
            bury(database, session, time.time())


def places(values: Sequence[object]) -> str:
    """A place in a statement for each of these."""
    return ", ".join("?" * len(values))
