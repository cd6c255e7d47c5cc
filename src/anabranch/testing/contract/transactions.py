"""Transactions that tasks are in, and those that they open."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from anabranch.errors import TransactionError
from anabranch.results import ResultStore
from anabranch.testing.contract.base import ContractTests
from anabranch.testing.contract.tasks import note, notes, task
from anabranch.transactions import Transaction, get_transaction, transaction


def mine() -> Transaction:
    found = get_transaction()
    assert found is not None  # the task was started in one
    return found


@task
def writes(path: Path, name: str) -> str:
    mine().set("told", (str(path), name, mine().get("all", "nothing")))
    return name


@writes.on_commit
def _kept(txn: Transaction) -> None:
    path, *about = txn.get("told")
    note(Path(path), f"kept {about} {os.getpid()}")


@writes.on_rollback
def _undone(txn: Transaction) -> None:
    path, *about = txn.get("told")
    note(Path(path), f"undone {about} {os.getpid()}")


@task
def fails() -> None:
    raise ValueError("no")


@task
def opens(path: Path, way: str) -> str:
    """Two runs in a block."""

    def staged(txn: Transaction) -> None:
        note(path, f"staged {txn.get('all')} {os.getpid()}")

    with transaction() as txn:
        txn.set("all", "b")
        if way == "call":
            writes(path, "b1")
        else:
            writes.submit(path, "b1").wait()
        txn.stage("b", [staged])
        if way == "raise":
            raise ValueError("b")
        if way == "fail":
            fails.submit()
        else:
            writes.submit(path, "b2")
    return txn.state.value


@task
async def opens_async(path: Path) -> str:
    async with transaction() as txn:
        txn.set("all", "async")
        writes.submit(path, "a1")
    return txn.state.value


@task
def once(store: ResultStore, path: Path) -> Any:
    with transaction("once", store) as txn:
        if not txn.is_committed():
            note(path, "computed")
            txn.stage(7)
    return txn.read()


@task
def by_hand(path: Path) -> list[Any]:
    given: list[Any] = [mine().parent.get("all"), mine().state.value]
    with pytest.raises(TransactionError, match="for the transaction of a task run"):
        mine().commit()
    with pytest.raises(TransactionError, match="No value was set under 'absent'"):
        mine().get("absent")
    with transaction(commit_mode="off") as txn:
        writes.submit(path, "hand").wait()
        given += [txn.commit(), txn.commit(), txn.is_committed()]
    with transaction(commit_mode="off") as txn:
        given += [txn.rollback(), txn.state.value, txn.get("absent", None)]
    return given


@task
def in_turn(path: Path, store: ResultStore, number: int) -> None:
    key = f"turn {number % 2}"
    with transaction(key, store, isolation_level="serializable", overwrite=True):
        note(path, f"{key} in")
        time.sleep(0.02)  # for others to come, if they could
        note(path, f"{key} out")


class Transactions(ContractTests):
    def told(self, path: Path) -> list[str]:
        """What hooks noted, all in the flow's process."""
        lines = [line.rpartition(" ") for line in notes(path)]
        assert {pid for _, _, pid in lines} <= {str(os.getpid())}
        return [text for text, _, _ in lines]

    @pytest.mark.parametrize("ends", ["kept", "undone"])
    def test_values_that_a_task_sets_are_its_hooks(self, tmp_path: Path, ends: str) -> None:
        def body() -> None:
            with transaction() as txn:
                txn.set("all", "block")
                futures = writes.map(tmp_path / "told", ["a"])
                futures.wait()
                if ends == "undone":
                    raise ValueError("no")

        if ends == "kept":
            self.in_flow(body)
        else:
            with pytest.raises(ValueError, match="no"):
                self.in_flow(body)
        assert self.told(tmp_path / "told") == [f"{ends} ['a', 'block']"]

    @pytest.mark.parametrize("way", ["submit", "call"])
    def test_a_block_in_a_task(self, tmp_path: Path, way: str) -> None:
        told = tmp_path / "told"
        assert self.in_flow(lambda: opens.submit(told, way).result()) == "committed"
        assert self.told(told) == ["kept ['b1', 'b']", "kept ['b2', 'b']", "staged b"]

    @pytest.mark.parametrize("way", ["raise", "fail"])
    def test_a_block_in_a_task_that_fails(self, tmp_path: Path, way: str) -> None:
        told = tmp_path / "told"
        with pytest.raises(ValueError, match="b" if way == "raise" else "no"):
            self.in_flow(lambda: opens.submit(told, way).result())
        assert self.told(told) == ["undone ['b1', 'b']"]

    def test_an_async_block_in_a_task(self, tmp_path: Path) -> None:
        told = tmp_path / "told"
        assert self.in_flow(lambda: opens_async.submit(told).result()) == "committed"
        assert self.told(told) == ["kept ['a1', 'async']"]

    def test_a_block_in_a_task_ends_with_the_one_around(self, tmp_path: Path) -> None:
        told = tmp_path / "told"

        def body() -> list[Any]:
            with transaction() as txn:
                state = opens.submit(told, "submit").result()
                assert notes(told) == []
                txn.rollback()
                return [state, txn.state.value]

        assert self.in_flow(body) == ["staged", "rolled back"]
        assert self.told(told) == ["undone ['b2', 'b']", "undone ['b1', 'b']"]

    def test_a_key_is_done_once(self, tmp_path: Path) -> None:
        store, told = ResultStore(tmp_path / "store"), tmp_path / "told"
        assert self.in_flow(lambda: [once.submit(store, told).result() for _ in "ab"]) == [7, 7]
        assert notes(told) == ["computed"]

    def test_serializable_blocks_keep_each_other_out(self, tmp_path: Path) -> None:
        told, store = tmp_path / "told", ResultStore(tmp_path / "store")
        self.in_flow(lambda: in_turn.map(told, store, range(8)).wait())
        for key in ("turn 0", "turn 1"):
            own = [line for line in notes(told) if line.startswith(key)]
            assert own == [f"{key} in", f"{key} out"] * 4

    def test_transactions_that_tasks_commit_and_roll_back(self, tmp_path: Path) -> None:
        def body() -> Any:
            with transaction() as txn:
                txn.set("all", "block")
                return by_hand.submit(tmp_path / "told").result()

        given = ["block", "active", True, False, True, True, "rolled back", None]
        assert self.in_flow(body) == given
        assert self.told(tmp_path / "told") == ["kept ['hand', 'block']"]


__all__ = ["Transactions"]
