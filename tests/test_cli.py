"""The command line, over stores filled by hand, and as processes with a home of their own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stored_runs import StoredRun
from typer.testing import CliRunner, Result

from anabranch import __version__
from anabranch.cli.app import app
from anabranch.outcomes import RETRY_WAIT, RUNNING, WAITING
from anabranch.store.database import Database, Insert
from anabranch.store.queries import find_flow_run
from anabranch.store.sqlite import open_sqlite

FLOWS = """
import pathlib, threading
from dataclasses import dataclass
from anabranch import flow, task
from anabranch.cache_policies import INPUTS

@task
def double(x):
    with pathlib.Path("ran").open("a") as file:
        file.write(f"{x}\\n")
    return 2 * x

@task
def hold(x):
    if not pathlib.Path("go").exists():
        print("holding", flush=True)
        threading.Event().wait()
    return x

@flow
def total(n: int = 3):
    return sum(double.map(range(n)).result())

@dataclass
class Box:
    value: int

@task
def boxed(value):
    with pathlib.Path("ran").open("a") as file:
        file.write("box\\n")
    return Box(value)

@flow
def held(size: Box, n: int = 3):
    done = double.map(range(n)).result()
    box = boxed.submit(size.value).result()
    return hold.submit(len(done) + box.value).result()

@flow
async def later(text: str):
    print(f"got {text!r}")

@task(cache_policy=INPUTS)
def cached(x):
    return x

@flow
def caching():
    return cached(1)

@flow
def broken():
    {}["missing"]

if __name__ == "__main__":
    raise SystemExit("the main guard ran")
"""


SIZE = ("-p", 'size={"value": 7}')


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ANABRANCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ANABRANCH_PROGRESS", "0")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flows.py").write_text(FLOWS)
    return tmp_path / "home"


@pytest.fixture
def database(home: Path) -> Iterator[Database]:
    opened = open_sqlite(home / "anabranch.db")
    yield opened
    opened.close()


def invoked(*args: str, code: int = 0, typed: str | None = None) -> Result:
    result = CliRunner().invoke(app, args, input=typed)
    assert result.exit_code == code, (result.output, result.exception)
    return result


def listed(*args: str) -> list[dict[str, Any]]:
    return json.loads(invoked(*args, "--json").stdout)


def command(*args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "anabranch", *args],
        capture_output=True,
        text=True,
        timeout=50,
        **options,
    )


def started(*args: str) -> subprocess.Popen[str]:
    """A command that has come to its flow's `hold`, and is recorded by now."""
    process = subprocess.Popen(
        [sys.executable, "-m", "anabranch", *args], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "holding\n"
    while not listed("runs", "ls"):  # which is so a moment later
        assert process.poll() is None
    return process


def left(process: subprocess.Popen[str]) -> int:
    """What a command exited with, its pipe read to the end."""
    process.communicate(timeout=50)
    return process.returncode


# -- runs ls --------------------------------------------------------------------------------------


def test_runs_are_listed_newest_first(database: Database) -> None:
    now = time.time()
    StoredRun(database, now - 60, "old-one").end("FAILED", message="ValueError: no")
    stored = StoredRun(database, now, "new-one", "report")
    new, old = listed("runs", "ls")
    assert new == {
        "id": stored.id, "name": "new-one", "flow": "report", "state": "RUNNING",
        "state_name": "Running", "start": new["start"], "end": None, "message": None,
        "attempt": 1, "runner": "threads", "tags": ["a", "b"],
    }  # fmt: skip  # pairs
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", new["start"])
    assert (old["name"], old["state"]) == ("old-one", "FAILED")
    assert [run["name"] for run in listed("runs", "ls", "--limit", "1")] == ["new-one"]
    assert [run["name"] for run in listed("runs", "ls", "--state", "failed")] == ["old-one"]
    assert [run["name"] for run in listed("runs", "ls", "--flow", "report")] == ["new-one"]
    assert [run["name"] for run in listed("runs", "ls", "--since", "30s")] == ["new-one"]
    text = invoked("runs", "ls").stdout
    assert text.index("new-one") < text.index("old-one")
    assert "ValueError: no" in text and "\x1b" not in text


def test_the_dead_show_as_crashed(database: Database) -> None:
    stored = StoredRun(database, time.time() - 60)
    with database.transaction() as transaction:  # no such process
        transaction.changed("UPDATE session SET process_start = 'other'")
    (run,) = listed("runs", "ls")
    assert (run["state"], run["id"]) == ("CRASHED", stored.id)
    assert "died under it" in run["message"]


def test_a_run_on_another_host_is_shown_with_a_note(database: Database) -> None:
    StoredRun(database, time.time())
    with database.transaction() as transaction:
        transaction.changed("UPDATE session SET host = 'mars'")
    for args in (("runs", "ls"), ("runs", "show", "quiet-heron")):
        result = invoked(*args)
        assert "Running" in result.stdout
        assert "on mars and cannot be seen from here" in result.stderr


def test_an_empty_store_is_no_error(home: Path) -> None:
    assert listed("runs", "ls") == []
    assert "No runs yet" in invoked("runs", "ls").stderr


def test_wrong_use_exits_with_2(database: Database) -> None:
    StoredRun(database, time.time())
    assert "30d, 12h or 1d12h" in invoked("runs", "ls", "--since", "soon", code=2).stderr
    assert "Did you mean quiet-heron" in invoked("runs", "show", "quiet-heorn", code=2).stderr
    invoked("runs", "ls", "--limit", "0", code=2)
    invoked("runs", "nothing", code=2)
    invoked("runs", "rm", code=2)
    assert "is no level" in invoked("runs", "logs", "quiet-heron", "--level", "loud", code=2).stderr


def test_wrong_settings_are_told_without_a_traceback(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANABRANCH_LOGGING_LEVEL", "LOUD")
    result = invoked("runs", "ls", code=2)
    assert "ANABRANCH_LOGGING_LEVEL" in result.stderr and "Traceback" not in result.output


# -- runs show ------------------------------------------------------------------------------------


def test_a_run_is_drawn(database: Database) -> None:
    now = time.time()
    stored = StoredRun(database, now - 20)
    first = stored.map("parse", 10_000, completed=5_000, failed=12)
    slow = stored.run("crunch", 0, RUNNING, started=now - 10)
    blocked = stored.run("add_up", 0, WAITING)
    stored.depends(blocked, slow, first)
    flaky = stored.run("flaky", 0, WAITING)
    stored.moved(flaky, RETRY_WAIT, now - 1, "TimeoutError: no answer")
    below = stored.flow("sub-one", "child", parent=stored.root)
    stored.flow("sub-two", "grandchild", parent=below)
    stored.artifact("totals")
    text = invoked("runs", "show", "quiet-heron").stdout
    assert "12 failed, 4,988 pending, 5,000 completed" in text
    assert re.search(r"parse +█+", text) and re.search(r"crunch +\S*█+", text)
    assert "waits for crunch-0 (Running)" in text and "parse-0" not in text
    assert "after attempt 1: TimeoutError: no answer" in text
    assert text.count("ValueError: no") == 10 and "and more" in text
    assert re.search(r"── sub-one  child  Running .*\n +└── sub-two", text)
    assert "totals" in text and "limit=10" in text
    assert text.count("\n") < 50
    few = json.loads(invoked("runs", "show", "quiet-heron", "-n", "1", "--json").stdout)
    assert (len(few["waiting"]), len(few["failures"])) == (1, 1)
    about = json.loads(invoked("runs", "show", "quiet-heron", "--json").stdout)
    assert about["id"] == stored.id
    (parse,) = [task for task in about["tasks"] if task["task"] == "parse"]
    assert parse["count"] == 10_000
    assert parse["states"] == {"Failed": 12, "Completed": 5_000, "Pending": 4_988}
    assert {wait["task"]: wait["reason"] for wait in about["waiting"]} == {
        "add_up": "upstream",
        "flaky": "AwaitingRetry",
    }
    assert [run["name"] for run in about["subflows"]] == ["sub-one", "sub-two"]
    assert about["subflows"][1]["parent"] == about["subflows"][0]["id"]


def test_what_a_dead_run_left_is_unfinished(database: Database) -> None:
    stored = StoredRun(database, time.time() - 20)
    stored.map("parse", 10, completed=4)
    stored.run("crunch", 0, RUNNING, started=time.time() - 10)
    stored.end("CRASHED")
    text = invoked("runs", "show", stored.id).stdout
    assert "6 unfinished, 4 completed" in text and "1 unfinished" in text
    assert "Waiting" not in text


def test_a_failure_in_a_subflow_is_shown_with_its_root(database: Database) -> None:
    stored = StoredRun(database, time.time() - 20)
    below = stored.flow("sub-one", parent=stored.root)
    stored.run("parse", 0, 10, flow_run=below, message="ValueError: deep\nand more", attempt=3)
    text = invoked("runs", "show", "quiet-heron").stdout
    assert re.search(r"parse-0  Failed, attempt 3\n +ValueError: deep\n +and more", text)


def test_text_of_the_store_is_never_markup_nor_a_control_sequence(database: Database) -> None:
    name = "[bold red]x[/] [/nope] \x1b[31m\u202e"
    stored = StoredRun(database, time.time(), name, name)
    stored.run(name, 0, 10, name=name, message=name)
    stored.artifact(name)
    stored.log(name)
    stored.end("FAILED", message=name)
    shown = r"[bold red]x[/] [/nope] \x1b[31m\u202e"
    for args in (("ls",), ("show", stored.id), ("logs", stored.id)):
        text = invoked("runs", *args).stdout
        assert shown in text and "\x1b" not in text and "\u202e" not in text


# -- runs logs ------------------------------------------------------------------------------------


def test_logs_are_printed_in_order_by_level_and_from_the_end(database: Database) -> None:
    stored = StoredRun(database, time.time())
    for number in range(1200):  # more than are read at once
        stored.log(f"line {number}", level=40 if number % 100 == 0 else 20)
    stored.end()
    lines = invoked("runs", "logs", "quiet-heron").stdout.splitlines()
    assert [line.split()[-1] for line in lines] == [str(number) for number in range(1200)]
    errors = invoked("runs", "logs", "quiet-heron", "--level", "error").stdout.splitlines()
    assert len(errors) == 12 and all("ERROR" in line for line in errors)
    last = invoked("runs", "logs", "quiet-heron", "-n", "2", "--json").stdout.splitlines()
    assert [json.loads(line)["message"] for line in last] == ["line 1198", "line 1199"]


def test_logs_are_followed_to_the_end_of_the_run(home: Path) -> None:
    process = started("run", "flows.py:held", *SIZE)
    (run,) = listed("runs", "ls")
    reader = subprocess.Popen(
        [sys.executable, "-m", "anabranch", "runs", "logs", run["id"], "-f"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert reader.stdout is not None
    assert "Running" in reader.stdout.readline()
    process.send_signal(signal.SIGTERM)
    rest, _ = reader.communicate(timeout=40)
    assert "Cancelled" in rest
    assert (left(process), reader.returncode) == (3, 0)


# -- runs rm --------------------------------------------------------------------------------------


def test_old_runs_are_removed_after_a_question(database: Database) -> None:
    now = time.time()
    StoredRun(database, now - 40 * 86_400, "old-one").end()
    StoredRun(database, now - 60, "new-one").end(at=now)
    assert "Aborted" in invoked("runs", "rm", "--older-than", "30d", code=1, typed="n\n").output
    assert len(listed("runs", "ls")) == 2
    text = invoked("runs", "rm", "--older-than", "30d", typed="y\n").stdout
    assert "Removed 1 run," in text
    assert [run["name"] for run in listed("runs", "ls")] == ["new-one"]
    invoked("runs", "rm", "new-one", "--yes")
    assert listed("runs", "ls") == []


def test_a_run_that_has_not_ended_is_not_removed(database: Database) -> None:
    stored = StoredRun(database, time.time())
    stored.flow("below", parent=stored.root)
    result = invoked("runs", "rm", "quiet-heron", "--yes", code=1)
    assert "it stays" in result.stderr
    assert "is a subflow" in invoked("runs", "rm", "below", "--yes", code=2).stderr
    assert find_flow_run(database, "quiet-heron").not_resumable is None


# -- cache, config, doctor, version ---------------------------------------------------------------


def test_the_cache_is_listed_and_cleared(database: Database) -> None:
    columns = ("key", "task_key", "created", "expires", "form", "preview")
    rows = [
        ("aaa1", "flows:parse", 1.0, 2.0, "json", "[1]"),
        ("bbb2", "x:y", 3.0, None, "json", "2"),
    ]
    with database.transaction() as transaction:
        transaction.insert(Insert("cached", columns), rows)
    assert [each["key"] for each in listed("cache", "ls")] == ["bbb2", "aaa1"]
    assert "expired" in invoked("cache", "ls").stdout
    invoked("cache", "clear", code=2)
    assert "Forgot 1 cached" in invoked("cache", "clear", "--expired").stdout
    invoked("cache", "clear", "zzz", code=1)
    assert "Forgot 1 cached" in invoked("cache", "clear", "bb").stdout
    assert "Nothing is cached" in invoked("cache", "ls").stderr


def test_a_call_is_explained_without_running_it(home: Path) -> None:
    for args in (("flows.py:cached", "-p", "x=1"), ("flows.py:double", "-p", "x=1")):
        assert "miss" in command("cache", "explain", *args).stdout
    assert command("run", "flows.py:caching").returncode == 0
    (row,) = listed("cache", "ls")
    explained = json.loads(
        command("cache", "explain", "flows.py:cached", "-p", "x=1", "--json").stdout
    )
    assert (explained["hit"], explained["key"]) == (True, row["key"])
    assert "hit" in command("cache", "explain", "flows.py:cached", "-p", "x=1").stdout
    assert not Path("ran").exists()
    assert command("cache", "explain", "flows.py:nope").returncode == 2
    assert command("cache", "explain", "flows.py:cached", "-p", "y=1").returncode == 2


def test_settings_are_shown_with_where_they_come_from(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.mkdir()
    (home / "config.toml").write_text("cancel_grace = 2.5\n")
    monkeypatch.setenv("ANABRANCH_DATABASE_URL", "postgresql://me:hunter2@host/db")
    found = {each["name"]: each for each in listed("config", "show")}
    assert found["cancel_grace"]["value"] == 2.5
    assert found["cancel_grace"]["source"] == str(home / "config.toml")
    assert "ANABRANCH_HOME" in found["home"]["source"]
    assert found["logging_level"] == {"name": "logging_level", "value": "INFO", "source": "default"}
    text = invoked("config", "show").stdout
    assert "hunter2" not in text + json.dumps(found) and "me:********@host" in text


def test_the_doctor_finds_nothing_wrong(database: Database, home: Path) -> None:
    StoredRun(database, time.time())
    text = invoked("doctor").stdout
    assert "All is well" in text and f"sqlite:///{home}/anabranch.db" in text
    assert "1 run: 1 running" in text and "1 alive" in text
    found = {each["name"]: each for each in listed("doctor")}
    assert found["schema"]["value"] == "0001" and found["anabranch"]["value"] == __version__


def test_the_doctor_tells_problems_with_the_way_out(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.mkdir()
    (home / "anabranch.db").write_bytes(b"a picture, not a database " * 100)
    text = invoked("doctor", code=1).stdout
    assert "not an SQLite file" in text and "move it away" in text
    monkeypatch.setenv("ANABRANCH_CANCEL_GRACE", "-1")
    assert "cancel_grace" in invoked("doctor", code=1).stdout


def test_the_version_is_printed_by_a_light_process(home: Path) -> None:
    code = (
        "import sys; from anabranch.cli.app import app\n"
        "sys.argv = ['anabranch', 'version']\n"
        "try: app()\n"
        "except SystemExit: pass\n"
        "heavy = {'sqlalchemy', 'asyncio', 'rich', 'sqlite3', 'tenacity', 'anyio'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert done.stdout == f"{__version__}\n[]\n", done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_can_complete(home: Path, shell: str) -> None:
    done = command("--show-completion", shell)
    assert done.returncode == 0 and "ANABRANCH" in done.stdout.upper()


@pytest.mark.parametrize(
    "args", [("runs", "ls"), ("runs", "show"), ("runs", "logs"), ("runs", "resume"),
             ("runs", "cancel"), ("runs", "rm"), ("cache", "ls"), ("cache", "clear"), ("cache", "explain"),
             ("config", "show"), ("doctor",), ("version",), ("run",)]
)  # fmt: skip  # pairs
def test_each_command_has_help_with_an_example(args: tuple[str, ...]) -> None:
    text = invoked(*args, "--help").stdout
    assert f"Example: anabranch {' '.join(args)}" in " ".join(text.split())


# -- run ------------------------------------------------------------------------------------------


def test_a_file_is_run_and_recorded(home: Path) -> None:
    done = command("run", "flows.py:total", "--param", "n=4", "--runner", "processes")
    assert done.returncode == 0, done.stderr
    (run,) = listed("runs", "ls")
    assert (run["flow"], run["state"], run["runner"]) == ("total", "COMPLETED", "processes")
    assert sorted(Path("ran").read_text().split()) == ["0", "1", "2", "3"]
    text = invoked("runs", "show", run["name"]).stdout
    assert "4 completed" in text


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (("flows.py:later", "-p", "text=a=b"), 0, "got 'a=b'"),
        (("flows:later", "-p", 'text="10"'), 0, "got '10'"),
        (("flows.py:broken",), 1, 'File "{here}/flows.py", line 54, in broken'),
        (("flows.py:total", "-p", "n=many"), 2, "valid integer"),
        (("flows.py:total", "-p", "m=1"), 2, "unexpected keyword argument 'm'"),
        (("flows.py:total", "-p", "n"), 2, "name=value"),
        (("flows.py:total", "--runner", "nope"), 2, "names no task runner"),
        (("flows.py",), 2, "flows.py:total, flows.py:held, flows.py:later, flows.py:caching"),
        (("flows.py:nope",), 2, "there is no flow 'nope' in it; it has: total, held"),
        (("flows.py:double",), 2, "'double' is not a flow"),
        (("nope.py",), 2, "there is no such file"),
        (("nope:total",), 2, "there is no module 'nope'"),
        (("taken/json.py",), 2, "that of another module"),
        (("wrong.py",), 1, "SyntaxError"),
    ],
)
def test_what_a_run_exits_with(home: Path, args: tuple[str, ...], code: int, told: str) -> None:
    Path("taken").mkdir()
    Path("taken/json.py").write_text("")
    Path("wrong.py").write_text("def f(:")
    done = command("run", *args)
    assert done.returncode == code, done.stderr
    assert told.format(here=Path.cwd()) in done.stdout + done.stderr
    assert f"{os.sep}anabranch{os.sep}" not in done.stderr  # no traceback of ours
    assert "main guard" not in done.stderr


def test_a_cancelled_run_can_be_resumed(home: Path, tmp_path: Path) -> None:
    process = started("run", "flows.py:held", *SIZE)
    (run,) = listed("runs", "ls")
    result = invoked("runs", "cancel", run["id"])
    assert "is Cancelled" in result.stdout and "runs resume" in result.stdout
    assert left(process) == 3
    Path("go").touch()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "go").touch()
    done = command("runs", "resume", run["id"][:8], cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    (run,) = listed("runs", "ls")
    assert (run["state"], run["attempt"]) == ("COMPLETED", 2)
    assert sorted(Path("ran").read_text().split()) == ["0", "1", "2", "box"]  # nothing ran again
    assert not (elsewhere / "ran").exists()
    assert "has completed" in invoked("runs", "resume", run["id"], code=2).stderr
    assert "has ended already" in invoked("runs", "cancel", run["id"]).stderr


def test_ctrl_c_ends_a_run_as_cancelled(home: Path) -> None:
    process = started("run", "flows.py:held", *SIZE)
    process.send_signal(signal.SIGINT)
    assert left(process) == 3
    (run,) = listed("runs", "ls")
    assert run["state"] == "CANCELLED" and "Ctrl-C" in run["message"]


def test_a_killed_run_shows_as_crashed_and_can_be_resumed(home: Path) -> None:
    process = started("run", "flows.py:held", *SIZE)
    process.kill()
    assert left(process) == -signal.SIGKILL
    (run,) = listed("runs", "ls")
    assert run["state"] == "CRASHED"
    Path("go").touch()
    done = command("runs", "resume", run["name"], "--entrypoint", "flows.py:held")
    assert done.returncode == 0, done.stderr
    assert listed("runs", "ls")[0]["state"] == "COMPLETED"


def test_a_resume_asks_where_the_flow_is_now(home: Path) -> None:
    assert command("run", "flows.py:broken").returncode == 1
    Path("flows.py").rename("moved.py")
    (run,) = listed("runs", "ls")
    assert "--entrypoint FILE:FLOW" in invoked("runs", "resume", run["id"], code=2).stderr
