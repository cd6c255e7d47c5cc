"""What each store holds to: an SQLite file, memory, and PostgreSQL."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from anabranch.errors import LockedStoreError, StaleOwnerError, StoreError
from anabranch.store import rows, sessions
from anabranch.store.database import Database, Insert, Row, clean
from anabranch.store.opening import open_store
from anabranch.store.sessions import Process, SessionRow, Watch

PREFIX = "0" * 19
RUN_COLUMNS = ", ".join(rows.SETTLED_RUN.columns)


@pytest.fixture(params=["file", "memory", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    urls: dict[str, Callable[[], str | None]] = {
        "file": lambda: None,
        "memory": lambda: "sqlite:///:memory:",
        "postgres": lambda: request.getfixturevalue("postgres_store_url"),
    }
    opened = open_store(urls[request.param](), tmp_path, durable=False)
    yield opened
    opened.close()


def run(number: int, **changes: Any) -> Row:
    values = {
        "id": rows.row_id(7, number),
        "flow_run": rows.row_id(7, 0),
        "task": 1,
        "number": number,
        "phase": 9,
        "attempt": 1,
        "started": 1764111111.25,
        "ended": None if number % 3 else 1764111112.5,
        "inputs": bytes(range(16)) if number % 2 else None,
        "form": "json",
        "result": b"%d" % number,
    }
    return tuple((values | changes).values())


def insert(store: Database, insert: Insert, its_rows: list[Row]) -> None:
    with store.transaction() as transaction:
        transaction.insert(insert, its_rows)


def count(store: Database, table: str) -> int:
    return store.read(f"SELECT count(*) FROM {table}")[0][0]


# -- transactions ---------------------------------------------------------------------------------


def test_a_transaction_is_kept_whole(store: Database) -> None:
    with store.transaction() as transaction:
        transaction.insert(rows.SETTLED_RUN, [run(1)])
        assert transaction.changed("UPDATE task_run SET attempt = 2") == 1
        assert transaction.execute("SELECT attempt FROM task_run") == [(2,)]
    assert store.read("SELECT id, attempt FROM task_run") == [(rows.row_id(7, 1), 2)]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_rolls_back_and_passes(store: Database, error: type[BaseException]) -> None:
    with pytest.raises(error), store.transaction() as transaction:
        transaction.insert(rows.SETTLED_RUN, [run(1)])
        raise error
    assert count(store, "task_run") == 0
    insert(store, rows.SETTLED_RUN, [run(2)])
    assert count(store, "task_run") == 1


def test_a_statement_that_fails_rolls_back_and_the_store_goes_on(store: Database) -> None:
    with pytest.raises(StoreError), store.transaction() as transaction:
        transaction.insert(rows.SETTLED_RUN, [run(1)])
        transaction.execute("SELECT 1 FROM nowhere")
    with pytest.raises(StoreError):
        store.read("SELECT 1 FROM nowhere")
    assert count(store, "task_run") == 0


def test_a_row_that_lacks_what_it_must_have_is_refused(store: Database) -> None:
    with pytest.raises(StoreError):
        insert(store, rows.SETTLED_RUN, [run(1), run(2, phase=None)])
    assert count(store, "task_run") == 0


def test_a_statement_without_rows_gives_none(store: Database) -> None:
    with store.transaction() as transaction:
        assert transaction.execute("DELETE FROM task") == []
        assert transaction.execute("SELECT * FROM task") == []
        assert transaction.changed("UPDATE task SET name = ? WHERE id = ?", ("n", 1)) == 0


def test_a_closed_store_says_so(store: Database) -> None:
    store.close()
    if store.url == "sqlite:///:memory:":
        assert count(store, "task") == 0  # others may hold it too
    else:
        with pytest.raises(StoreError, match="closed"):
            count(store, "task")


# -- rows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("many", [0, 1, 499, 500, 501, 1_733])
def test_rows_arrive_whole_however_many(store: Database, many: int) -> None:
    given = [run(number) for number in range(many)]
    insert(store, rows.SETTLED_RUN, given)
    assert store.read(f"SELECT {RUN_COLUMNS} FROM task_run ORDER BY id") == given


@pytest.mark.parametrize("many", [1, 499, 500, 501, 1_733])
def test_rows_that_are_there_are_updated_where_they_may_be(store: Database, many: int) -> None:
    insert(store, rows.SETTLED_RUN, [run(number) for number in range(0, many, 2)])
    again = [run(number, phase=11, task=2, result=None) for number in range(many)]
    insert(store, rows.SETTLED_RUN, again)
    found = store.read("SELECT number, phase, task, result FROM task_run ORDER BY id")
    assert found == [(number, 11, 2 if number % 2 else 1, None) for number in range(many)]


def test_rows_that_are_there_stay_where_nothing_is_updated(store: Database) -> None:
    first = (1, None, None, 1, 5, 0, "m", 1.0)
    insert(store, rows.SUBMISSION, [first])
    insert(store, rows.SUBMISSION, [(1, None, None, 2, 6, 0, None, 2.0), (2, *first[1:])])
    columns = ", ".join(rows.SUBMISSION.columns)
    found = store.read(f"SELECT {columns} FROM submission ORDER BY id")
    assert found == [first, (2, *first[1:])]


def test_a_row_with_no_conflict_named_is_refused_twice(store: Database) -> None:
    plain = Insert("concurrency_limit", ("name", "slots", "used", "at"))
    insert(store, plain, [("a", 1, 0.5, 0.0)])
    with pytest.raises(StoreError):
        insert(store, plain, [("a", 2, 0.5, 0.0)])
    assert store.read("SELECT name, slots, used FROM concurrency_limit") == [("a", 1, 0.5)]


@pytest.mark.parametrize("value", [b"", b"\0", bytes(range(256)) * 5_000, b"'\\\"%s?$1", None])
def test_bytes_come_back_as_they_were(store: Database, value: bytes | None) -> None:
    insert(store, rows.SETTLED_RUN, [run(1, result=value)])
    found = store.read("SELECT result FROM task_run WHERE id = ?", (rows.row_id(7, 1),))
    assert found == [(value,)]
    assert value is None or type(found[0][0]) is bytes


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("", ""),
        ("a ? b % c %s $1 'q' \"d\" \\", "a ? b % c %s $1 'q' \"d\" \\"),
        ("zähler 数 🦦", "zähler 数 🦦"),
        ("a\0b", "a\ufffdb"),
        ("\ud800x", "?x"),
        (None, None),
    ],
)
def test_any_text_can_be_kept_once_it_is_clean(
    store: Database, text: str | None, kept: str | None
) -> None:
    log = (None, None, None, 1.0, 20, "logger", clean(text), clean(text) or "")
    insert(store, rows.LOG, [log])
    assert store.read("SELECT run_name, message FROM log") == [(kept, kept or "")]


@pytest.mark.parametrize(
    "key", [rows.row_id(1, 0), rows.row_id(1, 2**32 - 1), rows.row_id(2**31 - 1, 2**32 - 1)]
)
def test_ids_are_as_long_as_they_get(store: Database, key: int) -> None:
    insert(store, rows.DEPENDENCY, [(key, key - 1)])
    assert store.read("SELECT * FROM dependency WHERE upstream = ?", (key - 1,)) == [(key, key - 1)]


def test_numbers_come_back_as_they_were(store: Database) -> None:
    values = [0.1, -1e308, 5e-324, 1764111111.123456, 3.0]
    given = [run(number, started=value) for number, value in enumerate(values)]
    insert(store, rows.SETTLED_RUN, given)
    found = store.read("SELECT started FROM task_run ORDER BY id")
    assert [row[0] for row in found] == values
    assert {type(row[0]) for row in found} == {float}


WRITER_ROWS: dict[Insert, dict[str, Any]] = {
    rows.FLOW_RUN: {"id": 1, "root": 1, "parent": None, "inputs": b"i", "parameters": b"p", "flow_source": b"s",
                    "created": 1.5, "started": None, "attempt": 1},
    rows.ANY_RUN: dict(zip(rows.SETTLED_RUN.columns, run(1), strict=True))
    | {"parent": None, "submitted": 2.5},
    rows.TRANSITION: {"flow_run": 1, "task_run": None, "at": 1.5, "attempt": 1},
    rows.LOG: {"root": 1, "flow_run": 1, "task_run": 2, "at": 1.5, "level": 20},
    rows.ARTIFACT: {"root": 1, "flow_run": 1, "task_run": None, "created": 1.5, "updated": 1.5},
}  # fmt: skip


@pytest.mark.parametrize("each", WRITER_ROWS, ids=lambda each: each.table)
def test_each_table_takes_the_rows_of_the_writer(store: Database, each: Insert) -> None:
    """What is not said above is text; the second time it is another, where it may be updated."""
    columns = ", ".join(each.columns)
    before = tuple(WRITER_ROWS[each].get(name, f"{name} 1") for name in each.columns)
    after = tuple(WRITER_ROWS[each].get(name, f"{name} 2") for name in each.columns)
    insert(store, each, [before])
    assert store.read(f"SELECT {columns} FROM {each.table}") == [before]
    if each.conflict:
        key = each.columns.index("id")
        insert(store, each, [(*after[:key], before[key], *after[key + 1 :])])
        mixed = tuple(
            new if name in each.updated else old
            for name, old, new in zip(each.columns, before, after, strict=True)
        )
        assert mixed != before
        assert store.read(f"SELECT {columns} FROM {each.table}") == [mixed]


# -- connections ----------------------------------------------------------------------------------


def test_another_connection_sees_what_was_committed(store: Database) -> None:
    other = store.another()
    insert(store, rows.SETTLED_RUN, [run(1)])
    assert count(other, "task_run") == 1
    other.close()
    assert count(store, "task_run") == 1


def test_two_connections_write_at_once(store: Database) -> None:
    session = sessions.open_session(store, PREFIX, 1.0)
    ready = threading.Barrier(2)
    failed: list[BaseException] = []

    def write(database: Database, first: int) -> None:
        try:
            ready.wait()
            for number in range(first, first + 25):
                with database.transaction() as transaction:
                    sessions.beat(transaction, session)
                    transaction.insert(rows.SETTLED_RUN, [run(number)])
        except BaseException as error:
            failed.append(error)

    others = [store.another(), store.another()]
    threads = [
        threading.Thread(target=write, args=(other, first))
        for other, first in zip(others, (0, 25), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for other in others:
        other.close()
    assert not failed
    assert count(store, "task_run") == 50
    found = sessions.find_session(store, session)
    assert found is not None
    assert found.beat == 50


def test_threads_share_a_connection_one_at_a_time(store: Database) -> None:
    inside, overlapped = threading.Lock(), threading.Event()

    def write(number: int) -> None:
        with store.transaction() as transaction:
            if not inside.acquire(blocking=False):
                overlapped.set()
                return
            transaction.insert(rows.SETTLED_RUN, [run(number)])
            inside.release()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not overlapped.is_set()
    assert count(store, "task_run") == 16


def test_what_another_connection_holds_is_locked_in_the_end(
    store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not store.keeps:
        pytest.skip("memory has one connection")
    monkeypatch.setattr("anabranch.store.sqlite.BUSY_SECONDS", 0.1)
    monkeypatch.setattr("anabranch.store.postgres.LOCK_SECONDS", 0.1)
    session = sessions.open_session(store, PREFIX, 1.0)
    other = store.another()
    with store.transaction() as transaction:
        sessions.beat(transaction, session)
        with pytest.raises(LockedStoreError), other.transaction() as refused:
            sessions.beat(refused, session)
    with other.transaction() as transaction:
        sessions.beat(transaction, session)
    other.close()


def test_the_size_grows_with_what_is_kept(store: Database) -> None:
    before = store.size()
    insert(store, rows.SETTLED_RUN, [run(number, result=os.urandom(4_000)) for number in range(99)])
    assert store.size() - before >= 99 * 4_000


# -- sessions -------------------------------------------------------------------------------------


def found(store: Database, session: int) -> SessionRow:
    row = sessions.find_session(store, session)
    assert row is not None
    return row


def flow_run(store: Database, number: int, root: int, state: str, attempt: int = 1) -> int:
    key = rows.row_id(1, number)
    insert(
        store,
        rows.FLOW_RUN,
        [
            (key, f"run-{number}", root, None, None, "name", "flow", "key", b"source", None, "threads", "[]",
             None, None, None, None, state, state.title(), 1.0, 1.0, attempt)
        ],
    )  # fmt: skip  # as it stands in the table
    return key


def test_a_session_opens_beats_and_closes(store: Database) -> None:
    first = sessions.open_session(store, PREFIX + "1", 5.0)
    second = sessions.open_session(store, PREFIX + "2", 6.0)
    assert second > first
    opened = found(store, first)
    assert (opened.prefix, opened.root, opened.beat) == (PREFIX + "1", None, 0)
    assert (opened.opened, opened.closed) == (5.0, None)
    assert opened.process == sessions.this_process()
    with store.transaction() as transaction:
        sessions.beat(transaction, first)
    assert found(store, first).beat == 1
    assert {each.id for each in sessions.open_sessions(store)} == {first, second}
    with store.transaction() as transaction:
        sessions.close_session(transaction, first, 7.0)
    assert found(store, first).closed == 7.0
    assert [each.id for each in sessions.open_sessions(store)] == [second]
    assert sessions.find_session(store, second + 1) is None


def test_a_prefix_has_one_session(store: Database) -> None:
    sessions.open_session(store, PREFIX, 1.0)
    with pytest.raises(StoreError):
        sessions.open_session(store, PREFIX, 2.0)
    assert len(sessions.open_sessions(store)) == 1


def test_a_stale_owner_is_refused_and_writes_nothing(store: Database) -> None:
    session = sessions.open_session(store, PREFIX, 1.0)
    with store.transaction() as transaction:
        sessions.close_session(transaction, session, 2.0)
    with pytest.raises(StaleOwnerError), store.transaction() as transaction:
        transaction.insert(rows.SETTLED_RUN, [run(1)])
        sessions.beat(transaction, session)
    assert count(store, "task_run") == 0
    assert found(store, session).beat == 0


def test_a_closed_session_holds_no_leases_and_stays_closed_as_it_was(store: Database) -> None:
    session = sessions.open_session(store, PREFIX + "1", 1.0)
    other = sessions.open_session(store, PREFIX + "2", 1.0)
    lease = Insert("lease", ("name", "session", "slots", "taken"))
    insert(store, lease, [("gpu", session, 1, 1.0), ("gpu", other, 1, 1.0)])
    for at in (2.0, 3.0):
        with store.transaction() as transaction:
            sessions.close_session(transaction, session, at)
    assert store.read("SELECT session FROM lease") == [(other,)]
    assert found(store, session).closed == 2.0


def test_burying_crashes_what_was_unfinished_and_nothing_else(store: Database) -> None:
    session = sessions.open_session(store, PREFIX, 1.0)
    root = flow_run(store, 1, rows.row_id(1, 1), "RUNNING", attempt=3)
    child = flow_run(store, 2, root, "PENDING")
    done = flow_run(store, 3, root, "COMPLETED")
    foreign = flow_run(store, 4, rows.row_id(1, 4), "RUNNING")
    lease = Insert("lease", ("name", "session", "slots", "taken"))
    insert(store, lease, [("gpu", session, 1, 1.0), ("gpu", session + 1, 1, 1.0)])
    with store.transaction() as transaction:
        transaction.changed("UPDATE session SET root = ? WHERE id = ?", (root, session))

    assert sessions.bury(store, found(store, session), 9.5)

    states = store.read("SELECT id, state_type, state_name, ended FROM flow_run ORDER BY id")
    assert states == [
        (root, "CRASHED", "Crashed", 9.5),
        (child, "CRASHED", "Crashed", 9.5),
        (done, "COMPLETED", "Completed", None),
        (foreign, "RUNNING", "Running", None),
    ]
    message = f"Process {os.getpid()} on {sessions.this_process().host} died under it."
    transitions = store.read(
        "SELECT flow_run, task_run, at, state_type, state_name, message, attempt "
        "FROM transition ORDER BY flow_run"
    )
    assert transitions == [
        (root, None, 9.5, "CRASHED", "Crashed", message, 3),
        (child, None, 9.5, "CRASHED", "Crashed", message, 1),
    ]
    assert store.read("SELECT session FROM lease") == [(session + 1,)]
    assert found(store, session).closed == 9.5


def test_nobody_is_buried_twice(store: Database) -> None:
    session = sessions.open_session(store, PREFIX, 1.0)
    root = flow_run(store, 1, rows.row_id(1, 1), "RUNNING")
    with store.transaction() as transaction:
        transaction.changed("UPDATE session SET root = ? WHERE id = ?", (root, session))
    seen = found(store, session)
    assert sessions.bury(store, seen, 2.0)
    assert not sessions.bury(store, seen, 3.0)
    assert found(store, session).closed == 2.0
    assert count(store, "transition") == 1


def test_of_many_who_bury_one_does(store: Database) -> None:
    session = sessions.open_session(store, PREFIX, 1.0)
    root = flow_run(store, 1, rows.row_id(1, 1), "RUNNING")
    with store.transaction() as transaction:
        transaction.changed("UPDATE session SET root = ? WHERE id = ?", (root, session))
    seen = found(store, session)
    ready = threading.Barrier(4)
    buried: list[bool] = []

    def bury(database: Database) -> None:
        ready.wait()
        buried.append(sessions.bury(database, seen, 2.0))

    with ExitStack() as closing:
        threads: list[threading.Thread] = []
        for _ in range(4):
            other = store.another()
            closing.callback(other.close)
            threads.append(threading.Thread(target=bury, args=(other,)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(buried) == [False, False, False, True]
    assert count(store, "transition") == 1


def test_who_was_buried_and_beats_again_is_refused(store: Database) -> None:
    session = sessions.open_session(store, PREFIX, 1.0)
    assert sessions.bury(store, found(store, session), 2.0)
    with pytest.raises(StaleOwnerError), store.transaction() as transaction:
        sessions.beat(transaction, session)
    assert found(store, session).beat == 0


def test_a_session_of_another_host_lapses_once_it_counts_no_further(
    store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = Process("elsewhere", "another boot", 1, "1")
    monkeypatch.setattr(sessions, "this_process", lambda: elsewhere)
    session = sessions.open_session(store, PREFIX, 1.0)
    now = 100.0
    watch = Watch(lapse=15.0, clock=lambda: now)
    assert sessions.is_gone(found(store, session)) is None
    assert not watch.has_lapsed(found(store, session))
    now += 14.9
    assert not watch.has_lapsed(found(store, session))
    with store.transaction() as transaction:
        sessions.beat(transaction, session)
    assert not watch.has_lapsed(found(store, session))  # it was seen to count
    now += 14.9
    assert not watch.has_lapsed(found(store, session))
    now += 0.1
    assert watch.has_lapsed(found(store, session))


PROCESS = """
import sys
from anabranch.store.sessions import this_process
print(*this_process(), sep="\\n", flush=True)
sys.stdin.read()
"""


def test_a_process_that_was_killed_is_gone_at_once(
    store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROCESS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        host, boot, pid, start = (process.stdout.readline().strip() for _ in range(4))
        owner = Process(host, boot, int(pid), start)
        monkeypatch.setattr(sessions, "this_process", lambda: owner)
        session = sessions.open_session(store, PREFIX, 1.0)
        assert sessions.is_gone(found(store, session)) is False
        assert not Watch(lapse=0.0).has_lapsed(found(store, session))
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert sessions.is_gone(found(store, session)) is True  # nobody has reaped it
    assert sessions.is_gone(found(store, session)) is True
    assert Watch().has_lapsed(found(store, session))


def test_a_process_that_got_the_number_of_another_is_not_the_same(store: Database) -> None:
    session = sessions.open_session(store, PREFIX, 1.0)
    seen = found(store, session)
    assert sessions.is_gone(seen) is False
    assert sessions.is_gone(seen._replace(process_start="1")) is True
    assert sessions.is_gone(seen._replace(boot="an earlier start")) is None
