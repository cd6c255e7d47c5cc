"""Calls that travel together: what becomes of one is none of the others' business."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from anabranch import CrashedRun
from anabranch.errors import OptionError, RunTimedOut
from anabranch.testing.contract.base import ContractTests
from anabranch.testing.contract.tasks import (
    Broken,
    broken_if,
    inc,
    length_of,
    note,
    notes,
    numbers,
    task,
)

BATCH = 10
COUNT = 3 * BATCH
ODD = 4
"""The item that something happens to, in the first batch."""


@task
def stays(folder: Path, item: int) -> int:
    """Item `ODD` ends once the gate is open; each tells that it began."""
    note(folder / "began", str(item))
    deadline = time.monotonic() + 30
    while item == ODD and not (folder / "gate").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return item


@task
def fails_once(folder: Path, item: int) -> int:
    note(folder / "began", str(item))
    if item == ODD and notes(folder / "began").count(str(item)) == 1:
        raise Broken("the first time")
    return item


@task
def kills_its_process(folder: Path, item: int) -> int:
    note(folder / "began", str(item))
    if item == ODD:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


@task
def sized(item: int) -> bytes:
    return bytes(1_000_000 if item == ODD else item)


@task
def asks_others(item: int) -> int:
    return inc.submit(item).result() if item % BATCH == ODD else item + 1


@task
def mean_of(values: list[int], batch_size: int) -> float:
    return sum(values) / batch_size


class Batches(ContractTests):
    def test_a_batched_item_that_raises(self) -> None:
        def body() -> list[Any]:
            futures = broken_if.map(range(COUNT), bad=ODD, batch_size=BATCH)
            return [type(each) for each in futures.result(raise_on_failure=False)]

        types = self.in_flow(body)
        assert types == [Broken if item == ODD else int for item in range(COUNT)]

    def test_a_batched_item_that_is_tried_again(self, tmp_path: Path) -> None:
        persistent = fails_once.with_options(retries=1)

        def body() -> list[Any]:
            futures = persistent.map([tmp_path] * COUNT, range(COUNT), batch_size=BATCH)
            assert futures.result() == list(range(COUNT))
            return [future.task_run.run_count for future in futures]

        counts = self.in_flow(body)
        assert counts == [2 if item == ODD else 1 for item in range(COUNT)]
        assert Counter(notes(tmp_path / "began"))[str(ODD)] == 2
        assert len(notes(tmp_path / "began")) == COUNT + 1

    def test_a_batched_item_that_times_out(self, tmp_path: Path) -> None:
        hasty = stays.with_options(timeout_seconds=0.3)

        def body() -> list[Any]:
            futures = hasty.map([tmp_path] * COUNT, range(COUNT), batch_size=BATCH)
            results = futures.result(raise_on_failure=False)
            note(tmp_path / "gate", "")
            return results

        results = self.in_flow(body)
        assert isinstance(results.pop(ODD), RunTimedOut)
        assert results == [item for item in range(COUNT) if item != ODD]
        assert sorted(notes(tmp_path / "began")) == sorted(str(item) for item in range(COUNT))

    def test_a_batched_item_that_kills_its_process(self, tmp_path: Path) -> None:
        if not self.capabilities().remote:
            pytest.skip("calls run in the flow's process")
        if not self.replaces_workers:
            pytest.skip("nobody replaces a worker that was killed")

        def body() -> list[Any]:
            futures = kills_its_process.map([tmp_path] * COUNT, range(COUNT), batch_size=BATCH)
            results = futures.result(raise_on_failure=False)
            return [*results, futures[ODD].state.type.value]

        *results, state = self.in_flow(body)
        assert isinstance(results.pop(ODD), CrashedRun) and state == "CRASHED"
        assert results == [item for item in range(COUNT) if item != ODD]

    def test_batched_items_that_are_cancelled_one_by_one(self, tmp_path: Path) -> None:
        self.needs_work_beside_the_flow()
        cancelled = (ODD, BATCH + 1)

        def body() -> list[Any]:
            note(tmp_path / "gate", "")
            kept = stays.map([tmp_path] * COUNT, range(COUNT), batch_size=BATCH).result()
            (tmp_path / "gate").unlink()
            futures = stays.map([tmp_path] * COUNT, range(COUNT), batch_size=BATCH)
            for item in cancelled:
                futures[item].cancel()
            names = [futures[item].wait(30) and futures[item].state.name for item in cancelled]
            note(tmp_path / "gate", "")
            rest = [
                future.result(30)
                for item, future in enumerate(futures)
                if item != ODD and item != BATCH + 1
            ]
            return [kept, names[0], names[1] in ("Cancelled", "Completed"), rest]

        kept, odd, other, rest = self.in_flow(body)
        assert kept == list(range(COUNT)) and odd == "Cancelled" and other
        assert rest == [item for item in range(COUNT) if item not in cancelled]

    def test_a_long_item_holds_up_no_others(self, tmp_path: Path) -> None:
        self.needs_work_beside_the_flow()

        def body() -> list[int]:
            futures = stays.map([tmp_path] * COUNT, range(COUNT), batch_size=BATCH)
            others = [future for item, future in enumerate(futures) if item != ODD]
            results = [future.result(timeout=20) for future in others]
            assert not futures[ODD].done()
            note(tmp_path / "gate", "")
            return [*results, futures[ODD].result()]

        assert sorted(self.in_flow(body)) == list(range(COUNT))
        assert len(notes(tmp_path / "began")) == COUNT

    def test_a_batched_item_with_a_large_result(self) -> None:
        def body() -> list[int]:
            return length_of.map(sized.map(range(COUNT), batch_size=BATCH)).result()

        assert self.in_flow(body) == [1_000_000 if n == ODD else n for n in range(COUNT)]

    def test_batched_items_that_wait_for_others(self) -> None:
        def body() -> list[int]:
            return asks_others.map(range(COUNT), batch_size=BATCH).result()

        assert self.in_flow(body) == list(range(1, COUNT + 1))

    def test_batches_of_a_size_that_is_not_known(self) -> None:
        def body() -> list[Any]:
            later = inc.map(numbers.submit(500), batch_size=7)
            alone = inc.map(range(20), batch_size=1)
            return [sum(later.result()), sum(alone.result()), sum(inc.map(range(5_000)).result())]

        assert self.in_flow(body) == [125_250, 210, 12_502_500]

    def test_a_batch_size_that_is_none_is_refused(self) -> None:
        def body() -> None:
            for size in (0, True, 1.5, "all"):
                with pytest.raises(OptionError, match="batch_size"):
                    inc.map([1], batch_size=size)

        self.in_flow(body)

    def test_a_task_has_its_own_batch_size(self) -> None:
        def body() -> list[float]:
            return mean_of.map([[1, 2, 3]], batch_size=3).result()

        assert self.in_flow(body) == [2.0]
