"""What a run leaves in the store: its runs, states, dependencies, results and log lines."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from resumable import RUNNERS, log_of, newest_run, only, rows

from anabranch import flow, get_run_logger, task, unmapped
from anabranch.cache_policies import INPUTS
from anabranch.engine.broadcast import Broadcast
from anabranch.engine.intake import LOOK_EACH
from anabranch.errors import LockedStoreError, UpstreamTaskError
from anabranch.outcomes import CANCELLED, COMPLETED, CRASHED, FAILED, NOT_READY, TIMED_OUT
from anabranch.states import Completed, Failed
from anabranch.store import sqlite, writer

RUNS = (
    "SELECT t.name, r.number, r.phase, r.attempt FROM task_run r JOIN task t ON t.id = r.task "
    "ORDER BY r.id"
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of its own for each test."""
    folder = tmp_path / "home"
    monkeypatch.setenv("ANABRANCH_HOME", str(folder))
    return folder


# -- tasks ----------------------------------------------------------------------------------------


@task
def double(x: int) -> int:
    return 2 * x


@task
async def triple(x: int) -> int:
    return 3 * x


@task
def fails(x: int) -> int:
    raise ValueError(f"no {x}")


@task(retries=2, retry_delay_seconds=0.01)
def flaky(folder: str) -> str:
    file = Path(folder) / "tries"
    file.write_text((file.read_text() if file.exists() else "") + "x")
    if len(file.read_text()) < 3:
        raise OSError("not yet")
    return "done"


@task
def listed(n: int) -> list[int]:
    return list(range(n))


@task
def counted(n: int) -> Iterator[int]:
    yield from range(n)


@task
def total(values: Any, more: int = 0) -> int:
    return sum(values) + more


@task
def slow_or_not(seconds: float) -> None:
    threading.Event().wait(seconds)


@task
def gives_state(good: bool) -> Any:
    return Completed(data=[1], message="well") if good else Failed(message="ill")


@task
def parent(x: int) -> int:
    child = double.submit(x)
    return child.result() + double(x + 1)


# -- runs and states ------------------------------------------------------------------------------


@pytest.mark.parametrize("runner", RUNNERS)
def test_task_runs_with_their_dependencies_and_parents(runner: str) -> None:
    @flow(task_runner=runner, name="census")
    def runs() -> int:
        one, two = double.submit(1), triple.submit(2)
        found = total.submit([one, {"two": two}["two"]], more=1, wait_for=[double.submit(9)])
        mapped = double.map([5, 6, 7])
        return found.result() + sum(mapped.result()) + parent.submit(3).result()

    assert runs() == 9 + 36 + 14
    run_id = newest_run()
    assert rows("SELECT run_id, flow_name, state_type, state_name, attempt FROM flow_run") == [
        (run_id, "census", "COMPLETED", "Completed", 1)
    ]
    assert only("SELECT preview FROM flow_run") == "59"
    task_runs = rows(RUNS)
    assert [(name, phase) for name, _, phase, _ in task_runs] == [
        (name, COMPLETED)
        for name in (
            "double",
            "triple",
            "double",
            "total",
            *["double"] * 3,
            "parent",
            *["double"] * 2,
        )
    ]
    assert sorted(number for name, number, *_ in task_runs if name == "double") == list(range(7))
    ids = [row for (row,) in rows("SELECT id FROM task_run ORDER BY id")]
    one, two, waited, summed, *_, its_parent, child, called = ids
    assert rows("SELECT task_run, upstream FROM dependency ORDER BY upstream") == [
        (summed, each) for each in (one, two, waited)
    ]
    assert rows("SELECT id, parent FROM task_run WHERE parent IS NOT NULL ORDER BY id") == [
        (child, its_parent),
        (called, its_parent),
    ]
    ((first, count, map_id),) = rows(
        "SELECT s.id, s.count, s.map_id FROM submission s JOIN task t ON t.id = s.task"
    )
    assert (first, count) == (ids[4], 3)
    assert map_id is not None
    assert only("SELECT COUNT(*) FROM task_run WHERE started IS NULL OR ended < started") == 0
    assert only("SELECT COUNT(*) FROM session WHERE closed IS NULL") == 0


@pytest.mark.parametrize("runner", RUNNERS)
def test_what_did_not_complete(runner: str) -> None:
    @flow(task_runner=runner)
    def runs() -> str:
        failed = fails.submit(1)
        states = [failed.state, total.submit([failed]).state]
        futures = [
            failed,
            total.submit([failed]),
            gives_state.submit(True),
            gives_state.submit(False),
        ]
        for future in futures:
            future.wait()
        del states
        return "on"

    assert runs() == "on"
    found = rows(
        "SELECT t.name, r.phase, r.state_name, r.message FROM task_run r "
        "JOIN task t ON t.id = r.task ORDER BY r.id"
    )
    assert found[0] == ("fails", FAILED, None, "ValueError: no 1")
    assert [(name, phase) for name, phase, *_ in found[1:3]] == [("total", NOT_READY)] * 2
    assert all("fails" in message for *_, message in found[1:3])
    assert found[3] == ("gives_state", COMPLETED, "Completed", "well")
    assert found[4] == ("gives_state", FAILED, "Failed", "ill")
    assert only("SELECT message FROM flow_run").startswith("4 task runs did not complete")


@pytest.mark.parametrize("runner", RUNNERS)
def test_retries_are_transitions(runner: str, tmp_path: Path) -> None:
    @flow(task_runner=runner)
    def runs() -> str:
        return flaky.submit(str(tmp_path)).result()

    assert runs() == "done"
    assert rows("SELECT phase, attempt FROM task_run") == [(COMPLETED, 3)]
    moved = rows(
        "SELECT state_name, attempt, message FROM transition "
        "WHERE task_run = (SELECT id FROM task_run) ORDER BY id"
    )
    assert moved == [
        ("AwaitingRetry", 1, "OSError: not yet"),
        ("AwaitingRetry", 2, "OSError: not yet"),
    ]
    flows = rows("SELECT state_name FROM transition WHERE task_run IS NULL ORDER BY id")
    assert flows == [("Running",), ("Completed",)]


def test_timed_out_cancelled_and_crashed_runs() -> None:
    @task
    def leaves() -> None:
        raise SystemExit(3)

    @flow(task_runner="threads")
    def runs() -> None:
        late = slow_or_not.with_options(timeout_seconds=0.05, retries=0).submit(20.0)
        crashed = leaves.submit()
        cancelled = slow_or_not.submit(20.0)
        cancelled.cancel()
        for future in (late, crashed, cancelled):
            future.wait()

    runs()
    found = rows("SELECT phase, message, form FROM task_run ORDER BY id")
    assert [phase for phase, *_ in found] == [TIMED_OUT, CRASHED, CANCELLED]
    assert [form for *_, form in found] == [None] * 3
    assert "SystemExit" in found[1][1]


def test_failed_and_cancelled_flows() -> None:
    @flow
    def fails_itself() -> None:
        raise LookupError("nothing there")

    @flow
    def interrupted() -> None:
        signal.raise_signal(signal.SIGINT)
        double.submit(1).wait()

    with pytest.raises(LookupError):
        fails_itself()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert rows("SELECT state_type, message, form FROM flow_run ORDER BY id") == [
        ("FAILED", "LookupError: nothing there", None),
        ("CANCELLED", "Cancelled (Ctrl-C).", None),
    ]


def test_subflows_stand_below_their_parent() -> None:
    @flow
    def below(x: int) -> list[int]:
        return [double.submit(x).result()]

    @flow
    def runs() -> list[int]:
        return below(1) + below.submit(2).result()

    assert runs() == [2, 4]
    found = rows("SELECT id, root, parent, flow_name, form, preview FROM flow_run ORDER BY id")
    root = found[0][0]
    assert [row[1:] for row in found] == [
        (root, None, "runs", "pickle", "[2, 4]"),
        (root, root, "below", "pickle", "[2]"),
        (root, root, "below", "pickle", "[4]"),
    ]
    owners = rows("SELECT flow_run FROM task_run ORDER BY id")
    assert owners == [(row[0],) for row in found[1:]]
    assert rows("SELECT parameters IS NULL FROM flow_run ORDER BY id") == [(0,), (1,), (1,)]


# -- results --------------------------------------------------------------------------------------


class Unpicklable:
    def __init__(self) -> None:
        self.lock = threading.Lock()


@pytest.mark.parametrize("runner", RUNNERS)
def test_results_are_kept_inline_or_it_is_said_why_not(
    runner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANABRANCH_RESULT_INLINE_LIMIT", "1000")

    @flow(task_runner=runner)
    def runs() -> None:
        for future in (double.submit(4), listed.submit(3), listed.submit(9000), counted.submit(2)):
            future.wait()
        if not runner.startswith("processes"):
            opaque.submit().wait()
        list(counted(1))

    runs()
    found = rows("SELECT form, result, preview FROM task_run ORDER BY id")
    assert found[0] == ("json", b"8", None)
    assert (found[1][0], found[1][2]) == ("pickle", "[0, 1, 2]")
    assert found[2][:2] == ("not kept", None)
    assert found[2][2].startswith("not kept: too large")
    assert (found[3][0], found[3][2]) == ("pickle", "[0, 1]")
    if not runner.startswith("processes"):
        assert found[4][0] == "not kept"
        assert "lock" in found[4][2]
    assert found[-1][:2] == ("not kept", None)
    assert "given out" in found[-1][2]


@task
def opaque() -> Unpicklable:
    return Unpicklable()


def test_what_is_changed_after_the_task_is_kept_as_the_task_left_it() -> None:
    @flow(task_runner="inline")
    def runs() -> list[int]:
        found = listed.submit(2).result()
        found.append(100)
        return found

    assert runs() == [0, 1, 100]
    assert only("SELECT preview FROM task_run") == "[0, 1]"
    assert only("SELECT preview FROM flow_run") == "[0, 1, 100]"


def test_parameters_are_shown_and_defaults_with_them() -> None:
    @flow
    def runs(size: int, name: str = "a") -> None: ...

    runs(3)
    assert json.loads(only("SELECT parameters_preview FROM flow_run")) == {
        "size": "3",
        "name": '"a"',
    }


# -- logs -----------------------------------------------------------------------------------------


@task(log_prints=True)
def talks(x: int) -> None:
    get_run_logger().warning("says %d", x)
    print("prints", x)


@pytest.mark.parametrize("runner", RUNNERS)
def test_log_lines_belong_to_their_runs(runner: str) -> None:
    @flow(task_runner=runner)
    def runs() -> None:
        get_run_logger().info("begins")
        talks.map([1, 2]).wait()
        talks(3)
        fails.submit(7).wait()

    runs()
    lines = rows(
        "SELECT l.message, l.level, t.name, l.run_name FROM log l "
        "LEFT JOIN task_run r ON r.id = l.task_run LEFT JOIN task t ON t.id = r.task ORDER BY l.id"
    )
    said = {message: rest for message, *rest in lines}
    assert said["begins"][:2] == [20, None]
    for number in (1, 2, 3):
        assert said[f"says {number}"] == [30, "talks", f"talks-{number - 1}"]
        assert said[f"prints {number}"] == [20, "talks", f"talks-{number - 1}"]
    (failed,) = [message for message in said if "no 7" in message]
    assert said[failed][1] == "fails"
    assert "Traceback" in failed
    assert 'raise ValueError(f"no {x}")' in failed


@pytest.mark.parametrize("runner", ["asyncio", "threads"])
def test_async_flows_are_recorded_alike(runner: str) -> None:
    @flow(task_runner=runner)
    async def runs() -> list[int]:
        get_run_logger().info("begins")
        found = await triple.map([1, 2])
        return [*found, await triple(3), double(4)]

    assert asyncio.run(runs()) == [3, 6, 9, 8]
    assert [(name, phase) for name, _, phase, _ in rows(RUNS)] == [("triple", COMPLETED)] * 3 + [
        ("double", COMPLETED)
    ]
    assert "begins" in log_of(newest_run())


def test_a_map_with_what_stays_the_same() -> None:
    @flow
    def runs() -> list[int]:
        return total.map([[1], [2]], more=unmapped(3)).result()

    assert runs() == [4, 5]
    assert len({inputs for (inputs,) in rows("SELECT inputs FROM task_run")}) == 2


def test_a_cached_task_that_is_tried_again_is_not_waited_for_by_itself(tmp_path: Path) -> None:
    cached = flaky.with_options(cache_policy=INPUTS)

    @flow
    def runs() -> list[str]:
        return [cached.submit(str(tmp_path)).result(timeout=20) for _ in range(2)]

    assert runs() == ["done", "done"]
    assert rows("SELECT attempt, state_name FROM task_run ORDER BY id") == [
        (3, None),
        (1, "Cached"),
    ]


def test_in_strict_durability_what_cannot_be_written_has_not_completed(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANABRANCH_DURABILITY", "strict")
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.05)
    monkeypatch.setattr(writer, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(writer, "RETRY_SECONDS", 0.05)
    after: list[str] = []

    @task
    def follows(x: int) -> None:
        after.append(f"after {x}")

    @flow
    def runs() -> None:
        follows.submit(double.submit(1)).result()
        with closing(sqlite3.connect(home / "anabranch.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(UpstreamTaskError):
                follows.submit(double.submit(2)).result()
            other.execute("ROLLBACK")

    runs()
    assert after == ["after 2"]
    assert rows("SELECT result FROM task_run WHERE form = 'json'") == [(b"2",), (b"null",)]


def test_a_store_that_cannot_tell_its_tasks_at_first_records_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reads = sqlite.SqliteDatabase.read
    refused: list[str] = []

    def read(self: sqlite.SqliteDatabase, sql: str, values: Any = ()) -> Any:
        if "FROM task ORDER BY" in sql and not refused:
            refused.append(sql)
            raise LockedStoreError(self.url, "SQLITE_BUSY")
        return reads(self, sql, values)

    @flow
    def body() -> int:
        return sum(double.map([1, 2]).result())

    with monkeypatch.context() as patch:
        patch.setattr(sqlite.SqliteDatabase, "read", read)
        assert body() == 6 and refused
    assert rows("SELECT count(*) FROM task_run") == [(2,)]


def test_direct_calls_wait_for_a_writer_that_falls_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    monkeypatch.setattr(Broadcast, "back_pressure", lambda _: held.append(1))

    @flow
    def body() -> int:
        return sum(double(n) for n in range(10 * LOOK_EACH))

    body()
    assert len(held) >= 10
