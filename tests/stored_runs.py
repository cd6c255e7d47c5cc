"""Fills a store with runs by hand, as a writer would have left them."""

from __future__ import annotations

import itertools
import json
import os
from typing import Any

from anabranch.outcomes import COMPLETED, FAILED, PHASE_STATES
from anabranch.store import rows
from anabranch.store.database import Database, Insert
from anabranch.store.sessions import close_session, open_session

_ANY = dict.fromkeys(rows.ANY_RUN.columns)


class StoredRun:
    """One root run and what is below it; `at` is when it began, in seconds since the epoch."""

    def __init__(
        self,
        database: Database,
        at: float,
        name: str = "quiet-heron",
        flow: str = "census",
        prefix: str | None = None,
    ) -> None:
        self.name = name
        self.database = database
        self.at = at
        self._keys = itertools.count(1)
        self.tasks: dict[str, int] = {}
        self.root: int | None = None
        self.open(at, prefix)
        self.root = self.flow(name, flow, at=at)
        self.id = self.id_of(self.root)
        self.own()

    def open(self, at: float, prefix: str | None = None) -> None:
        """A session, at first or for a resume."""
        self.prefix = prefix or os.urandom(10).hex()
        self.session = open_session(self.database, self.prefix, at)
        self._keys = itertools.count(1)
        if self.root is not None:
            self.own()

    def own(self) -> None:
        with self.database.transaction() as transaction:
            transaction.changed(
                "UPDATE session SET root = ? WHERE id = ?", (self.root, self.session)
            )

    def close(self, at: float) -> None:
        with self.database.transaction() as transaction:
            close_session(transaction, self.session, at)

    def insert(self, insert: Insert, *values: tuple[Any, ...]) -> None:
        with self.database.transaction() as transaction:
            transaction.insert(insert, values)

    def key(self, count: int = 1) -> int:
        """The row of a new run, the first of so many."""
        keys = [next(self._keys) for _ in range(count)]
        return rows.row_id(self.session, keys[0])

    def id_of(self, row: int) -> str:
        digits = f"{self.prefix}{row & 0xFFFFFFFF:012x}"
        return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))

    def flow(
        self, name: str, flow: str = "census", *, at: float | None = None, parent: int | None = None
    ) -> int:
        row = self.key()
        began = self.at if at is None else at
        given: dict[str, Any] = {
            "id": row,
            "run_id": self.id_of(row),
            "root": self.root or row,
            "parent": parent,
            "name": name,
            "flow_name": flow,
            "flow_key": f"flows:{flow}",
            "entrypoint": f"flows.py:{flow}",
            "runner": "threads",
            "tags": json.dumps(["a", "b"]),
            "parameters_preview": '{"limit": 10}',
            "state_type": "RUNNING",
            "state_name": "Running",
            "created": began,
            "started": began,
            "attempt": 1,
        }
        self.insert(rows.FLOW_RUN, tuple(given.get(name) for name in rows.FLOW_RUN.columns))
        return row

    def end(
        self,
        state: str = "COMPLETED",
        *,
        at: float | None = None,
        row: int | None = None,
        message: str | None = None,
        close: bool = True,
    ) -> None:
        ended = self.at + 10 if at is None else at
        with self.database.transaction() as transaction:
            transaction.changed(
                "UPDATE flow_run SET state_type = ?, state_name = ?, ended = ?, message = ? "
                "WHERE id = ?",
                (state, state.capitalize(), ended, message, row or self.root),
            )
        if close and row is None:
            self.close(ended)

    def task(self, name: str) -> int:
        if name not in self.tasks:
            with self.database.transaction() as transaction:
                transaction.execute(
                    'INSERT INTO task ("key", name, source) VALUES (?, ?, ?) '
                    'ON CONFLICT ("key", name, source) DO NOTHING RETURNING id',
                    (f"flows:{name}", name, b"1"),
                )
                found = transaction.execute(
                    'SELECT id FROM task WHERE "key" = ?', (f"flows:{name}",)
                )
            self.tasks[name] = found[0][0]
        return self.tasks[name]

    def run(self, task: str, number: int = 0, phase: int = COMPLETED, **columns: Any) -> int:
        """A task run with a row of its own."""
        row = columns.pop("id", None) or self.key()
        given = {
            "id": row, "flow_run": self.root, "task": self.task(task), "number": number,
            "phase": phase, "attempt": 1, "submitted": self.at, **columns,
        }  # fmt: skip  # pairs
        if phase >= COMPLETED:
            given = {"started": self.at, "ended": self.at + 1, **given}
        self.insert(rows.ANY_RUN, tuple({**_ANY, **given}.values()))
        return row

    def map(
        self, task: str, count: int, completed: int = 0, failed: int = 0, seconds: float = 10.0
    ) -> int:
        """A map, of which so many have settled, one after the other; its first row."""
        first = self.key(count)
        self.insert(
            rows.SUBMISSION,
            (first, self.root, None, self.task(task), count, 0, "a-map", self.at),
        )
        settled = completed + failed
        step = seconds / max(settled, 1)
        self.insert(
            rows.ANY_RUN,
            *(
                tuple({**_ANY, "id": first + index, "flow_run": self.root, "task": self.task(task),
                       "number": index, "phase": COMPLETED if index < completed else FAILED,
                       "attempt": 1, "started": self.at + index * step,
                       "ended": self.at + (index + 1) * step,
                       "message": None if index < completed else "ValueError: no"}.values())
                for index in range(settled)
            ),
        )  # fmt: skip  # as it stands in the table
        return first

    def depends(self, run: int, *upstream: int) -> None:
        self.insert(rows.DEPENDENCY, *((run, each) for each in upstream))

    def moved(self, run: int, phase: int, at: float, message: str | None = None) -> None:
        self.insert(rows.TRANSITION, (self.root, run, at, *PHASE_STATES[phase], message, 1))

    def log(self, message: str, level: int = 20, at: float | None = None) -> None:
        self.insert(
            rows.LOG,
            (self.root, self.root, None, self.at if at is None else at, level, "anabranch.runs",
             "quiet-heron", message),
        )  # fmt: skip  # as it stands in the table

    def artifact(self, key: str, data: str = "[]") -> None:
        self.insert(
            rows.ARTIFACT,
            (os.urandom(16).hex(), key, "table", "what it is", data, self.root, self.root, None,
             self.at, self.at),
        )  # fmt: skip  # as it stands in the table
