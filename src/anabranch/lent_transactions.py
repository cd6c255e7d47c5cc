"""Transactions that code on workers opens, and what it asks of others: here, in the flow's process."""

# pyright: reportPrivateUsage=false
# The blocks of `local_transactions.py` are entered and left piece by piece.

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from anabranch.context import RunContext, current
from anabranch.errors import CrashedRun
from anabranch.execution.calls import Call
from anabranch.execution.requests import EndBlock, OpenBlock
from anabranch.local_transactions import LocalBlock
from anabranch.transaction_members import Transaction

QUICK = frozenset({"get", "set", "stage", "state", "parent"})
"""Methods that neither call hooks nor read storage."""
Then = Callable[[Any, BaseException | None], object]
"""Takes an answer, or why there is none."""
_MISSING = object()


def _answer(transaction: Transaction, method: str, args: Sequence[Any], then: Then) -> None:
    try:
        value = _asked(transaction, method, args)
    except BaseException as error:  # it is the worker's
        then(None, error)
    else:
        then(value, None)


def _asked(transaction: Transaction, method: str, args: Sequence[Any]) -> Any:
    match method:
        case "state":
            return transaction.state.value
        case "parent":
            around: Transaction | None = transaction.parent
            return around is not None, None if around is None else around.key
        case "get":
            value: Any = transaction.get(str(args[0]), _MISSING)
            return value is not _MISSING, None if value is _MISSING else value
        case "set" | "stage" | "read" | "commit" | "rollback":
            return getattr(transaction, method)(*args)
        case _:
            raise TypeError(f"Not a method of transactions for workers: {method}")


def _on_a_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, name="anabranch-transaction", daemon=True)
    thread.start()
    return thread


class LentBlocks:
    """Those of one engine, by their worker's desk and the number that the worker gave them."""

    def __init__(self) -> None:
        self._blocks: dict[tuple[Any, int], LentBlock] = {}
        self._ending: set[LentBlock] = set()  # whose call has ended without them
        self._changing = threading.Lock()

    def open(
        self, desk: Any, call: Call, context: RunContext, words: OpenBlock, then: Then
    ) -> None:
        """Open one, once those that the call had open on a worker that died are undone."""
        with self._changing:
            others = [
                block
                for (other, _), block in self._blocks.items()
                if other is not desk and block.key == call.key
            ]
            ending = [block for block in self._ending if block.key == call.key]
        for block in others:
            block.lose()
        lent = LentBlock(call.key, LocalBlock(**words.options), context, [*others, *ending])
        with self._changing:
            self._blocks[desk, words.number] = lent
        lent.open(then)

    def end(self, desk: Any, words: EndBlock, then: Then) -> None:
        self._blocks[desk, words.number].end(words.raised, words.cut, then)

    def block(self, desk: Any, number: int) -> LocalBlock:
        return self._blocks[desk, number].block

    def ask(self, transaction: Transaction, method: str, args: Sequence[Any], then: Then) -> None:
        """Have a worker told what a method gives; nobody waits here for hooks and storage."""
        if method in QUICK:
            _answer(transaction, method, args, then)
        else:
            _on_a_thread(partial(_answer, transaction, method, args, then))

    def ended(self, desk: Any, key: int | None = None) -> None:
        """A call has ended, or all of them: what they have open is undone."""
        with self._changing:
            left = [
                (place, block)
                for place, block in self._blocks.items()
                if place[0] is desk and key in (None, block.key)
            ]
            for place, block in left:
                del self._blocks[place]
                if not block.is_over():
                    self._ending.add(block)
            self._ending = {block for block in self._ending if not block.is_over()}
        for _, block in left:
            block.lose()

    def close(self, seconds: float) -> None:
        """Wait for what is being undone, so long for each."""
        for block in list(self._ending):
            block.wait(seconds)


class LentBlock:
    """One block, open on a thread of its own for as long as the worker's code is in it."""

    def __init__(
        self, key: int, block: LocalBlock, context: RunContext, before: Iterable[LentBlock]
    ) -> None:
        self.key = key
        self.block = block
        self._context = context
        self._before = before
        self._lost = threading.Event()
        self._left = threading.Event()
        self._raised = False
        self._then: Then = _to_nobody
        self._thread: threading.Thread | None = None

    def open(self, then: Then) -> None:
        self._thread = _on_a_thread(partial(self._be_open, then))

    def end(self, raised: bool, cut: bool, then: Then) -> None:
        """The worker's code has left it. Said again, with `cut`, by one that waits no longer."""
        if cut:
            self.block._cancel()
        if self._left.is_set():
            then(None, None)
            return
        self._raised, self._then = raised, then
        self._left.set()

    def lose(self) -> None:
        """The worker's code is no more."""
        self._lost.set()
        if not self.is_over():
            self.block._cancel()
        if not self._left.is_set():
            self._raised = True
            self._left.set()

    def is_over(self) -> bool:
        return self._thread is not None and not self._thread.is_alive()

    def wait(self, seconds: float | None = None) -> None:
        if self._thread is not None:
            self._thread.join(seconds)

    def _be_open(self, then: Then) -> None:
        for block in self._before:
            block.wait()
        current.set(self._context)
        try:
            with self.block._opening():
                for pause in self.block._locking():
                    if self._lost.wait(pause):
                        raise CrashedRun("the worker that was to open it is gone")
        except BaseException as error:  # it is the worker's
            then(None, error)
            return
        then(None, None)
        self._left.wait()
        error = RuntimeError("it raised on its worker") if self._raised else None
        try:
            self.block.__exit__(type(error), error, None)
        except BaseException as failure:  # the same
            self._then(None, failure)
        else:
            self._then(None, None)


def _to_nobody(value: Any, error: BaseException | None) -> None:
    """The worker is gone."""
