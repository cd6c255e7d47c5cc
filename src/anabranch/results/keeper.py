"""What is left of a task's value for a later process: made where the task ran, when it has ended."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from anabranch import late
from anabranch.errors import UnserializableResult
from anabranch.execution.calls import Call
from anabranch.failpoints import RESULT_STORED, failpoint
from anabranch.outcomes import NOT_KEPT, Away, Kept
from anabranch.results.kept import keep_inline

if TYPE_CHECKING:
    from anabranch.results.persistence import Persistence


@dataclass(frozen=True, slots=True)
class Keeper:
    """Keeps small values inline, in at most `limit` bytes, and those of tasks that persist them
    whatever their size. Picklable, for worker processes."""

    limit: int
    secret: bytes

    def __call__(self, value: Any, call: Call) -> Kept:
        """Raises `UnserializableResult` for a value that the task wants kept and that cannot be."""
        persistence: Persistence | None = call.spec.persistence
        if persistence is None:
            return keep_inline(value, self.limit)
        key = self._key(call, persistence)
        return self.persist(value, persistence, key, call.spec.in_memory)

    def away(self, kept: Kept, persistence: Persistence | None) -> Away:
        """What stands for a value that was stored, and reads it again."""
        assert kept.data is not None  # it says where the value is
        key: str = json.loads(kept.data)["key"]
        return Away(partial(_read, persistence or late.Persistence(), self.secret, key))

    def found(self, call: Call) -> tuple[Any, Kept] | None:
        """What this very run has stored before, on a worker that died before it could say so; not
        where others store under the same key."""
        persistence: Persistence | None = call.spec.persistence
        if persistence is None or persistence.result_storage_key is not None:
            return None
        return late.find_persistent(call.task_run().id, persistence, self.secret)

    def keep_flow(
        self, value: Any, persistence: Persistence | None, key: str, inline: bool
    ) -> Kept:
        """Keep the value of a flow run, whose id is the key; as `__call__`."""
        if persistence is None:
            return keep_inline(value, self.limit)
        return self.persist(value, persistence, key, inline)

    def persist(self, value: Any, persistence: Persistence, key: str, inline: bool = True) -> Kept:
        """Keep a value that is wanted kept; `inline` only where nobody says where or how."""
        if inline and persistence == late.Persistence():
            kept = keep_inline(value, self.limit)
            if kept.form != NOT_KEPT:
                return kept
            if kept.reason is not None and kept.reason.startswith("cannot"):
                raise UnserializableResult("The result", "pickle", "result", kept.reason)
        stored = late.keep_persistent(value, key, persistence, self.secret)
        failpoint(RESULT_STORED)
        return stored

    def _key(self, call: Call, persistence: Persistence) -> str:
        run = call.task_run()
        if persistence.result_storage_key is not None:
            template = persistence.storage_key(
                call.named_arguments(), flow_run=call.scope.flow_run, task_run=run, task=call.spec
            )
            assert template is not None  # there is one
            return template
        return run.id


def _read(persistence: Persistence, secret: bytes, key: str) -> Any:
    return persistence.store(secret).read(key).value
