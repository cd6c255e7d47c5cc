"""Failpoints kill the process that names one, where it says, and nobody else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from anabranch import failpoints
from anabranch.errors import SettingError
from anabranch.failpoints import FAILPOINTS, VARIABLE, failpoint, read_failpoint
from anabranch.store.opening import open_store
from anabranch.store.postgres import PostgresDatabase


@pytest.mark.parametrize("name", FAILPOINTS)
def test_a_failpoint_is_named_alone_or_with_its_passing(name: str) -> None:
    assert read_failpoint(name) == (name, 1)
    assert read_failpoint(f"{name}:12") == (name, 12)


@pytest.mark.parametrize("text", [None, ""])
def test_without_a_name_there_is_none(text: str | None) -> None:
    assert read_failpoint(text) is None


@pytest.mark.parametrize(
    "text",
    ["no-such", "no-such:1", "mid-batch:0", "mid-batch:x", "mid-batch:-1", "mid-batch:²", ":1"],
)
def test_what_is_no_failpoint_is_an_error(text: str) -> None:
    with pytest.raises(SettingError, match=VARIABLE) as raised:
        read_failpoint(text)
    assert repr(text) in str(raised.value)


def test_the_constants_are_the_table() -> None:
    constants = {
        value
        for name, value in vars(failpoints).items()
        if name.isupper() and isinstance(value, str) and name != "VARIABLE"
    }
    assert constants == set(FAILPOINTS)


def run(code: str, text: str | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    if text is not None:
        environment[VARIABLE] = text
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True
    )


PASS = """
from anabranch.failpoints import failpoint
for number in range(5):
    failpoint("mid-batch")
    failpoint("mid-migration")
    print(number, flush=True)
"""


@pytest.mark.parametrize(
    ("text", "passed"),
    [
        (None, 5),
        ("before-commit", 5),
        ("mid-batch", 0),
        ("mid-batch:1", 0),
        ("mid-migration:4", 3),
        ("mid-batch:6", 5),
    ],
)
def test_it_strikes_at_its_passing(text: str | None, passed: int) -> None:
    done = run(PASS, text)
    assert done.stdout.split() == [str(number) for number in range(passed)]
    assert done.returncode == (0 if passed == 5 else -signal.SIGKILL)


def test_an_unknown_name_is_an_error_at_import_that_lists_the_known() -> None:
    done = run("import anabranch.failpoints", "nowhere")
    assert done.returncode == 1
    assert "SettingError" in done.stderr
    assert all(name in done.stderr for name in FAILPOINTS)


def test_nothing_is_armed_here() -> None:
    for name in FAILPOINTS:
        failpoint(name)


WRITE = """
import sys
from pathlib import Path
from anabranch.store import rows
from anabranch.store.opening import open_store
from anabranch.store.writer import StoreWriter

writer = StoreWriter(open_store(sys.argv[1], Path(), False), 1 << 48, b"secret", False, 1_000)
for number in range(3):
    values = [(writer.session() << 32) + number, number, 1.0, 2.0, None, "1"]
    writer._rows.batch.completed[rows.COMPLETED_RUN, None, 1] = values
    writer._rows.batch.logs.append((None, None, None, 1.0, 20, "logger", None, str(number)))
    writer._write(0.0)
    print(number, flush=True)
"""


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
@pytest.mark.parametrize(
    ("text", "kept", "told"),
    [("mid-batch:2", 1, 1), ("before-commit:2", 1, 1), ("after-commit:2", 2, 1), (None, 3, 3)],
)
def test_a_batch_is_kept_whole_or_not_at_all(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    database: str,
    text: str | None,
    kept: int,
    told: int,
) -> None:
    pytest.importorskip("anabranch.results.kept", reason="the writer needs it")
    url = f"sqlite:///{tmp_path}/anabranch.db"
    if database == "postgres":
        url = request.getfixturevalue("postgres_store_url")
        PostgresDatabase(url).close()  # made before the process that is to die
    done = run(WRITE, text, url)
    assert done.stdout.split() == [str(number) for number in range(told)], done.stderr
    assert done.returncode == (0 if text is None else -signal.SIGKILL)
    with closing(open_store(url, tmp_path, durable=False)) as store:
        numbers = [(number,) for number in range(kept)]
        assert store.read("SELECT number FROM task_run ORDER BY id") == numbers
        assert store.read("SELECT message FROM log ORDER BY id") == [(str(n),) for (n,) in numbers]
        assert store.read("SELECT beat FROM session") == [(kept,)]
