"""Transactions: what is committed and what is undone, in which order, on each runner."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from anabranch import allow_failure, flow, task
from anabranch.cache_policies import INPUTS
from anabranch.errors import OptionError, TransactionError, UnpicklableError
from anabranch.results import ResultStore
from anabranch.settings import load_settings
from anabranch.store.opening import open_store
from anabranch.testing.contract.tasks import note, notes
from anabranch.transactions import CommitMode, IsolationLevel, get_transaction, transaction

RUNNERS = ["threads", "asyncio", "processes", "inline"]
DONE: list[str] = []


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    DONE.clear()
    monkeypatch.setenv("ANABRANCH_HOME", str(tmp_path / "home"))


@task(
    on_commit=[lambda txn: DONE.append("commit first")],
    on_rollback=[lambda txn: DONE.append("undo first")],
)
def first() -> int:
    return 1


@task
def second(x: int) -> int:
    return x + 1


@second.on_commit
def _second_commits(txn: Any) -> None:
    DONE.append("commit second")


@second.on_rollback
def _second_undone(txn: Any) -> None:
    DONE.append("undo second")


@task
def fail(x: Any = None) -> int:
    raise ValueError("no")


@task(
    on_rollback=[lambda txn: DONE.append("undo item")],
    on_commit=[lambda txn: DONE.append("commit item")],
)
def item(x: int) -> int:
    if x == 3:
        raise ValueError("three")
    return x


def states(name: str) -> list[tuple[str, str | None]]:
    """What the store has of the runs of a task, as (state name, last transition)."""
    settings = load_settings()
    database = open_store(settings.database_url, settings.home, False)
    try:
        found = database.read(
            "SELECT r.id, r.state_name FROM task_run r JOIN task t ON t.id = r.task "
            "WHERE t.name = ? ORDER BY r.id",
            (name,),
        )
        given: list[tuple[str, str | None]] = []
        for row, state in found:
            told = database.read(
                "SELECT state_type, state_name FROM transition WHERE task_run = ? ORDER BY id",
                (row,),
            )
            given.append((state, "/".join(told[-1]) if told else None))
        return given
    finally:
        database.close()


# -- on each runner ---------------------------------------------------------------------------------


@pytest.mark.parametrize("runner", RUNNERS)
def test_commits_at_the_end_of_the_block(runner: str) -> None:
    @flow(task_runner=runner)
    def pipeline() -> int:
        with transaction() as txn:
            future = second.submit(first.submit())
            assert txn.is_active()
        assert future.done()
        assert txn.is_committed()
        assert DONE == ["commit first", "commit second"]
        return future.result()

    assert pipeline() == 2
    assert states("first") == [(None, None)]


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_failure_undoes_the_rest_last_first(runner: str) -> None:
    kept: dict[str, Any] = {}

    @flow(task_runner=runner)
    def pipeline() -> None:
        with pytest.raises(ValueError, match="no"), transaction() as txn:
            one = first.submit()
            two = second.submit(one)
            fail.submit(two)
        kept["states"] = [one.state.name, two.state.name]
        assert txn.is_rolled_back()

    pipeline()
    assert DONE == ["undo second", "undo first"]
    assert kept["states"] == ["RolledBack", "RolledBack"]
    assert states("first") == [("RolledBack", "COMPLETED/RolledBack")]
    assert states("second") == [("RolledBack", "COMPLETED/RolledBack")]


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_block_that_raises_waits_and_undoes(runner: str) -> None:
    @flow(task_runner=runner)
    def pipeline() -> None:
        with transaction():
            first()
            second.submit(1)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        pipeline()
    assert sorted(DONE) == ["undo first", "undo second"]


@pytest.mark.parametrize("runner", RUNNERS)
def test_maps_join(runner: str) -> None:
    @flow(task_runner=runner)
    def pipeline(items: list[int]) -> None:
        with transaction():
            item.map(items)

    pipeline([1, 2])
    assert DONE == ["commit item"] * 2
    DONE.clear()
    with pytest.raises(ValueError, match="three"):
        pipeline([1, 2, 3, 4])
    assert DONE == ["undo item"] * 3


@pytest.mark.parametrize("runner", RUNNERS)
def test_nested_tasks_and_subflows_join(runner: str) -> None:
    @flow
    def below() -> int:
        return second(first.submit())  # pyright: ignore[reportArgumentType]  # its result

    @task
    def outer() -> int:
        return second(1)

    @flow(task_runner=runner)
    def pipeline(broken: bool) -> None:
        with transaction():
            below()
            below.submit().result()
            outer.submit().result()
            if broken:
                raise ValueError("broken")

    pipeline(False)
    assert DONE == ["commit first", "commit second"] * 2 + ["commit second"]
    DONE.clear()
    with pytest.raises(ValueError, match="broken"):
        pipeline(True)
    assert ["undo second", *["undo second", "undo first"] * 2] == DONE


@pytest.mark.parametrize("runner", RUNNERS)
def test_async_blocks(runner: str) -> None:
    @flow(task_runner=runner)
    async def pipeline(broken: bool) -> None:
        async with transaction() as txn:
            future = second.submit(first.submit())
            if broken:
                fail.submit(future)
        assert future.done() and txn.is_committed()

    asyncio.run(pipeline(False))
    assert DONE == ["commit first", "commit second"]
    DONE.clear()
    with pytest.raises(ValueError, match="no"):
        asyncio.run(pipeline(True))
    assert DONE == ["undo second", "undo first"]


@pytest.mark.parametrize("runner", RUNNERS)
def test_results_are_not_seen_by_others_before_the_commit(runner: str, tmp_path: Path) -> None:
    for options in ({}, {"result_storage": tmp_path / "shared"}):
        cached = second.with_options(cache_policy=INPUTS, name=f"cached-{len(options)}", **options)

        def seen(cached: Any = cached) -> bool:
            found: list[bool] = []
            other = threading.Thread(target=lambda: found.append(cached.explain_cache(1).hit))
            other.start()
            other.join()
            return found[0]

        @flow(task_runner=runner)
        def pipeline(broken: bool, cached: Any = cached, seen: Any = seen) -> list[str]:
            with transaction():
                one = cached.submit(1)
                one.wait()
                two = cached.submit(1)  # found by those who are in it
                two.wait()
                assert not seen()
                if broken:
                    raise KeyError("broken")
            assert seen()
            return [one.state.name, two.state.name]

        with pytest.raises(KeyError):
            pipeline(True)
        assert not seen()
        assert pipeline(False) == ["Completed", "Cached"]


# -- values, hooks, nesting -------------------------------------------------------------------------


def test_values_go_down_and_not_up() -> None:
    @task
    def writes() -> str:
        txn = get_transaction()
        assert txn is not None and txn.parent.get("label") == "outer"
        txn.set("label", "task")
        return txn.get("label")

    seen: list[Any] = []
    writes.on_rollback(lambda txn: seen.append(txn.get("label")))

    @flow
    def pipeline() -> None:
        with pytest.raises(KeyError), transaction() as txn:
            txn.set("label", "outer")
            assert writes.submit().result() == "task"
            assert writes() == "task"
            assert txn.get("label") == "outer"
            with transaction() as inner:
                assert inner.get("label") == "outer"
                inner.set("label", "inner")
            assert txn.get("label") == "outer"
            assert txn.get("none", None) is None
            with pytest.raises(TransactionError, match="'none'"):
                txn.get("none")
            raise KeyError
        assert get_transaction() is None

    pipeline()
    assert seen == ["task", "task"]


def test_the_values_of_a_task_outlast_its_retries() -> None:
    @task(retries=1)
    def twice() -> int:
        txn = get_transaction()
        assert txn is not None
        txn.set("count", txn.get("count", 0) + 1)
        if txn.get("count") == 1:
            raise ValueError
        return txn.get("count")

    @flow
    def pipeline() -> int:
        with transaction():
            return twice.submit().result()

    assert pipeline() == 2


def test_a_hook_that_raises_does_not_stop_the_next(caplog: pytest.LogCaptureFixture) -> None:
    def bad(txn: Any) -> None:
        raise RuntimeError("bad hook")

    async def slow(txn: Any) -> None:
        await asyncio.sleep(0)
        DONE.append("async")

    broken = first.with_options(on_rollback=[slow, bad, lambda txn: DONE.append("good")])

    @flow
    def pipeline() -> None:
        with transaction():
            first()
            broken()
            raise KeyError

    with pytest.raises(KeyError):
        pipeline()
    assert DONE == ["good", "async", "undo first"]
    told = [record for record in caplog.records if "bad raised RuntimeError" in record.getMessage()]
    assert len(told) == 1 and told[0].exc_info


def test_async_hooks_in_a_plain_block_of_an_async_flow() -> None:
    async def slow(txn: Any) -> None:
        await asyncio.sleep(0)
        DONE.append("async")

    slowly = first.with_options(on_commit=[slow])

    @flow
    async def pipeline() -> None:
        with transaction():
            slowly()

    asyncio.run(pipeline())
    assert DONE == ["async"]


def test_a_child_commits_with_its_parent() -> None:
    @flow
    def pipeline() -> None:
        with transaction():
            first()
            with transaction() as inner:
                second(1)
            assert inner.is_staged()
            assert DONE == []
        assert inner.is_committed()

    pipeline()
    assert DONE == ["commit first", "commit second"]


def test_an_eager_child_commits_at_its_own_end() -> None:
    @flow
    def pipeline() -> None:
        with transaction():
            first()
            with transaction(commit_mode="eager") as inner:
                second(1)
            assert inner.is_committed()
            assert DONE == ["commit second"]
            raise KeyError

    with pytest.raises(KeyError):
        pipeline()
    assert DONE == ["commit second", "undo first"]


def test_a_lazy_child_is_undone_with_its_parent() -> None:
    @flow
    def pipeline() -> None:
        with transaction():
            first()
            with transaction() as inner:
                second(1)
            item(1)
            assert inner.is_staged()
            raise KeyError

    with pytest.raises(KeyError):
        pipeline()
    assert DONE == ["undo item", "undo second", "undo first"]
    assert states("second") == [("RolledBack", "COMPLETED/RolledBack")]


def test_a_failed_child_that_is_caught_leaves_its_parent() -> None:
    @flow
    def pipeline() -> None:
        with transaction():
            first()
            try:
                with transaction():
                    second.submit(1)
                    fail()
            except ValueError:
                DONE.append("caught")

    pipeline()
    assert DONE == ["undo second", "caught", "commit first"]


def test_a_failed_child_fails_its_parent() -> None:
    @flow
    def pipeline() -> None:
        with transaction():
            first()
            with transaction():
                second(1)
                fail.submit()

    with pytest.raises(ValueError, match="no"):
        pipeline()
    assert DONE == ["undo second", "undo first"]


def test_off_rolls_back_unless_told() -> None:
    @flow
    def pipeline(commits: bool) -> None:
        with transaction(commit_mode=CommitMode.OFF) as txn:
            first()
            if commits:
                assert txn.commit()
                assert not txn.commit()

    pipeline(False)
    assert DONE == ["undo first"]
    DONE.clear()
    pipeline(True)
    assert DONE == ["commit first"]


def test_what_was_committed_by_hand_is_not_undone() -> None:
    @flow
    def pipeline() -> None:
        with transaction() as txn:
            first()
            txn.commit()
            second(1)
            raise KeyError

    with pytest.raises(KeyError):
        pipeline()
    assert DONE == ["commit first", "undo second"]


def test_a_rollback_by_hand() -> None:
    @flow
    def pipeline() -> None:
        with transaction() as txn:
            first()
            assert txn.rollback()
            assert DONE == ["undo first"]
            second(1)
        assert txn.is_rolled_back()

    pipeline()
    assert DONE == ["undo first", "undo second"]


def test_what_a_task_deals_with_is_no_failure_of_the_block() -> None:
    tries: list[int] = []

    @task(retries=1)
    def outer() -> int:
        tries.append(1)
        if len(tries) == 1:
            return fail()
        return second(1)

    @flow
    def below() -> int:
        fail.submit().wait()
        return 1

    @flow
    def pipeline() -> None:
        with transaction():
            assert outer.submit().result() == 2
            assert below() == 1

    pipeline()
    assert DONE == ["commit second"]


def test_an_allowed_failure_still_undoes() -> None:
    @flow
    def pipeline() -> None:
        with transaction():
            second.submit(1)
            str_of.submit(allow_failure(fail.submit())).wait()

    str_of = task(str)
    with pytest.raises(ValueError, match="no"):
        pipeline()
    assert DONE == ["undo second"]


def test_tasks_that_a_hook_calls_are_in_no_transaction() -> None:
    calls = first.with_options(on_rollback=[lambda txn: DONE.append(f"called {second(1)}")])

    @flow
    def pipeline() -> None:
        with transaction():
            calls()
            raise KeyError

    with pytest.raises(KeyError):
        pipeline()
    assert DONE == ["called 2"]


def test_a_generator_that_the_block_was_reading() -> None:
    @task
    def numbers() -> Any:
        yield 1
        yield 2

    @flow
    def pipeline() -> None:
        with transaction():
            first()
            for _ in numbers():
                raise KeyError

    with pytest.raises(KeyError):
        pipeline()
    assert DONE == ["undo first"]


def test_a_timeout_of_the_flow_undoes(monkeypatch: pytest.MonkeyPatch) -> None:
    held = threading.Event()

    @task
    def waits() -> None:
        held.wait()

    @flow(timeout_seconds=0.2)
    def pipeline() -> None:
        with transaction():
            first()
            waits.submit().result()

    monkeypatch.setenv("ANABRANCH_CANCEL_GRACE", "0.1")
    with pytest.raises(TimeoutError):
        pipeline()
    held.set()
    assert DONE == ["undo first"]


# -- outside of a flow ------------------------------------------------------------------------------


def test_outside_of_a_flow() -> None:
    with transaction():
        second(first())
    assert DONE == ["commit first", "commit second"]
    DONE.clear()
    with pytest.raises(ValueError, match="no"), transaction():
        first()
        fail()
    assert DONE == ["undo first"]
    assert states("first")[-1] == ("RolledBack", "COMPLETED/RolledBack")


def test_outside_of_a_flow_async() -> None:
    @task(on_rollback=[lambda txn: DONE.append("undo async")])
    async def one() -> int:
        return 1

    async def main() -> None:
        async with transaction():
            assert await one() == 1
            raise KeyError

    with pytest.raises(KeyError):
        asyncio.run(main())
    assert DONE == ["undo async"]


def test_flows_in_a_block_outside_join_it() -> None:
    @flow
    def pipeline() -> int:
        return second(first.submit())  # pyright: ignore[reportArgumentType]  # its result

    with pytest.raises(KeyError), transaction():
        assert pipeline() == 2
        raise KeyError
    assert DONE == ["undo second", "undo first"]
    assert states("second") == [("RolledBack", "COMPLETED/RolledBack")]


# -- keys -------------------------------------------------------------------------------------------


def test_a_key_is_done_once(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)

    def work(**options: Any) -> Any:
        with transaction(key="daily", store=store, **options) as txn:
            if txn.is_committed():
                return "read", txn.read()
            value = first()
            txn.stage({"value": value}, on_commit_hooks=[lambda txn: DONE.append("commit block")])
        return "done", txn.read()

    assert work() == ("done", {"value": 1})
    assert DONE == ["commit first", "commit block"]
    assert work() == ("read", {"value": 1})
    assert work(overwrite=True) == ("done", {"value": 1})
    assert store.read("daily").value == {"value": 1}


def test_a_key_that_was_rolled_back_is_not_written(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    for broken in (True, False):
        try:
            with (
                transaction(key="k", store=store) as outer,
                transaction(key="i", store=store) as txn,
            ):
                txn.stage(1)
                outer.stage(2, on_rollback_hooks=[lambda txn: DONE.append("undo block")])
                if broken:
                    raise KeyError
        except KeyError:
            assert DONE == ["undo block"]
        assert store.exists("k") is store.exists("i") is (not broken)
    with transaction(key="none", store=store, write_on_commit=False) as txn:
        txn.stage(1)
    assert not store.exists("none")


def test_a_value_that_cannot_be_written_undoes(tmp_path: Path) -> None:
    with (
        pytest.raises(TypeError, match="lock"),
        transaction(key="k", store=ResultStore(tmp_path)) as txn,
    ):
        first()
        txn.stage(threading.Lock())
    assert txn.is_rolled_back()
    assert DONE == ["commit first", "undo first"]


def test_serializable_keeps_others_out(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    inside, go_on = threading.Event(), threading.Event()
    order: list[str] = []

    @flow
    def holds() -> None:
        with transaction("k", store, isolation_level="serializable") as txn:
            inside.set()
            go_on.wait(10)
            order.append("first")
            txn.stage(1)

    @flow
    def waits() -> None:
        with transaction("k", store, isolation_level=IsolationLevel.SERIALIZABLE) as txn:
            order.append(f"second {txn.is_committed()}")

    one = threading.Thread(target=holds)
    one.start()
    assert inside.wait(10)
    looked = threading.Event()
    from anabranch.engine.cache_desk import CacheDesk

    claim = CacheDesk.claim

    def told(self: CacheDesk, name: str) -> bool:
        taken = claim(self, name)
        if not taken:
            looked.set()
        return taken

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CacheDesk, "claim", told)
        two = threading.Thread(target=waits)
        two.start()
        assert looked.wait(10)
        assert order == []
        go_on.set()
        one.join(10)
        two.join(10)
    assert order == ["first", "second True"]


def test_options_that_make_no_sense() -> None:
    for options in (
        {"overwrite": True},
        {"isolation_level": "serializable"},
        {"commit_mode": "sometimes"},
        {"key": "k", "store": "folder"},
    ):
        with pytest.raises(OptionError):
            transaction(**options)  # pyright: ignore[reportArgumentType]  # on purpose
    with transaction() as txn:
        with pytest.raises(TransactionError, match="without a key"):
            txn.read()
        first()
    with pytest.raises(TransactionError, match="once"), txn:
        pass
    with pytest.raises(TransactionError, match="committed"):
        txn.stage(1)


def test_a_task_cannot_end_its_block() -> None:
    @task
    def ends() -> None:
        txn = get_transaction()
        assert txn is not None
        for method in (txn.commit, txn.rollback, txn.read):
            with pytest.raises(TransactionError, match="a task run"):
                method()

    with transaction():
        ends()


@task
def opens() -> None:
    with transaction():
        pass


# -- on worker processes, beside what the contract has for all runners --------------------------------


def on_one_process(body: Any) -> Any:
    return flow(task_runner="processes?max_workers=1")(body)()


@task(on_rollback=[lambda txn: note(Path(txn.get("path")), "undone")])
def leaves_a_trace(path: Path) -> None:
    mine = get_transaction()
    assert mine is not None
    mine.set("path", str(path))
    note(path, "made")


@task
def dies_in_a_block(path: Path) -> str:
    with transaction() as txn:
        leaves_a_trace.submit(path).wait()
        if notes(path) == ["made"]:
            os.kill(os.getpid(), signal.SIGKILL)
    return txn.state.value


def test_a_block_whose_process_dies_is_undone_before_it_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    assert on_one_process(lambda: dies_in_a_block.submit(path).result()) == "committed"
    assert notes(path) == ["made", "undone", "made"]


@task
def sets(name: str, value: Any) -> Any:
    mine = get_transaction()
    assert mine is not None
    mine.set(name, value() if callable(value) else value)
    return mine.parent.get(name, "not above"), mine.parent.parent


def test_values_that_cannot_travel_are_refused() -> None:
    def body() -> None:
        with transaction(commit_mode="off"):
            assert sets.submit("one", 1).result() == ("not above", None)
        unsent = pytest.raises(UnpicklableError, match=r"The value set under 'two' .*lock")
        with unsent, transaction():
            sets.submit("two", threading.Lock)

    on_one_process(body)


@task(timeout_seconds=3)
def waits_in_a_block(path: Path) -> None:
    with transaction():
        leaves_a_trace.submit(path).wait()
        time.sleep(60)


@task(timeout_seconds=3)
async def waits_in_an_async_block(path: Path) -> None:
    async with transaction():
        await leaves_a_trace.submit(path)
        await asyncio.sleep(60)


@task(timeout_seconds=3)
async def waits_at_the_end_of_an_async_block(path: Path) -> None:
    async with transaction():
        await leaves_a_trace.submit(path)
        waits_in_vain.submit()


@task
def waits_in_vain() -> None:
    time.sleep(60)


@pytest.mark.parametrize(
    "waits",
    [waits_in_a_block, waits_in_an_async_block, waits_at_the_end_of_an_async_block],
    ids=["sync", "async", "at the end"],
)
def test_a_timeout_in_a_block_undoes_it(tmp_path: Path, waits: Any) -> None:
    path = tmp_path / "notes"

    def body() -> str:
        future = waits.submit(path)
        future.wait()
        return future.state.name

    assert on_one_process(body) == "TimedOut"
    assert notes(path) == ["made", "undone"]


MADE_OUTSIDE = transaction()


@task
def enters_what_was_made_outside() -> None:
    with MADE_OUTSIDE:
        pass


def test_a_block_from_outside_of_the_task_is_refused_on_a_worker() -> None:
    def body() -> None:
        with pytest.raises(TransactionError, match=r"Call transaction\(\) inside the task"):
            enters_what_was_made_outside.submit().result()

    on_one_process(body)


# -- a resume ---------------------------------------------------------------------------------------

SCRIPT = """
    import os, sys
    from pathlib import Path
    from anabranch import flow, task
    from anabranch.transactions import transaction

    told = Path(sys.argv[1])

    def tell(text):
        with told.open("a") as file:
            file.write(text + "\\n")

    @task(on_commit=[lambda txn: tell("commit one")], on_rollback=[lambda txn: tell("undo one")])
    def one():
        tell("run one")
        return 1

    @flow
    def below():
        return one()

    @task
    def two(mode):
        tell("run two")
        if mode == "crash" and told.read_text().count("run two") == 1:
            os._exit(9)
        if mode == "fail" and told.read_text().count("run two") == 1:
            raise ValueError("two")
        return 2

    @flow(flow_run_name="the-run")
    def pipeline(mode, nested):
        with transaction():
            (below if nested else one)()
            two(mode)

    if len(sys.argv) == 4:
        pipeline(sys.argv[2], sys.argv[3] == "nested")
    else:
        from anabranch.settings import load_settings
        from anabranch.store.opening import open_store
        settings = load_settings()
        database = open_store(settings.database_url, settings.home, False)
        ids = database.read("SELECT run_id FROM flow_run WHERE name = 'the-run'")
        database.close()
        pipeline.resume(ids[0][0])
"""


@pytest.mark.parametrize("nested", ["plain", "nested"])
def test_resumes(tmp_path: Path, nested: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))

    def run(*args: str) -> int:
        home = {**os.environ, "ANABRANCH_HOME": str(tmp_path / args[0])}
        home["ANABRANCH_DURABILITY"] = "strict"  # what ran is recorded before the crash
        told = tmp_path / f"{args[0]}.txt"
        command = [sys.executable, str(script), str(told), *args[1:]]
        return subprocess.run(command, env=home, timeout=50, capture_output=True).returncode

    assert run("crash", "crash", nested) == 9
    assert run("crash") == 0
    lines = (tmp_path / "crash.txt").read_text().split("\n")
    assert lines == ["run one", "run two", "run two", "commit one", ""]

    assert run("fail", "fail", nested) == 1
    assert (tmp_path / "fail.txt").read_text().split("\n")[-2] == "undo one"
    assert run("fail") == 0
    lines = (tmp_path / "fail.txt").read_text().split("\n")
    assert lines[3:] == ["run one", "run two", "commit one", ""]
