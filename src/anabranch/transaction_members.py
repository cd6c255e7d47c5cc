"""What all transactions are: values, hooks and a state; and the part that one task run has of one."""

# pyright: reportPrivateUsage=false
# A transaction looks at the records of the task runs in it, whose slots are private to users.

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import copy_context
from copy import copy
from enum import Enum
from typing import Any, Final

from anabranch.caching import Found
from anabranch.context import current, current_context
from anabranch.engine.callbacks import call_reporting
from anabranch.errors import TransactionError
from anabranch.execution.calls import Hook
from anabranch.futures import TaskFuture
from anabranch.outcomes import COMPLETED, DORMANT

Run = TaskFuture[Any]
NOTHING: Final = object()


class CommitMode(Enum):
    """When a transaction commits: at its own end, with the one around it, or when it is told to."""

    EAGER = "eager"
    LAZY = "lazy"
    OFF = "off"


class IsolationLevel(Enum):
    """Whether others may be in a block of the same key meanwhile."""

    READ_COMMITTED = "read-committed"
    SERIALIZABLE = "serializable"


class TransactionState(Enum):
    """How far a transaction has come."""

    PENDING = "pending"
    ACTIVE = "active"
    STAGED = "staged"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled back"


class Transaction:
    """Values that its code shares, and hooks for its end."""

    def __init__(self, parent: Any, key: str | None) -> None:
        self._parent: Any = parent
        self.key = key
        self._state = TransactionState.PENDING
        self._values: dict[str, Any] = {}
        self._hooks: dict[str, list[tuple[str, Hook]]] = {"on_commit": [], "on_rollback": []}
        self._staged: Any = None
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.key or ''} {self.state.value}>"

    @property
    def parent(self) -> Any:
        """The transaction around this one; None around the outermost."""
        return self._parent

    @property
    def state(self) -> TransactionState:
        """How far it has come."""
        return self._state

    def get(self, name: str, default: Any = NOTHING) -> Any:
        """The value that was set under the name here, else in the transaction around this one.

        Raises `TransactionError` where there is none, and no default.
        """
        around: Transaction | None = self
        while around is not None:
            if name in around._values:
                return around._values[name]
            around = around.parent
        if default is NOTHING:
            raise no_value(name)
        return default

    def set(self, name: str, value: Any) -> None:
        """Keep a value for the code and the hooks of this transaction and of those inside of it."""
        self._values[name] = value

    def is_pending(self) -> bool:
        return self.state is TransactionState.PENDING

    def is_active(self) -> bool:
        return self.state is TransactionState.ACTIVE

    def is_staged(self) -> bool:
        return self.state is TransactionState.STAGED

    def is_committed(self) -> bool:
        return self.state is TransactionState.COMMITTED

    def is_rolled_back(self) -> bool:
        return self.state is TransactionState.ROLLED_BACK

    def stage(
        self,
        value: Any,
        on_commit_hooks: Iterable[Hook] | None = None,
        on_rollback_hooks: Iterable[Hook] | None = None,
    ) -> None:
        """The value to be written under the key at the commit, and functions that are called with
        the transaction when it commits or rolls back."""
        if self.is_committed() or self.is_rolled_back():
            raise TransactionError(
                f"Nothing can be staged in a transaction that is {self.state.value}",
                "Look at is_committed() first, and skip what is done.",
            )
        self._staged = value
        self._add_hooks("a transaction", "on_commit", on_commit_hooks)
        self._add_hooks("a transaction", "on_rollback", on_rollback_hooks)
        self._state = TransactionState.STAGED

    def _add_hooks(self, owner: str, name: str, hooks: Iterable[Hook] | None) -> None:
        self._hooks[name] += [(f"{name} hook of {owner}", hook) for hook in hooks or ()]

    def read(self) -> Any:
        raise NotImplementedError

    def commit(self) -> bool:
        raise NotImplementedError

    def rollback(self) -> bool:
        raise NotImplementedError

    # -- what the transaction around this one asks --------------------------------------------------

    def call_hooks(self, name: str) -> None:
        """Call the hooks; what they raise is logged. Tasks that they call are in no transaction."""
        hooks, self._hooks[name] = self._hooks[name], []
        if name == "on_rollback":
            hooks.reverse()
        for what, hook in hooks:
            context = copy_context()
            context.run(_leave)
            call_reporting(what, context, hook, self)

    def _commit(self) -> None:
        raise NotImplementedError

    def _undo(self) -> None:
        raise NotImplementedError

    def runs(self) -> Iterator[Run]:
        """The task runs that it stands for."""
        raise NotImplementedError


def no_value(name: str) -> TransactionError:
    return TransactionError(
        f"No value was set under {name!r}",
        "Set one with transaction.set(name, value), or give get() a default.",
    )


class TransactionBlock(Transaction):
    """What `transaction` gives, for `with` and `async with`; can be entered once."""

    def __enter__(self) -> TransactionBlock:
        raise NotImplementedError

    async def __aenter__(self) -> TransactionBlock:
        raise NotImplementedError

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        raise NotImplementedError

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        raise NotImplementedError


def _leave() -> None:
    context = copy(current_context())
    context.transaction = None
    current.set(context)


class RunShare(Transaction):
    """The transaction of one task run, or of a subflow's run, which ends with the block around it."""

    def __init__(self, parent: Transaction, block: Any, key: str) -> None:
        super().__init__(parent, key)
        self._state = TransactionState.ACTIVE
        self._block = block
        self._run: Run | None = None

    def completed(self, run: Run) -> bool:
        """Its run has settled; whether there is something to commit, or to undo."""
        shared: Any = run._shared
        outcome = run._outcome
        if run._phase not in (COMPLETED, DORMANT) or not shared.visible:
            return False
        if outcome is not None and outcome.state_name == "Cached":
            return False
        self._run = run
        self.key = run.task_run_id
        owner = f"task {shared.spec.name!r}"
        for name in self._hooks:
            self._add_hooks(owner, name, shared.spec.hooks.get(name))
        self._state = TransactionState.STAGED
        return True

    def read(self) -> Any:
        raise self._refused("read")

    def commit(self) -> bool:
        raise self._refused("commit")

    def rollback(self) -> bool:
        raise self._refused("rollback")

    def _refused(self, method: str) -> TransactionError:
        return TransactionError(
            f"{method}() is not for the transaction of a task run, which ends with the block that "
            "the task was started in",
            "Raise to have it rolled back, or open a block in the task: with transaction().",
        )

    def _commit(self) -> None:
        self.call_hooks("on_commit")
        self._state = TransactionState.COMMITTED

    def _undo(self) -> None:
        self.call_hooks("on_rollback")
        self._state = TransactionState.ROLLED_BACK

    def runs(self) -> Iterator[Run]:
        if self._run is not None:
            yield self._run

    # -- of the block -------------------------------------------------------------------------------

    def share_of(self, name: int | str) -> RunShare:
        return self._block.share_of(name, self)

    def join(self, runs: Sequence[Run]) -> None:
        """Runs started inside of this one, which answers for their failures."""
        self._block.join(runs, False)

    def adopt(self, member: Transaction, held: dict[str, Any]) -> None:
        self._block.adopt(member, held)

    def hold(self, key: str, found: Found, put: Callable[[], None]) -> bool:
        return self._block.hold(key, found, put)

    def holds_back(self) -> bool:
        return self._block.holds_back()

    def held(self, key: str) -> Found | None:
        return self._block.held(key)
