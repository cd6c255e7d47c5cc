"""What is read from the store, and removed from it, over rows as a writer leaves them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from stored_runs import StoredRun

from anabranch.durations import parse_duration
from anabranch.errors import AmbiguousRunError, DurationError, UnknownRunError
from anabranch.outcomes import (
    COMPLETED,
    CRASHED,
    FAILED,
    QUEUED,
    RETRY_WAIT,
    RUNNING,
    SLOT_WAIT,
    TIMED_OUT,
    WAITING,
)
from anabranch.runs import id_prefix, run_id
from anabranch.store.burial import bury_the_dead
from anabranch.store.cache_queries import cached, clear_cache
from anabranch.store.database import Database, Insert
from anabranch.store.log_queries import artifacts, logs
from anabranch.store.postgres import PostgresDatabase
from anabranch.store.queries import (
    find_flow_run,
    flow_runs,
    run_id_of,
    run_ids,
    subflow_runs,
    transitions,
)
from anabranch.store.retention import remove_runs
from anabranch.store.sessions import Watch
from anabranch.store.sqlite import SqliteDatabase, open_sqlite
from anabranch.store.task_queries import stretches, task_counts, task_runs
from anabranch.store.waiting_queries import waiting

AT = 1_700_000_000.0
TABLES = (
    "flow_run",
    "task_run",
    "submission",
    "dependency",
    "transition",
    "log",
    "artifact",
    "session",
)


@pytest.fixture(params=["file", "memory", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    opened: Database
    if request.param == "postgres":
        opened = PostgresDatabase(request.getfixturevalue("postgres_store_url"))
    else:
        opened = open_sqlite(tmp_path / "a.db") if request.param == "file" else SqliteDatabase(None)
    yield opened
    opened.close()


def counted(database: Database) -> dict[str, int]:
    return {each: database.read(f"SELECT count(*) FROM {each}")[0][0] for each in TABLES}


def by_state(database: Database, stored: StoredRun) -> dict[tuple[str, int], int]:
    run = find_flow_run(database, stored.name)
    return {(each.task, each.phase): each.runs for each in task_counts(database, run)}


# -- flow runs ------------------------------------------------------------------------------------


def test_runs_come_newest_first_and_roots_only(database: Database) -> None:
    old = StoredRun(database, AT, "old-one")
    old.flow("below", "child", parent=old.root, at=AT + 5)
    StoredRun(database, AT + 10, "new-one")
    assert [run.name for run in flow_runs(database, limit=10)] == ["new-one", "old-one"]
    everything = flow_runs(database, limit=10, roots_only=False)
    assert [run.name for run in everything] == ["new-one", "below", "old-one"]
    assert [run.name for run in flow_runs(database, limit=1)] == ["new-one"]


def test_runs_are_chosen_by_state_flow_name_and_age(database: Database) -> None:
    StoredRun(database, AT, "old-one", "census").end("FAILED")
    StoredRun(database, AT + 10, "new-one", "report")
    for chosen in ({"state": "failed"}, {"flow": "census"}, {"name": "old-one"}):
        assert [run.name for run in flow_runs(database, limit=9, **chosen)] == ["old-one"]
    assert [run.name for run in flow_runs(database, limit=9, since=AT + 1)] == ["new-one"]
    assert flow_runs(database, limit=9, state="Completed") == []


def test_a_row_holds_what_was_written(database: Database) -> None:
    stored = StoredRun(database, AT)
    stored.end("FAILED", message="ValueError: no")
    (run,) = flow_runs(database, limit=1)
    assert (run.state, run.state_name, run.message) == ("FAILED", "Failed", "ValueError: no")
    assert (run.tags, run.parameters, run.entrypoint) == (
        ("a", "b"),
        '{"limit": 10}',
        "flows.py:census",
    )
    assert (run.created, run.started, run.ended, run.is_root) == (AT, AT, AT + 10, True)


def test_a_run_is_found_by_id_start_or_name(database: Database) -> None:
    StoredRun(database, AT, "same-name")
    stored = StoredRun(database, AT + 1, "same-name")
    run_id_ = stored.id
    for given in (run_id_, run_id_.upper(), run_id_[:8], f" {run_id_[:15]} ", "same-name"):
        assert find_flow_run(database, given).id == run_id_


def test_a_start_that_two_ids_share_is_told(database: Database) -> None:
    first, second = (StoredRun(database, AT, prefix=f"abcd{number}" * 4) for number in (1, 2))
    assert find_flow_run(database, "abcd1").row == first.root
    with pytest.raises(AmbiguousRunError, match="abcd2abc") as caught:
        find_flow_run(database, "abcd")
    assert first.id in str(caught.value) and second.id in str(caught.value)


def test_the_start_of_an_id_means_the_root_and_not_its_subflows(database: Database) -> None:
    stored = StoredRun(database, AT)
    below = stored.flow("below", parent=stored.root)
    assert find_flow_run(database, stored.prefix[:8]).row == stored.root
    assert find_flow_run(database, stored.id_of(below)[:-1]).row == stored.root
    assert find_flow_run(database, stored.id_of(below)).row == below


@pytest.mark.parametrize("given", ["quiet-herron", "quiet", "cencus"])
def test_an_unknown_run_is_told_with_the_nearest(database: Database, given: str) -> None:
    StoredRun(database, AT, "quiet-heron")
    with pytest.raises(UnknownRunError, match="Did you mean quiet-heron") as caught:
        find_flow_run(database, given)
    assert isinstance(caught.value, LookupError)


@pytest.mark.parametrize("given", ["%", "____", "zzz", "", "abc", "'; --", "\0", "x" * 9999])
def test_what_resembles_nothing_is_told_too(database: Database, given: str) -> None:
    StoredRun(database, AT, "quiet-heron")
    with pytest.raises(UnknownRunError, match="See `anabranch runs ls`"):
        find_flow_run(database, given)


def test_the_nearest_is_not_just_the_newest(database: Database) -> None:
    StoredRun(database, AT, "quiet-heron")
    for number in range(5):
        StoredRun(database, AT + 1 + number, f"amber-{number}")
    with pytest.raises(UnknownRunError, match=r"Did you mean quiet-heron \("):
        find_flow_run(database, "quiet-heroon")


def test_an_empty_store_says_so(database: Database) -> None:
    with pytest.raises(UnknownRunError, match="See `anabranch runs ls`"):
        find_flow_run(database, "quiet-heron")


def test_subflows_are_those_below_at_any_depth(database: Database) -> None:
    stored = StoredRun(database, AT)
    one = stored.flow("one", parent=stored.root, at=AT + 1)
    stored.flow("two", parent=stored.root, at=AT + 2)
    stored.flow("inner", parent=one, at=AT + 3)
    StoredRun(database, AT, "other").flow("not", parent=None)
    root = find_flow_run(database, "quiet-heron")
    assert [run.name for run in subflow_runs(database, root)] == ["one", "two", "inner"]
    assert [run.name for run in subflow_runs(database, find_flow_run(database, "one"))] == ["inner"]


def test_ids_are_those_that_the_engine_made(database: Database) -> None:
    prefix = id_prefix()
    assert run_id_of(7 << 32 | 12345, {7: f"{prefix >> 48:020x}"}) == run_id(prefix, 12345)
    stored = StoredRun(database, AT)
    row = stored.run("parse")
    (found,) = task_runs(database, find_flow_run(database, "quiet-heron"))
    assert found.id == stored.id_of(row) == run_ids(database, [row, 99 << 32])[row]
    assert uuid.UUID(found.id)


def test_transitions_of_a_flow_run_are_not_those_of_its_tasks(database: Database) -> None:
    stored = StoredRun(database, AT)
    row = stored.run("flaky", phase=WAITING)
    stored.moved(row, RETRY_WAIT, AT + 1, "no")
    assert transitions(database, flow_run=stored.root) == []
    (change,) = transitions(database, task_run=row)
    assert (change.at, change.state_name, change.message) == (AT + 1, "AwaitingRetry", "no")


# -- task runs ------------------------------------------------------------------------------------


def test_runs_of_a_map_without_a_row_are_pending(database: Database) -> None:
    stored = StoredRun(database, AT)
    stored.map("parse", 100, completed=60, failed=5)
    stored.run("add_up", phase=WAITING)
    assert by_state(database, stored) == {
        ("parse", COMPLETED): 60,
        ("parse", FAILED): 5,
        ("parse", WAITING): 35,
        ("add_up", WAITING): 1,
    }


def test_two_maps_of_a_task_are_added_up(database: Database) -> None:
    stored = StoredRun(database, AT)
    stored.map("parse", 10, completed=10)
    stored.map("parse", 10, completed=3)
    assert by_state(database, stored) == {("parse", COMPLETED): 13, ("parse", WAITING): 7}


def test_after_a_resume_what_completed_before_counts_once(database: Database) -> None:
    stored = StoredRun(database, AT)
    stored.map("parse", 100, completed=60, failed=4)
    stored.close(AT + 20)
    with database.transaction() as transaction:  # the resume runs those again, as rows of its own
        transaction.changed("DELETE FROM task_run WHERE phase = ?", (FAILED,))
    stored.open(AT + 30)
    first = stored.map("parse", 40, completed=0)
    for number in range(15):
        stored.run("parse", 60 + number, id=first + number)
    assert by_state(database, stored) == {("parse", COMPLETED): 75, ("parse", WAITING): 25}


def test_subflows_tasks_are_not_those_of_the_root(database: Database) -> None:
    stored = StoredRun(database, AT)
    below = stored.flow("below", parent=stored.root)
    stored.run("parse", flow_run=below)
    assert by_state(database, stored) == {}
    assert [each.runs for each in task_counts(database, find_flow_run(database, "below"))] == [1]
    run = find_flow_run(database, stored.name)
    assert task_runs(database, run) == []
    assert [each.name for each in task_runs(database, run, of_subflows=True)] == ["parse-0"]


def test_task_runs_come_a_page_at_a_time_over_sessions(database: Database) -> None:
    stored = StoredRun(database, AT)
    for number in range(5):
        stored.run("parse", number)
    stored.close(AT + 9)
    stored.open(AT + 10)
    for number in range(5, 10):
        stored.run("parse", number, FAILED if number == 7 else COMPLETED)
    run = find_flow_run(database, "quiet-heron")
    pages = [task_runs(database, run, limit=4, offset=offset) for offset in (0, 4, 8)]
    names = [each.name for page in pages for each in page]
    assert names == [f"parse-{number}" for number in range(10)]
    (failed,) = task_runs(database, run, phases=(FAILED, CRASHED))
    assert (failed.name, failed.state, failed.state_name) == ("parse-7", "FAILED", "Failed")


def test_names_and_states_of_their_own_win(database: Database) -> None:
    stored = StoredRun(database, AT)
    stored.run("parse", 3, name="parse a.py", state_name="Cached", message="from yesterday")
    stored.run("parse", 4, TIMED_OUT)
    own, usual = task_runs(database, find_flow_run(database, "quiet-heron"))
    assert (own.name, own.state_name, own.message) == ("parse a.py", "Cached", "from yesterday")
    assert (usual.name, usual.state, usual.state_name) == ("parse-4", "FAILED", "TimedOut")


def test_stretches_say_when_runs_ran(database: Database) -> None:
    stored = StoredRun(database, AT)
    for number in range(4):
        stored.run("parse", number, started=AT + 10.2, ended=AT + 30.2)
    stored.run("parse", 4, RUNNING, started=AT + 20.2)
    found = stretches(database, find_flow_run(database, "quiet-heron"), AT, 10.0)
    times = sorted((each.begin, each.until, each.runs) for each in found if each.until)
    assert times == [(1, 3, 4)]
    (running,) = [each for each in found if each.until is None]
    assert (running.begin, running.runs, running.seconds) == (2, 1, None)
    assert sum(each.seconds or 0 for each in found) == pytest.approx(80)


# -- waits ----------------------------------------------------------------------------------------


def test_each_wait_has_its_reason(database: Database) -> None:
    stored = StoredRun(database, AT)
    done = stored.run("load")
    slow = stored.run("crunch", 1, RUNNING)
    blocked = stored.run("add_up", 0, WAITING)
    stored.depends(blocked, done, slow)
    again = stored.run("flaky", 0, WAITING)
    stored.moved(again, RETRY_WAIT, AT + 3, "TimeoutError: no")
    slot = stored.run("gpu", 0, WAITING)
    stored.moved(slot, SLOT_WAIT, AT + 4)
    stored.run("upload", 0, QUEUED)
    found = {each.task: each for each in waiting(database, find_flow_run(database, "quiet-heron"))}
    assert set(found) == {"add_up", "flaky", "gpu", "upload"}
    (upstream,) = found["add_up"].upstream
    assert (upstream.name, upstream.state_name) == ("crunch-1", "Running")
    assert upstream.id == stored.id_of(slow)
    retry = found["flaky"]
    assert (retry.reason, retry.since, retry.message) == (
        "AwaitingRetry",
        AT + 3,
        "TimeoutError: no",
    )
    assert found["gpu"].reason == "AwaitingConcurrencySlot"
    assert (found["upload"].reason, found["upload"].since) == ("queued", AT)


def test_runs_of_maps_without_rows_wait_for_each_other(database: Database) -> None:
    stored = StoredRun(database, AT)
    first = stored.map("parse", 10, completed=3)
    second = stored.map("count", 10)
    for index in range(10):
        stored.depends(second + index, first + index)
    found = waiting(database, find_flow_run(database, "quiet-heron"))
    assert [each.name for each in found] == [f"count-{index}" for index in range(3, 10)]
    assert [each.upstream[0].name for each in found] == [f"parse-{index}" for index in range(3, 10)]
    assert {each.upstream[0].state_name for each in found} == {"Pending"}
    assert len(waiting(database, find_flow_run(database, "quiet-heron"), limit=2)) == 2


def test_a_retry_that_has_begun_does_not_wait(database: Database) -> None:
    stored = StoredRun(database, AT)
    row = stored.run("flaky", 0, RUNNING, attempt=2)
    stored.moved(row, RETRY_WAIT, AT + 3)
    assert waiting(database, find_flow_run(database, "quiet-heron")) == []


def test_nothing_waits_in_a_run_that_ended(database: Database) -> None:
    stored = StoredRun(database, AT)
    stored.run("add_up", 0, WAITING)
    assert waiting(database, find_flow_run(database, "quiet-heron"))
    stored.end("CRASHED")
    assert waiting(database, find_flow_run(database, "quiet-heron")) == []


# -- logs and artifacts ---------------------------------------------------------------------------


def test_logs_go_on_from_a_line_and_by_level(database: Database) -> None:
    stored = StoredRun(database, AT)
    StoredRun(database, AT, "other").log("not this")
    for number in range(6):
        stored.log(f"line {number}", level=40 if number % 2 else 20)
    root = stored.root or 0
    first = logs(database, root, limit=2)
    assert [line.message for line in first] == ["line 0", "line 1"]
    rest = logs(database, root, after_id=first[-1].id, min_level=30)
    assert [line.message for line in rest] == ["line 3", "line 5"]
    last = logs(database, root, limit=2, newest=True)
    assert [line.message for line in last] == ["line 4", "line 5"]
    assert logs(database, root, flow_run=root + 1) == []


def test_artifacts_are_those_of_the_root(database: Database) -> None:
    stored = StoredRun(database, AT)
    StoredRun(database, AT, "other").artifact("not this")
    stored.artifact("totals", '[{"a": 1}]')
    (found,) = artifacts(database, stored.root or 0)
    assert (found.key, found.type, found.data) == ("totals", "table", '[{"a": 1}]')


# -- the dead -------------------------------------------------------------------------------------


def test_a_run_whose_process_was_killed_has_crashed(database: Database) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    stored = StoredRun(database, AT)
    own(database, stored, process.pid)
    assert bury_the_dead(database, Watch(), AT + 5).alive
    process.kill()
    process.communicate()
    found = bury_the_dead(database, Watch(), AT + 6)
    assert [each.id for each in found.buried] == [stored.session]
    run = find_flow_run(database, "quiet-heron")
    assert (run.state, run.ended) == ("CRASHED", AT + 6)
    assert str(process.pid) in (run.message or "")
    assert not any(bury_the_dead(database, Watch(), AT + 7))


def own(database: Database, stored: StoredRun, pid: int) -> None:
    from anabranch.store.sessions import process_start

    with database.transaction() as transaction:
        transaction.changed(
            "UPDATE session SET pid = ?, process_start = ? WHERE id = ?",
            (pid, process_start(pid), stored.session),
        )


def test_a_process_of_another_host_stays_until_its_count_stands_still(database: Database) -> None:
    stored = StoredRun(database, AT)
    with database.transaction() as transaction:
        transaction.changed("UPDATE session SET host = ?", ("not-" + socket.gethostname(),))
    now = [0.0]
    watch = Watch(lapse=15, clock=lambda: now[0])
    assert [each.id for each in bury_the_dead(database, watch, AT).unseen] == [stored.session]
    now[0] = 14.0
    assert bury_the_dead(database, watch, AT).unseen
    now[0] = 16.0
    assert bury_the_dead(database, watch, AT).buried
    assert find_flow_run(database, "quiet-heron").state == "CRASHED"


# -- removing -------------------------------------------------------------------------------------


def full_run(database: Database, at: float, name: str) -> StoredRun:
    stored = StoredRun(database, at, name)
    first = stored.map("parse", 30, completed=30)
    below = stored.flow(f"{name}-below", parent=stored.root)
    last = stored.run("add_up", flow_run=below)
    stored.depends(last, first, first + 1)
    stored.moved(last, RETRY_WAIT, at)
    stored.log("line")
    stored.artifact("totals")
    return stored


def test_all_below_an_old_run_goes_and_nothing_else(database: Database) -> None:
    new = full_run(database, AT + 1000, "new-one")
    new.end()
    left = counted(database)
    old = full_run(database, AT, "old-one")
    old.close(AT + 5)
    old.open(AT + 6)  # as after a resume
    old.map("parse", 30, completed=2)
    old.end()
    assert all(count > left[table] for table, count in counted(database).items())
    removed = remove_runs(database, older_than_seconds=500, now=AT + 1000)
    assert counted(database) == left
    assert [run.name for run in flow_runs(database, limit=9)] == ["new-one"]
    assert (removed.flow_runs, removed.task_runs, removed.logs, removed.artifacts) == (2, 33, 1, 1)


def test_what_has_not_ended_stays(database: Database) -> None:
    running = full_run(database, AT, "running-one")
    owned = full_run(database, AT, "owned-one")
    owned.end(close=False)  # its process still writes
    before = counted(database)
    ids = [each.id for each in (running, owned)]
    assert remove_runs(database, older_than_seconds=1, now=AT + 9999).flow_runs == 0
    assert sorted(remove_runs(database, ids=ids, now=AT + 9999).kept) == sorted(ids)
    assert counted(database) == before


def test_runs_go_by_their_ids(database: Database) -> None:
    stored = full_run(database, AT, "old-one")
    stored.end()
    StoredRun(database, AT, "other").end()
    removed = remove_runs(database, ids=[stored.id], now=AT + 11)
    assert (removed.flow_runs, removed.kept) == (2, ())
    assert [run.name for run in flow_runs(database, limit=9)] == ["other"]


def test_tasks_outside_of_flows_go_with_their_session(database: Database) -> None:
    stored = StoredRun(database, AT)
    stored.end()
    stored.open(AT)
    with database.transaction() as transaction:
        transaction.changed("UPDATE session SET root = NULL WHERE id = ?", (stored.session,))
    stored.run("alone", flow_run=None)
    stored.close(AT + 1)
    assert remove_runs(database, older_than_seconds=1, now=AT + 100).task_runs == 1
    assert not any(counted(database).values())


def test_a_removal_gives_the_disk_back_and_holds_no_writer_up(tmp_path: Path) -> None:
    database = open_sqlite(tmp_path / "a.db")
    small = database.size()
    stored = StoredRun(database, AT)
    stored.map("parse", 40_000, completed=40_000)
    stored.end()
    large = database.size()
    other = database.another()
    waits: list[int] = []
    ended = threading.Event()

    def write() -> None:
        while not ended.wait(0.001):
            with other.transaction() as transaction:
                waits.append(transaction.changed("UPDATE session SET beat = beat + 1"))

    writer = threading.Thread(target=write)
    writer.start()
    removed = remove_runs(database, older_than_seconds=1, now=AT + 100)
    ended.set()
    writer.join()
    other.close()
    assert removed.task_runs == 40_000
    assert len(waits) > 1  # it got in between
    assert large > 2_000_000 and database.size() < 2 * small
    database.close()


# -- the cache ------------------------------------------------------------------------------------


def test_cached_results_are_listed_and_forgotten(database: Database) -> None:
    columns = ("key", "task_key", "created", "expires", "form", "size", "preview", "task_run")
    insert = Insert("cached", columns)
    with database.transaction() as transaction:
        transaction.insert(
            insert,
            [
                ("aaa1", "flows:parse", AT, None, "json", 2, "1", None),
                ("aab2", "flows:parse", AT + 1, AT + 50, "json", 2, "2", None),
                ("ccc3", "flows:count", AT + 2, AT + 500, "json", None, None, None),
            ],
        )
    assert [each.key for each in cached(database, limit=9)] == ["ccc3", "aab2", "aaa1"]
    assert [each.key for each in cached(database, limit=1, task_key="flows:parse")] == ["aab2"]
    assert clear_cache(database, expired_at=AT + 100) == 1
    assert clear_cache(database, keys=["aaa", "%", "_aa1", ""]) == 1
    assert [each.key for each in cached(database, limit=9)] == ["ccc3"]
    assert clear_cache(database) == 1


# -- lengths of time ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30d", 2_592_000), ("12h", 43_200), ("1w", 604_800), ("90m", 5_400), ("45s", 45),
        ("1d12h", 129_600), (" 1d 12h ", 129_600), ("1.5H", 5_400), ("0s", 0),
    ],
)  # fmt: skip  # pairs
def test_lengths_of_time(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "30", "d", "30x", "-1d", "1d-", "1e3s", "\u0661d", "1 day", "30d!"]
)
def test_what_is_no_length_of_time_is_told(text: str) -> None:
    with pytest.raises(DurationError, match="30d, 12h or 1d12h") as caught:
        parse_duration(text)
    assert repr(text) in str(caught.value)


def test_the_writers_process_is_this_one(database: Database) -> None:
    StoredRun(database, AT)
    (alive,) = bury_the_dead(database, Watch(), AT).alive
    assert alive.pid == os.getpid()
