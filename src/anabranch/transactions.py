"""Transactions: blocks whose task runs take effect together, or are undone together.

A block that stands inside another is one of its members, like the task runs that it starts.
"""

from __future__ import annotations

from typing import Any

from anabranch import late
from anabranch.context import current_context
from anabranch.engine.engine import Engine
from anabranch.local_transactions import LocalBlock
from anabranch.results.result_store import ResultStore
from anabranch.transaction_members import CommitMode as CommitMode
from anabranch.transaction_members import IsolationLevel as IsolationLevel
from anabranch.transaction_members import Transaction as Transaction
from anabranch.transaction_members import TransactionBlock
from anabranch.transaction_members import TransactionState as TransactionState


def get_transaction() -> Transaction | None:
    """The transaction that the calling code is in, None outside of any.

    In a task it is the run's own, whose parent is the block that the task was started in.
    """
    return current_context().transaction


def transaction(
    key: str | None = None,
    store: ResultStore | None = None,
    commit_mode: CommitMode | str | None = None,
    isolation_level: IsolationLevel | str | None = None,
    overwrite: bool = False,
    write_on_commit: bool = True,
) -> TransactionBlock:
    """A block, for `with` and `async with`, whose task runs take effect or are undone together.

    At its end all task runs that were started in it are waited for. If one of them failed, or the
    block raised, the `on_rollback` hooks of those that completed are called, the last first; else
    their `on_commit` hooks, and the results that are to be cached are, which nobody else sees
    before. The failure of a run is raised, unless the block raised something itself. What runs
    inside of a task or subflow is undone with the others, but its failure is theirs to deal with.

    A block that has a `key` is done once: where a result is in the `store` under the key, it starts
    as committed, unless `overwrite` is set. `commit_mode` is `"eager"`, at the block's own end, as
    the outermost is, or `"lazy"`, with the block around it, or `"off"`: it rolls back unless
    `commit()` is called. `isolation_level="serializable"` keeps other blocks of the key out until
    this is committed or rolled back. With `write_on_commit=False` results are cached as soon as
    they are there, and nothing is written under the key.

    In a task on a worker, values that are set and hooks that are staged travel to the flow's
    process, which calls the hooks.

    Raises `OptionError`.
    """
    options: dict[str, Any] = {
        "key": key,
        "store": store,
        "commit_mode": commit_mode,
        "isolation_level": isolation_level,
        "overwrite": overwrite,
        "write_on_commit": write_on_commit,
    }
    block = LocalBlock(**options)
    engine = current_context().engine
    return (
        block if engine is None or isinstance(engine, Engine) else late.RemoteBlock(engine, options)
    )
