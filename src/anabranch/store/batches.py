"""Rows on their way into the store, in one transaction."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from anabranch.failpoints import MID_BATCH, failpoint
from anabranch.outcomes import ROLLED_BACK
from anabranch.store import rows
from anabranch.store.database import Insert, InsertAlike, Row, Transaction

logger = logging.getLogger("anabranch.store")


class Batch:
    """Rows that go into the store in one transaction."""

    def __init__(self) -> None:
        self.told = False
        self.roots: list[int] = []
        self.flow_runs: dict[int, Row] = {}
        self.flow_changes: list[Row] = []
        self.submissions: list[Row] = []
        self.runs: dict[int, Row] = {}  # by id, since a database refuses to change a row twice
        self.completed: dict[tuple[InsertAlike, int | None, int | None], list[Any]] = {}
        self.count = 0  # of runs that settled
        self.dependencies: list[Row] = []
        self.transitions: list[Row] = []
        self.logs: list[Row] = []
        self.artifacts: dict[str, Row] = {}
        self.artifact_changes: dict[str, Row] = {}
        self.rolled_back: list[int] = []
        self.replaced: list[tuple[int, int]] = []

    def empty(self) -> bool:
        changes = self.flow_changes or self.artifact_changes
        return not (changes or self.completed) and not any(self._inserts().values())

    def _inserts(self) -> dict[Insert, Sequence[Row]]:
        return {
            rows.FLOW_RUN: list(self.flow_runs.values()),
            rows.SUBMISSION: self.submissions,
            rows.ANY_RUN: list(self.runs.values()),
            rows.DEPENDENCY: self.dependencies,
            rows.TRANSITION: self.transitions,
            rows.LOG: self.logs,
            rows.ARTIFACT: list(self.artifacts.values()),
        }

    def write(self, transaction: Transaction, session: int) -> None:
        for root in self.roots:
            transaction.changed("UPDATE session SET root = ? WHERE id = ?", (root, session))
        for run, old in self.replaced:  # the same call, made again by a resume
            transaction.changed("DELETE FROM task_run WHERE id = ?", (old,))
            transaction.changed("DELETE FROM dependency WHERE task_run = ?", (old,))
            transaction.changed("UPDATE transition SET task_run = ? WHERE task_run = ?", (run, old))
        for insert, its_rows in self._inserts().items():
            if its_rows:
                transaction.insert(insert, its_rows)
        for (insert, flow_run, task), values in self.completed.items():
            transaction.insert_alike(insert, (flow_run, task), values)
        failpoint(MID_BATCH)
        for row in self.rolled_back:
            transaction.changed(
                "UPDATE task_run SET state_name = ? WHERE id = ?", (ROLLED_BACK, row)
            )
        for change in self.flow_changes:
            transaction.changed(
                "UPDATE flow_run SET state_type = ?, state_name = ?, message = ?, ended = ?, "
                "attempt = ?, form = ?, result = ?, preview = ? WHERE id = ?",
                change,
            )
        for change in self.artifact_changes.values():
            if not transaction.changed(
                "UPDATE artifact SET description = COALESCE(?, description), data = ?, "
                "updated = ? WHERE id = ? AND type = 'progress'",
                change,
            ):
                logger.warning("There is no progress artifact %s to update", change[3])
