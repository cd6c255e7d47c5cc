"""A transaction's block in the process of its engine: what is in it, and how it ends."""

# pyright: reportPrivateUsage=false
# A transaction looks at the records of the task runs in it, whose slots are private to users.

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from enum import Enum
from functools import partial
from typing import Any, cast

from anabranch.caching import Found
from anabranch.context import EngineContext, RunContext, current, current_context
from anabranch.engine.engine import Engine
from anabranch.engine.submission import OpenFlow
from anabranch.errors import OptionError, TransactionError
from anabranch.execution.functions import ASYNC_GENERATOR, GENERATOR
from anabranch.flow_drivers import root_engine
from anabranch.outcomes import COMPLETED, DORMANT
from anabranch.results.result_store import ResultStore
from anabranch.transaction_members import (
    CommitMode,
    IsolationLevel,
    Run,
    RunShare,
    Transaction,
    TransactionBlock,
    TransactionState,
)
from anabranch.waiting import Waiter

logger = logging.getLogger("anabranch.transactions")

LOOK_SECONDS = (0.02, 0.5)
"""The first and the longest pause between two looks at a lock that another holds."""


class LocalBlock(TransactionBlock):
    """One in the process of its engine."""

    def __init__(
        self,
        key: str | None,
        store: ResultStore | None,
        commit_mode: CommitMode | str | None,
        isolation_level: IsolationLevel | str | None,
        overwrite: bool,
        write_on_commit: bool,
    ) -> None:
        super().__init__(None, key)
        self._mode = _option("commit_mode", CommitMode, commit_mode)
        level = _option("isolation_level", IsolationLevel, isolation_level)
        self._serializable = level is IsolationLevel.SERIALIZABLE
        if store is not None and not isinstance(store, ResultStore):  # pyright: ignore[reportUnnecessaryIsInstance]  # users without a type checker
            raise OptionError("transaction", "store", store, "a ResultStore")
        if key is None:
            given = {"store": store, "overwrite": overwrite}
            given["isolation_level"] = level if self._serializable else None
            for name, value in given.items():
                if value:
                    raise OptionError("transaction", name, value, "given with a key")
        self._store = store
        self._overwrite = overwrite
        self._write_on_commit = write_on_commit
        self._engine: Engine | None = None
        self._outside: Any = None  # what gives back the context around it
        self._lifetimes = ExitStack()
        self._over = False  # whether the block has been left
        self._members: list[Transaction] = []  # in the order in which they completed
        self._shares: dict[int | str, RunShare] = {}
        self._unsettled: dict[Run, None] = {}
        self._failed: Run | None = None
        self._wake: Callable[[Run], object] | None = None
        self._held: dict[str, tuple[Found, Callable[[], None]]] = {}
        self._locked: str | None = None

    # -- the block ----------------------------------------------------------------------------------

    def __enter__(self) -> LocalBlock:
        with self._opening():
            for pause in self._locking():
                time.sleep(pause)
        return self

    async def __aenter__(self) -> LocalBlock:
        import asyncio  # 25 ms that a process without a loop need not spend

        with self._opening():
            for pause in self._locking():
                await asyncio.sleep(pause)
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        failure = error
        try:
            self._drop_endless(error)
            self._wait()
        except BaseException as raised:
            failure = error or raised
            self._cancel()
        try:
            self._conclude(failure)
        finally:
            self._close()
        if failure is not error and failure is not None:
            raise failure

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        import asyncio  # as above

        failure = error
        try:
            self._drop_endless(error)
            await self._wait_async()
        except BaseException as raised:
            failure = error or raised
            self._cancel()
        try:
            ending = asyncio.ensure_future(asyncio.to_thread(self._conclude, failure))
            try:
                await asyncio.shield(ending)
            except asyncio.CancelledError:
                await asyncio.wait([ending])  # hooks that have begun are not left half done
                raise
        finally:
            self._close()
        if failure is not error and failure is not None:
            raise failure

    @contextmanager
    def _opening(self) -> Generator[None]:
        """Make this the transaction of the code that follows; back to how it was if that fails."""
        if self.state is not TransactionState.PENDING:
            raise TransactionError("A block can be entered once", "Call transaction() for another.")
        context: RunContext = copy(current_context())
        if context.engine is None:
            engine = self._lifetimes.enter_context(root_engine(context))
            context = EngineContext(engine, OpenFlow(None, None, None), context.tags)
        if not isinstance(context.engine, Engine):
            raise TransactionError(
                "This block was made outside of the task that enters it, on a worker",
                "Call transaction() inside the task.",
            )
        self._engine = context.engine
        self._parent = context.transaction
        if self._mode is None:
            self._mode = CommitMode.EAGER if self.parent is None else CommitMode.LAZY
        context.transaction = self
        self._outside = current.set(context)
        try:
            yield
            self._state = TransactionState.ACTIVE
            if self.key is not None:
                self._store = self._store or ResultStore()
                if not self._overwrite and self._store.exists(self.key):
                    self._state = TransactionState.COMMITTED
        except BaseException:
            self._unlock()
            self._close()
            raise

    def _close(self) -> None:
        self._over = True
        current.reset(self._outside)
        self._lifetimes.close()

    def _conclude(self, failure: BaseException | None) -> None:
        """Commit or roll back what there is; raises the failure of a run that nothing else tells."""
        with self._lock:
            self._over = True
        if failure is not None:
            self._undo_all()
        elif self._failed is not None:
            self._undo_all()
            self._failed._settled_result()  # raises
        elif self.is_committed() or self.is_rolled_back():
            self._follow()  # what was started after that
        elif self._mode is CommitMode.OFF:
            self._undo_all()
        elif self._mode is CommitMode.LAZY and self.parent is not None:
            self._state = TransactionState.STAGED
            self.parent.adopt(self, self._held)
        else:
            self.commit()

    # -- its lock -----------------------------------------------------------------------------------

    def _locking(self) -> Iterator[float]:
        """Take the key's lock; the pauses to make between the tries."""
        if not self._serializable or self._holds_lock(self.key):
            return
        assert self._engine is not None  # the block is open
        pause, longest = LOOK_SECONDS
        name = f"transaction {self.key}"
        desk = self._engine.cache_desk
        if desk is None:
            raise TransactionError(
                "isolation_level='serializable' needs the store, which could not be opened",
                "See the error that was logged before.",
            )
        while not desk.claim(name):
            with self._engine.lending():
                yield pause
            pause = min(longest, pause * 1.5)
        self._locked = name

    def _holds_lock(self, key: str | None) -> bool:
        around = self.parent
        while around is not None:
            if isinstance(around, LocalBlock) and around._locked and around.key == key:
                return True
            around = around.parent
        return False

    def _unlock(self) -> None:
        locked, self._locked = self._locked, None
        if locked is not None and self._engine is not None and self._engine.cache_desk is not None:
            self._engine.cache_desk.release(locked)

    # -- what is in it ------------------------------------------------------------------------------

    def share_of(self, name: int | str, parent: Transaction | None = None) -> RunShare:
        """That of a task run, by its key, or of a subflow's run, by its id."""
        with self._lock:
            share = self._shares.get(name)
            if share is None:
                share = self._shares[name] = RunShare(parent or self, self, str(name))
            return share

    def join(self, runs: Sequence[Run], answers: bool = True) -> None:
        """Runs started in the block; whether it `answers` for their failures itself."""
        if self._over:
            if self.parent is not None:
                self.parent.join(runs)
            return
        settled = partial(self._settled, answers)
        with self._lock:
            self._unsettled.update(dict.fromkeys(runs))
        for run in runs:
            # One that an earlier process completed is not run again for this.
            if run._phase == DORMANT or not run._shared.home.notify(run, settled):
                settled(run)

    def _settled(self, answers: bool, run: Run) -> None:
        share = self.share_of(run._key)
        late = False
        with self._lock:
            self._unsettled.pop(run, None)
            del self._shares[run._key]
            if share.completed(run):
                self._members.append(share)
                late = self._over and self.state in (
                    TransactionState.COMMITTED,
                    TransactionState.ROLLED_BACK,
                )
            elif answers and run._phase not in (COMPLETED, DORMANT):
                self._failed = self._failed or run
            wake = None if self._unsettled else self._wake
        if wake is not None:
            wake(run)
        if late and self._engine is not None:  # it did not stop when the block ended
            self._engine.callbacks.put(self._follow)

    def _follow(self) -> None:
        """Deal with members that came when the end was decided."""
        if self.is_committed():
            self._commit()
        else:
            self._undo_all()

    def adopt(self, member: Transaction, held: dict[str, Any]) -> None:
        """Take in a transaction that commits with this one, and the results that it holds back."""
        with self._lock:
            self._members.append(member)
            self._held.update(held)

    def hold(self, key: str, found: Found, put: Callable[[], None]) -> bool:
        """Keep back a result until the commit, when `put` caches it; whether that is wanted."""
        with self._lock:
            if self._over and self.is_staged() and self.parent is not None:
                return self.parent.hold(key, found, put)
            if self.is_rolled_back():
                return True
            if self.holds_back():
                self._held[key] = (found, put)
            return self.holds_back()

    def holds_back(self) -> bool:
        """Whether results are not to be seen by others yet."""
        return self._write_on_commit and not self.is_committed()

    def held(self, key: str) -> Found | None:
        """A result that was computed here, or in a transaction around this one."""
        with self._lock:
            found = self._held.get(key)
        if found is not None:
            return found[0]
        return None if self.parent is None else self.parent.held(key)

    # -- its end ------------------------------------------------------------------------------------

    def read(self) -> Any:
        """The value that was committed under the key; raises what `ResultStore.read` does."""
        if self.key is None or self._store is None:
            raise TransactionError(
                "A transaction without a key has no value to read",
                "Give it one: transaction(key=).",
            )
        return self._store.read(self.key).value

    def commit(self) -> bool:
        """Call the `on_commit` hooks of what has completed, cache results, and write the value.

        False where it has ended before. Raises what writing raises, after a rollback.
        """
        if self.state in (TransactionState.COMMITTED, TransactionState.ROLLED_BACK):
            return False
        try:
            self._commit()
        except BaseException:
            self._undo_all()
            raise
        return True

    def rollback(self) -> bool:
        """Call the `on_rollback` hooks of what has completed, the last first; False where it has
        ended before. What is still running is undone at the end of the block."""
        if self.state in (TransactionState.COMMITTED, TransactionState.ROLLED_BACK):
            return False
        self._undo_all()
        return True

    def _commit(self) -> None:
        members = list(self._members)
        for member in members:
            member._commit()
        self.call_hooks("on_commit")
        if not self.is_committed():
            self._write()
            self._state = TransactionState.COMMITTED
        with self._lock:  # not before all that can fail: then they are undone
            del self._members[: len(members)]
        self._unlock()

    def _write(self) -> None:
        """Cache what was held back, and put the value under the key."""
        assert self._engine is not None  # it was entered
        with self._lock:
            held, self._held = self._held, {}
        if held and self._engine.cache_desk is not None:
            self._engine.cache_desk.put([put for _, put in held.values()])
        if self.key is not None and self._write_on_commit and self._store is not None:
            self._store.write(self.key, self._staged)

    def _undo_all(self) -> None:
        """Roll back; first what is recorded of the runs, so that a resume hands none of them back
        that may have been undone."""
        assert self._engine is not None  # as above
        with self._lock:
            if not self.is_committed():
                self._state = TransactionState.ROLLED_BACK
            self._held.clear()
            members, self._members = self._members, []
        runs = [run for member in members for run in member.runs()]
        self._engine.rolled_back(runs)
        self.call_hooks("on_rollback")
        for member in reversed(members):
            member._undo()
        self._unlock()
        logger.info("Rolled back: %d task runs", len(runs))

    def _undo(self) -> None:
        self._state = TransactionState.ROLLED_BACK
        self.call_hooks("on_rollback")
        for member in reversed(self._members):
            member._undo()
        self._unlock()

    def runs(self) -> Iterator[Run]:
        for member in list(self._members):
            yield from member.runs()

    # -- waiting ------------------------------------------------------------------------------------

    def _drop_endless(self, error: BaseException | None) -> None:
        """Ask for the end of what would not come to it: all where the block is cut short, and
        generators that the block was reading."""
        if error is not None and not isinstance(error, Exception):
            self._cancel()
        runs = [run for run in list(self._unsettled) if _is_read_here(run)]
        if runs and self._engine is not None:
            self._engine.cancel(runs)

    def _cancel(self) -> None:
        if self._engine is not None and self._unsettled:
            self._engine.cancel(list(self._unsettled))

    def _left(self, wake: Callable[[Run], object]) -> list[Run]:
        """What has not settled; once it has, `wake` is called."""
        with self._lock:
            self._wake = wake
            return list(self._unsettled)

    def _wait(self) -> None:
        assert self._engine is not None  # as above
        waiter = Waiter()
        while runs := self._left(waiter):
            self._engine.wait(waiter, runs, None)
            waiter = Waiter()

    async def _wait_async(self) -> None:
        import asyncio  # as above

        assert self._engine is not None  # as above
        loop, woken = asyncio.get_running_loop(), asyncio.Event()

        def wake(_: object) -> None:
            try:
                loop.call_soon_threadsafe(woken.set)
            except RuntimeError:  # the loop was closed meanwhile: nobody waits there
                pass

        while self._left(wake):
            with self._engine.lending():
                await woken.wait()
            woken.clear()


def _is_read_here(run: Run) -> bool:
    """Whether its items are given out by a direct call, which nobody may go on with."""
    shared: Any = run._shared
    return (
        shared.spec.kind in (GENERATOR, ASYNC_GENERATOR)
        and shared.runner.capabilities.name == "direct"
    )


def _option(name: str, kind: type[Enum], given: Any) -> Any:
    if given is None or isinstance(given, kind):
        return given
    try:
        return kind(cast(str, given).lower())
    except (ValueError, AttributeError):
        expected = ", ".join(repr(each.value) for each in kind)
        raise OptionError("transaction", name, given, expected) from None
