"""Brings a store's tables to the newest schema, in one transaction and by one process at a time.

SQLAlchemy and Alembic load here, and only where there is something to migrate: they take half a
second, and a run needs neither.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

logger = logging.getLogger("anabranch.store")

SCRIPTS = Path(__file__).with_name("migrations")
WAIT_SECONDS = 600.0
"""How long another process may take to migrate the same SQLite file."""
ADVISORY_LOCK = 0x616E6162
"""On PostgreSQL, who migrates holds this lock; the number says no more than `anab`."""

_one_at_a_time = threading.Lock()  # Alembic's context is one for the whole process


def migrate(url: str) -> None:
    """Migrate the store at `sqlite:///path` or `postgresql://...`, which may be empty.

    A copy of an SQLite file stays beside it. Who comes second waits, and finds it done. Raises the
    errors of the database's driver.
    """
    from sqlalchemy.exc import DBAPIError  # see above

    path = Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:") else None
    engine = _postgres_engine(url) if path is None else _sqlite_engine(path)
    try:
        with _one_at_a_time, engine.connect() as connection:
            if path is None:
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})")
            else:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            _upgrade(connection, path)
            connection.commit()
    except DBAPIError as error:
        if error.orig is None:
            raise
        raise error.orig from error
    finally:
        engine.dispose()


def _upgrade(connection: Connection, path: Path | None) -> None:
    """From the schema that is there, inside the caller's transaction."""
    from alembic import command  # see above
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    found = MigrationContext.configure(connection).get_current_revision()
    head = ScriptDirectory.from_config(config).get_current_head()
    if found == head:
        return
    if found is not None:
        logger.info("Migrating the store from schema %s to %s", found, head)
    if path is not None and found is not None:
        copy = path.with_name(f"{path.name}.before-{head}")
        _copy(path, copy)
        logger.info("The store as it was before is kept in %s", copy)
    command.upgrade(config, "head")


def _sqlite_engine(path: Path) -> Engine:
    from sqlalchemy import NullPool, create_engine  # see above

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None)
        # To change a table, SQLite makes a new one and drops the old: nothing may follow from that.
        connection.execute("PRAGMA foreign_keys=OFF")
        return connection

    return create_engine("sqlite://", creator=connect, poolclass=NullPool)


def _postgres_engine(url: str) -> Engine:
    import psycopg  # see above
    from sqlalchemy import NullPool, create_engine

    return create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(url), poolclass=NullPool
    )


def _copy(path: Path, copy: Path) -> None:
    """What is committed, while the caller keeps others from writing.

    By SQLite itself: a file that this process opened and closed would lose its locks.
    """
    part = copy.with_name(copy.name + ".part")
    part.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(part)) as target:
            source.backup(target)
        os.replace(part, copy)
    finally:
        part.unlink(missing_ok=True)
