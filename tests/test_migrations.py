"""The store's schema: its three descriptions agree, and old stores become new ones, or stay whole."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, NullPool, create_engine

from anabranch.errors import FullStoreError, NewerStoreError, NotAStoreError, StoreError
from anabranch.failpoints import MID_MIGRATION, VARIABLE
from anabranch.store import migrating, versions
from anabranch.store.database import Database
from anabranch.store.opening import open_store
from anabranch.store.schema import metadata
from anabranch.store.sqlite import SqliteDatabase

STORES = sorted((Path(__file__).parent / "stores").glob("*.sql"))
MADE_UP = """
from alembic import op
from sqlalchemy import Column, Integer, Text

revision = "0002"
down_revision = "0001"


def upgrade():
    with op.batch_alter_table("task_run") as table:
        table.add_column(Column("made_up", Integer, nullable=False, server_default="7"))
        table.alter_column("message", new_column_name="told")
    op.create_index("log_level", "log", ["level"])
"""
OPEN = """
import logging, pathlib, sys
from anabranch.store import migrating, versions
from anabranch.store.opening import open_store
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
logging.getLogger("alembic").setLevel(logging.ERROR)
migrating.SCRIPTS, versions.HEAD = pathlib.Path(sys.argv[1]), sys.argv[3]
print("ready", flush=True)
sys.stdin.readline()
store = open_store(sys.argv[2], pathlib.Path(), False)
print("opened", store.read("SELECT version_num FROM alembic_version")[0][0])
store.close()
"""


@pytest.fixture
def newer_scripts(tmp_path: Path) -> Path:
    """The migrations of a release to come."""
    scripts = tmp_path / "migrations of 100%"
    shutil.copytree(migrating.SCRIPTS, scripts)
    (scripts / "versions" / "0002_made_up.py").write_text(MADE_UP)
    return scripts


@pytest.fixture
def newer_release(newer_scripts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrating, "SCRIPTS", newer_scripts)
    monkeypatch.setattr(versions, "HEAD", "0002")


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a place where no store is yet."""
    if request.param == "postgres":
        return request.getfixturevalue("postgres_url")
    return f"sqlite:///{tmp_path}/anabranch.db"


def engine(url: str) -> Engine:
    if url.startswith("sqlite"):
        return create_engine(url, poolclass=NullPool)
    return create_engine(url.replace("postgresql:", "postgresql+psycopg:"), poolclass=NullPool)


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    made = engine(url)
    with made.connect() as connection:
        yield connection
    made.dispose()


@contextmanager
def opened(url: str) -> Iterator[Database]:
    with closing(open_store(url, Path(), durable=False)) as store:
        yield store


def make_old(url: str, dump: Path) -> dict[str, list[Any]]:
    """A store as an earlier release made it; gives its rows."""
    with closing(sqlite3.connect(":memory:")) as source:
        source.executescript(dump.read_text(encoding="utf-8"))
        kept = rows_of(source)
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as target:
            target.executescript(dump.read_text(encoding="utf-8"))
        return kept
    config = Config()
    config.set_main_option("script_location", str(migrating.SCRIPTS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    with connected(url) as connection:
        config.attributes["connection"] = connection
        connection.exec_driver_sql("SELECT 1")
        command.upgrade(config, dump.stem)
        for table, its_rows in kept.items():
            for row in its_rows if table != "alembic_version" else ():
                values = ", ".join(["%s"] * len(row))
                connection.exec_driver_sql(
                    f"INSERT INTO {table} ({', '.join(row)}) VALUES ({values})", tuple(row.values())
                )
        connection.commit()
    return kept


def rows_of(source: sqlite3.Connection | Database) -> dict[str, list[Any]]:
    """All rows of all tables that there were in the first schema, as dictionaries."""
    found: dict[str, list[Any]] = {}
    for table in [*metadata.tables, "alembic_version"]:
        if isinstance(source, sqlite3.Connection):
            cursor = source.execute(f"SELECT * FROM {table}")
            names = [column[0] for column in cursor.description]
            its_rows = cursor.fetchall()
        else:
            names = COLUMNS[table]
            its_rows = source.read(f"SELECT {', '.join(names)} FROM {table}")
        found[table] = sorted((dict(zip(names, row, strict=True)) for row in its_rows), key=str)
    return found


COLUMNS = {table.name: list(table.columns.keys()) for table in metadata.tables.values()} | {
    "alembic_version": ["version_num"]
}


def tables_of(path: Path) -> dict[str, str]:
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute(
            "SELECT type || ' ' || name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'"
        ).fetchall()
    return {name: "".join(sql.split()) for name, sql in found}


def version_of(url: str) -> str:
    with connected(url) as connection:
        found = MigrationContext.configure(connection).get_current_revision()
    assert found is not None
    return found


# -- one schema -----------------------------------------------------------------------------------


def test_the_three_descriptions_of_the_schema_agree(tmp_path: Path) -> None:
    SqliteDatabase(tmp_path / "script.db").close()
    migrating.migrate(f"sqlite:///{tmp_path}/migrated.db")
    with connected(f"sqlite:///{tmp_path}/metadata.db") as connection:
        metadata.create_all(connection)
        connection.commit()
    migrated = tables_of(tmp_path / "migrated.db")
    assert tables_of(tmp_path / "script.db") == migrated
    assert tables_of(tmp_path / "metadata.db") == {
        name: sql for name, sql in migrated.items() if name != "table alembic_version"
    }
    assert len([name for name in migrated if name.startswith("table")]) == len(COLUMNS)


def test_what_a_store_has_is_what_the_metadata_say(url: str) -> None:
    with opened(url):
        pass
    with connected(url) as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, metadata) == []


def test_the_newest_migration_is_the_head_and_each_has_a_store_to_try() -> None:
    config = Config()
    config.set_main_option("script_location", str(migrating.SCRIPTS))
    config.set_main_option("path_separator", "os")
    scripts = ScriptDirectory.from_config(config)
    assert scripts.get_current_head() == versions.HEAD
    assert [dump.stem for dump in STORES] == sorted(
        each.revision for each in scripts.walk_revisions()
    )


# -- from old to new ------------------------------------------------------------------------------


@pytest.mark.parametrize("dump", STORES, ids=lambda dump: dump.stem)
def test_a_store_of_each_release_opens_with_its_rows(url: str, dump: Path, tmp_path: Path) -> None:
    kept = make_old(url, dump)
    with opened(url) as store:
        found = rows_of(store)
    kept["alembic_version"] = [{"version_num": versions.HEAD}]
    assert found == kept
    assert all(found.values())  # there is something of everything in it
    with connected(url) as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


@pytest.mark.usefixtures("newer_release")
def test_a_migration_keeps_the_rows(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = make_old(url, STORES[0])
    with caplog.at_level(logging.INFO, "anabranch.store"), opened(url) as store:
        found = store.read("SELECT id, told, made_up FROM task_run ORDER BY id")
        assert store.read("SELECT version_num FROM alembic_version") == [("0002",)]
    expected = sorted((row["id"], row["message"], 7) for row in kept["task_run"])
    assert found == expected
    copy = tmp_path / "anabranch.db.before-0002"
    if not url.startswith("sqlite"):
        assert not copy.exists()
        return
    assert str(copy) in caplog.text
    with closing(sqlite3.connect(copy)) as connection:
        assert rows_of(connection) == kept
    assert sorted(path.name for path in tmp_path.glob("anabranch.db*")) == [
        "anabranch.db",
        "anabranch.db.before-0002",
    ]


@pytest.mark.usefixtures("newer_release")
def test_a_store_that_was_migrated_opens_again_untouched(url: str) -> None:
    make_old(url, STORES[0])
    with opened(url):
        pass
    place = Path(url.removeprefix("sqlite:///"))
    before = place.read_bytes() if url.startswith("sqlite") else b""
    with opened(url) as store:
        assert store.read("SELECT version_num FROM alembic_version") == [("0002",)]
    assert not before or place.read_bytes() == before


def test_a_migration_that_fails_leaves_the_store_as_it_was(
    url: str, newer_scripts: Path, newer_release: None
) -> None:
    script = newer_scripts / "versions" / "0002_made_up.py"
    script.write_text(MADE_UP + "    op.execute('SELECT 1 FROM nowhere')\n")
    kept = make_old(url, STORES[0])
    with pytest.raises(StoreError, match="nowhere"):
        open_store(url, Path(), durable=False)
    check_untouched(url, kept)


@pytest.mark.usefixtures("newer_release")
def test_without_room_for_the_copy_nothing_is_migrated(small_disk: Path) -> None:
    url = f"sqlite:///{small_disk}/anabranch.db"
    kept = make_old(url, STORES[0])
    used = (small_disk / "anabranch.db").stat().st_size
    (small_disk / "filler").write_bytes(bytes(1024 * 1024 - used - 60_000))
    with pytest.raises(FullStoreError, match="Make room"):
        open_store(url, Path(), durable=False)
    assert sorted(os.listdir(small_disk)) == ["anabranch.db", "filler"]
    check_untouched(url, kept)


def check_untouched(url: str, kept: dict[str, list[Any]]) -> None:
    assert version_of(url) == "0001"
    with connected(url) as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        for table, names in COLUMNS.items():
            found = connection.exec_driver_sql(f"SELECT {', '.join(names)} FROM {table}").fetchall()
            its_rows = [dict(zip(names, row, strict=True)) for row in found]
            assert sorted(its_rows, key=str) == kept[table]


# -- processes ------------------------------------------------------------------------------------


def open_elsewhere(
    url: str, scripts: Path, failpoint: str = "", head: str = "0002"
) -> subprocess.Popen[str]:
    """A process of the newer release, which opens the store once it reads a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", OPEN, str(scripts), url, head],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {VARIABLE: failpoint},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_who_dies_in_the_middle_leaves_the_old_schema_and_the_next_finishes(
    url: str, newer_scripts: Path
) -> None:
    kept = make_old(url, STORES[0])
    with open_elsewhere(url, newer_scripts, MID_MIGRATION) as process:
        said, _ = process.communicate("go\n")
    assert process.returncode == -signal.SIGKILL
    assert "opened" not in said
    check_untouched(url, kept)
    with open_elsewhere(url, newer_scripts) as process:
        said, _ = process.communicate("go\n")
    assert process.returncode == 0
    assert said.endswith("opened 0002\n")
    assert version_of(url) == "0002"


def open_in_three(url: str, scripts: Path, head: str) -> list[str]:
    """What three processes say that open a store at once."""
    processes = [open_elsewhere(url, scripts, head=head) for _ in range(3)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert all(text.endswith(f"opened {head}\n") for text in said)
    return said


def test_of_many_that_open_an_old_store_one_migrates_it(url: str, newer_scripts: Path) -> None:
    make_old(url, STORES[0])
    said = open_in_three(url, newer_scripts, "0002")
    assert sum("from schema 0001 to 0002" in text for text in said) == 1


def test_of_many_that_open_an_empty_store_one_makes_it(url: str) -> None:
    said = open_in_three(url, migrating.SCRIPTS, versions.HEAD)
    assert not any("schema" in text for text in said)


NO_SQLALCHEMY = """
import sys
from pathlib import Path
from anabranch.store.opening import open_store
from anabranch.store.rows import SETTLED_RUN

for url, made in ((None, 0), (None, 1), ("sqlite:///:memory:", 0)):
    store = open_store(url, Path(sys.argv[1]), durable=False)
    assert len(store.read("SELECT * FROM task_run")) == made
    with store.transaction() as transaction:
        transaction.insert(SETTLED_RUN, [(made, *[1] * (len(SETTLED_RUN.columns) - 1))])
    store.close()
heavy = {"sqlalchemy", "alembic", "psycopg"} & set(sys.modules)
sys.exit(f"{heavy} were loaded" if heavy else 0)
"""


def test_a_store_on_sqlite_needs_neither_sqlalchemy_nor_alembic(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", NO_SQLALCHEMY, str(tmp_path)], check=True)


# -- what is not ours -----------------------------------------------------------------------------


@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
def test_a_newer_sqlite_store_is_refused_and_left_byte_for_byte(
    tmp_path: Path, journal: str
) -> None:
    path = tmp_path / "anabranch.db"
    make_old(f"sqlite:///{path}", STORES[0])
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '0099'")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode={journal}")
    before = path.read_bytes()
    with pytest.raises(NewerStoreError, match=f"0099.*{versions.HEAD}"):
        open_store(None, tmp_path, durable=False)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["anabranch.db"]


def test_a_newer_postgres_store_is_refused_and_left_as_it_was(postgres_url: str) -> None:
    kept = make_old(postgres_url, STORES[0])
    with connected(postgres_url) as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0099'")
        connection.commit()
    with pytest.raises(NewerStoreError, match="0099"):
        open_store(postgres_url, Path(), durable=False)
    with connected(postgres_url) as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
        connection.commit()
    check_untouched(postgres_url, kept)


@pytest.mark.parametrize("revision", ["a1b2c3d4e5f6", "1", None])
def test_the_database_of_another_program_is_refused(url: str, revision: str | None) -> None:
    with connected(url) as connection:
        connection.exec_driver_sql("CREATE TABLE task (id INTEGER PRIMARY KEY, mine TEXT)")
        if revision is not None:
            connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32))")
            connection.exec_driver_sql(f"INSERT INTO alembic_version VALUES ('{revision}')")
        connection.commit()
    path = Path(url.removeprefix("sqlite:///"))
    before = path.read_bytes() if url.startswith("sqlite") else b""
    with pytest.raises(NotAStoreError if revision or before else StoreError):
        open_store(url, Path(), durable=False)
    with connected(url) as connection:
        assert connection.exec_driver_sql("SELECT id, mine FROM task").fetchall() == []
        if revision is None:
            assert not connection.dialect.has_table(connection, "session")
    assert not before or path.read_bytes() == before
