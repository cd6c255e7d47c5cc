"""Transactions for code on a worker. The flow's process has them: what is set and staged travels
there, and hooks are called there, also where the worker dies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import copy
from typing import Any

from anabranch.context import current, current_context
from anabranch.errors import TransactionError
from anabranch.execution.calls import Hook
from anabranch.execution.remote_engine import RemoteEngine, place_of, tags_around
from anabranch.execution.requests import AskTransaction, EndBlock, OpenBlock, Place
from anabranch.transaction_members import (
    NOTHING,
    Transaction,
    TransactionBlock,
    TransactionState,
    no_value,
)


class RemoteAround:
    """What a call has here for the transaction that its run has joined."""

    def __init__(self, engine: RemoteEngine) -> None:
        self._engine = engine

    def share_of(self, key: int) -> RemoteTransaction:
        return RemoteTransaction(self._engine, ("run", key), str(key))


class RemoteTransaction(Transaction):
    """One that the flow's process has; each method asks there."""

    def __init__(self, engine: RemoteEngine, place: Place, key: str | None) -> None:
        super().__init__(None, key)
        self._engine = engine
        self.place = place

    @property
    def parent(self) -> Any:
        exists, key = self._ask("parent")
        return RemoteTransaction(self._engine, ("parent", self.place), key) if exists else None

    @property
    def state(self) -> TransactionState:
        return TransactionState(self._ask("state"))

    def __repr__(self) -> str:  # asks nobody
        return f"<{type(self).__name__} {self.key or ''}>"

    def get(self, name: str, default: Any = NOTHING) -> Any:
        found, value = self._ask("get", name)
        if not found and default is NOTHING:
            raise no_value(name)
        return value if found else default

    def set(self, name: str, value: Any) -> None:
        self._ask("set", name, value, what=f"The value set under {name!r}")

    def stage(
        self,
        value: Any,
        on_commit_hooks: Iterable[Hook] | None = None,
        on_rollback_hooks: Iterable[Hook] | None = None,
    ) -> None:
        hooks = list(on_commit_hooks or ()), list(on_rollback_hooks or ())
        self._ask("stage", value, *hooks, what="What a transaction stages")

    def read(self) -> Any:
        return self._ask("read")

    def commit(self) -> bool:
        with self._engine.lending():  # to tasks that hooks call
            return self._ask("commit")

    def rollback(self) -> bool:
        with self._engine.lending():
            return self._ask("rollback")

    def _ask(self, method: str, *args: Any, what: str = "A question") -> Any:
        return self._engine.ask_transaction(AskTransaction(self.place, method, args), what)


class RemoteBlock(RemoteTransaction, TransactionBlock):
    """One that code here opens; it is open in the flow's process until it is left."""

    def __init__(self, engine: RemoteEngine, options: Mapping[str, Any]) -> None:
        self._number = engine.next_number()
        super().__init__(engine, ("block", self._number), options["key"])
        self._options = options
        self._entered = False
        self._outside: Any = None

    # -- the block ----------------------------------------------------------------------------------

    def __enter__(self) -> RemoteBlock:
        opening = self._opening()
        with self._engine.lending():  # to the one that has the key's lock
            self._engine.ask_transaction(opening)
        self._go_in()
        return self

    async def __aenter__(self) -> RemoteBlock:
        import asyncio  # 25 ms that a process without a loop need not spend

        opening = self._opening()
        with self._engine.lending():
            await asyncio.to_thread(self._engine.ask_transaction, opening)
        self._go_in()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            with self._engine.lending():
                self._engine.ask_transaction(self._ending(error))
        finally:
            current.reset(self._outside)

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        import asyncio  # as above

        try:
            ask = self._engine.ask_transaction
            ended = asyncio.ensure_future(asyncio.to_thread(ask, self._ending(error)))
            try:
                with self._engine.lending():
                    await asyncio.shield(ended)
            except asyncio.CancelledError as cancelled:
                await asyncio.to_thread(ask, self._ending(cancelled))
                await asyncio.wait([ended])  # hooks that have begun are not left half done
                raise
        finally:
            current.reset(self._outside)

    def _opening(self) -> OpenBlock:
        if self._entered:
            raise TransactionError("A block can be entered once", "Call transaction() for another.")
        self._entered = True
        context = current_context()
        about = context.tags, tags_around(context), place_of(context.transaction)
        return OpenBlock(self._number, self._options, *about)

    def _ending(self, error: BaseException | None) -> EndBlock:
        cut = error is not None and not isinstance(error, Exception)
        return EndBlock(self._number, error is not None, cut)

    def _go_in(self) -> None:
        context = copy(current_context())
        context.transaction = self
        self._outside = current.set(context)
