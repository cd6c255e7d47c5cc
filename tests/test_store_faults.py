"""The embedded store on bad ground: full, read-only, damaged, foreign and locked files."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from mounts import IS_ROOT, mount, mounted

from anabranch.errors import (
    CorruptStoreError,
    FullStoreError,
    LockedStoreError,
    NotAStoreError,
    ReadOnlyStoreError,
)
from anabranch.store import rows, sqlite
from anabranch.store.database import Database, Row
from anabranch.store.opening import open_store
from anabranch.store.sqlite import open_sqlite

PAGE = 4096


def log(message: str) -> Row:
    return (1, None, None, 1.0, 20, "logger", None, message)


def write(store: Database, *messages: str) -> None:
    with store.transaction() as transaction:
        transaction.insert(rows.LOG, [log(message) for message in messages])


def open_and_write(home: Path) -> None:
    with closing(open_store(None, home, durable=False)) as store:
        write(store, "refused")


def messages(store: Database) -> list[str]:
    return [row[0] for row in store.read("SELECT message FROM log ORDER BY id")]


def fill(disk: Path) -> Path:
    """A file that takes what is left."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (PAGE, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return filler


# -- full and read-only ---------------------------------------------------------------------------


def test_a_full_disk_is_told_and_loses_nothing(small_disk: Path) -> None:
    kept: list[str] = []
    with closing(open_store(None, small_disk, durable=False)) as store:
        filler = small_disk / "filler"
        filler.write_bytes(bytes(300_000))
        with pytest.raises(FullStoreError, match=f"{small_disk}.*Make room") as raised:
            for number in range(1_000):
                write(store, f"{number} " + "x" * 20_000, "second")
                kept += [f"{number} " + "x" * 20_000, "second"]
        assert isinstance(raised.value, OSError)
        assert kept  # it was not full from the start
        assert messages(store) == kept
        filler.unlink()
        write(store, "there is room again")
        assert messages(store) == [*kept, "there is room again"]
    with closing(open_store(None, small_disk, durable=False)) as store:
        assert messages(store) == [*kept, "there is room again"]


def test_a_store_cannot_be_made_on_a_full_disk(small_disk: Path) -> None:
    filler = fill(small_disk)
    with pytest.raises(FullStoreError, match="Make room"):
        open_store(None, small_disk, durable=False)
    filler.unlink()
    with closing(open_store(None, small_disk, durable=False)) as store:
        write(store, "a")


@pytest.mark.parametrize("room", range(20_000, 400_000, 20_000))
def test_however_much_room_is_left_a_full_disk_is_called_one(small_disk: Path, room: int) -> None:
    reserve = small_disk / "reserve"
    reserve.write_bytes(bytes(room))
    fill(small_disk)
    reserve.unlink()
    try:
        with closing(open_store(None, small_disk / "home", durable=False)) as store:
            for _ in range(100):
                write(store, "x" * 5_000)
    except FullStoreError as error:
        assert "Make room" in str(error)
    else:
        pytest.fail("there was room enough")


def test_a_read_only_file_is_told(tmp_path: Path) -> None:
    with closing(open_store(None, tmp_path, durable=False)) as store:
        write(store, "kept")
    path = tmp_path / "anabranch.db"
    before = path.read_bytes()
    with read_only(path):
        with pytest.raises(ReadOnlyStoreError, match=f"{path}.*permissions"):
            open_and_write(tmp_path)
        assert path.read_bytes() == before
    with closing(open_store(None, tmp_path, durable=False)) as store:
        assert messages(store) == ["kept"]


@pytest.mark.parametrize("made", [True, False])
def test_a_read_only_folder_is_told(tmp_path: Path, made: bool) -> None:
    home = tmp_path / "home"
    home.mkdir()
    if made:
        with closing(open_store(None, home, durable=False)) as store:
            write(store, "kept")
    before = sorted(os.listdir(home))
    with read_only(home):
        with pytest.raises(ReadOnlyStoreError, match=f"{home}.*permissions"):
            open_and_write(home)
        with pytest.raises(ReadOnlyStoreError, match=f"{home}.*permissions"):
            open_store(None, home / "below", durable=False)
        assert sorted(os.listdir(home)) == before
    with closing(open_store(None, home, durable=False)) as store:
        assert messages(store) == (["kept"] if made else [])


@contextmanager
def read_only(path: Path) -> Iterator[None]:
    """By permissions; and for root, whom they do not bind, by a mount."""
    if IS_ROOT:
        with mounted(path, "--bind", path):
            mount("-o", "remount,ro,bind", path)
            yield
        return
    mode = path.stat().st_mode
    path.chmod(mode & ~0o222)
    try:
        yield
    finally:
        path.chmod(mode)


# -- damaged and foreign --------------------------------------------------------------------------


@pytest.fixture
def big_store(tmp_path: Path) -> Path:
    """The file of a store with a few hundred pages."""
    with closing(open_store(None, tmp_path, durable=False)) as store:
        write(store, *(f"{number} " + "x" * 1_000 for number in range(1_000)))
    path = tmp_path / "anabranch.db"
    assert path.stat().st_size > 200 * PAGE
    assert os.listdir(tmp_path) == ["anabranch.db"]
    return path


@pytest.mark.parametrize(
    ("start", "end"),
    [(16, None), (100, None), (100, PAGE), (PAGE, None), (100, 100 * PAGE)],
)
def test_a_file_whose_pages_were_overwritten_is_moved_aside(
    big_store: Path, start: int, end: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    content = bytearray(big_store.read_bytes())
    end = len(content) if end is None else end
    content[start:end] = b"\xa5" * (end - start)
    check_moved_aside(big_store, bytes(content), caplog)


@pytest.mark.parametrize("part", [0.5, 0.9])
@pytest.mark.parametrize("uneven", [0, 77])
def test_a_file_that_was_cut_is_moved_aside(
    big_store: Path, part: float, uneven: int, caplog: pytest.LogCaptureFixture
) -> None:
    content = big_store.read_bytes()
    pages = int(len(content) / PAGE * part)
    check_moved_aside(big_store, content[: pages * PAGE + uneven], caplog)


def check_moved_aside(path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    path.write_bytes(content)
    with closing(open_store(None, path.parent, durable=False)) as store:
        assert messages(store) == []
        write(store, "a new one")
        (aside,) = path.parent.glob("anabranch.db.damaged-*[0-9]")
        assert aside.read_bytes() == content
        assert str(path) in caplog.text
        assert str(aside) in caplog.text
    with closing(open_store(None, path.parent, durable=False)) as store:
        assert messages(store) == ["a new one"]


def test_damage_that_shows_later_is_told(big_store: Path) -> None:
    content = bytearray(big_store.read_bytes())
    content[-100 * PAGE :] = b"\xa5" * (100 * PAGE)
    big_store.write_bytes(content)
    with (
        closing(open_store(None, big_store.parent, durable=False)) as store,
        pytest.raises(CorruptStoreError, match=f"{big_store} is damaged"),
    ):
        messages(store)
    assert big_store.stat().st_size == len(content)


@pytest.mark.parametrize(
    "content",
    [b"a", b"name,value\nx,1\n", b"name,value\n" + b"x,1\n" * 10_000, bytes(5_000), b"SQLite form"],
    ids=["one byte", "short", "long", "zeros", "half a header"],
)
def test_a_file_of_another_kind_is_refused_untouched(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(content)
    with pytest.raises(NotAStoreError, match=r"data\.csv is not a store.*left as it is"):
        open_store(f"sqlite:///{path}", tmp_path, durable=False)
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["data.csv"]


def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    (tmp_path / "anabranch.db").touch()
    with closing(open_store(None, tmp_path, durable=False)) as store:
        write(store, "a")
        assert messages(store) == ["a"]


def test_a_folder_in_the_place_of_the_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "anabranch.db").mkdir()
    with pytest.raises(ReadOnlyStoreError, match=r"anabranch\.db"):
        open_store(None, tmp_path, durable=False)
    assert os.listdir(tmp_path / "anabranch.db") == []


def test_a_file_in_the_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("mine")
    with pytest.raises(ReadOnlyStoreError, match="home"):
        open_store(None, tmp_path / "home", durable=False)
    assert (tmp_path / "home").read_text() == "mine"


# -- locked ---------------------------------------------------------------------------------------

HOLD = """
import select, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
select.select([sys.stdin], [], [], float(sys.argv[2]))
connection.execute("ROLLBACK")
connection.close()
"""


@contextmanager
def held(path: Path, seconds: float) -> Iterator[None]:
    """By another process, for so long or to the end of the block."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), str(seconds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield
        holder.communicate("end\n")
    assert holder.returncode == 0


def test_a_store_that_another_process_holds_is_waited_for(tmp_path: Path) -> None:
    open_store(None, tmp_path, durable=False).close()
    with held(tmp_path / "anabranch.db", seconds=7.0):
        began = time.monotonic()
        with closing(open_store(None, tmp_path, durable=False)) as store:
            write(store, "waited")
            assert time.monotonic() - began > 5.0
            assert messages(store) == ["waited"]


@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
def test_a_store_that_is_held_for_long_is_told_as_locked(
    tmp_path: Path, journal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.2)
    path = tmp_path / "anabranch.db"
    with closing(open_sqlite(path)) as store:
        store.read(f"PRAGMA journal_mode={journal}")
    with held(path, seconds=60.0), pytest.raises(LockedStoreError) as raised:
        open_and_write(tmp_path)
    message = str(raised.value)
    assert message.startswith(f"The store sqlite:///{path} is held by another process for long")
    assert "database is locked" not in message
    assert isinstance(raised.value, TimeoutError)
    with closing(open_store(None, tmp_path, durable=False)) as store:
        write(store, "kept")
        assert messages(store) == ["kept"]


def test_a_refused_transaction_can_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.1)
    with closing(open_store(None, tmp_path, durable=False)) as store:
        with held(tmp_path / "anabranch.db", seconds=60.0), pytest.raises(LockedStoreError):
            write(store, "refused")
        write(store, "kept")
        assert messages(store) == ["kept"]


def test_many_make_the_same_store_at_once(tmp_path: Path) -> None:
    ready = threading.Barrier(8)
    failed: list[BaseException] = []

    def make(number: int) -> None:
        try:
            ready.wait()
            with closing(open_store(None, tmp_path, durable=False)) as store:
                write(store, str(number))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=make, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    with closing(open_store(None, tmp_path, durable=False)) as store:
        assert sorted(messages(store)) == [str(number) for number in range(8)]


OPEN_AND_CLOSE = """
import sys
from pathlib import Path
from anabranch.store.opening import open_store
open_store(None, Path(sys.argv[1]), durable=False).close()
"""


def test_opening_a_store_again_keeps_the_locks_of_this_process(tmp_path: Path) -> None:
    """A file that is opened and closed beside SQLite loses the locks that the process has on it;
    another process would then take itself for the last, and delete the journal under this one."""
    with closing(open_store(None, tmp_path, durable=False)) as store:
        write(store, "one")
        open_store(None, tmp_path, durable=False).close()
        journal = (tmp_path / "anabranch.db-wal").stat().st_ino
        subprocess.run([sys.executable, "-c", OPEN_AND_CLOSE, str(tmp_path)], check=True)
        assert (tmp_path / "anabranch.db-wal").stat().st_ino == journal
        write(store, "two")
        with closing(open_store(None, tmp_path, durable=False)) as other:
            assert messages(other) == ["one", "two"]
