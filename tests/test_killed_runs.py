"""Runs whose process was killed, stopped or changed go on by the command line; what was recorded is
counted before and after."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from resumable import PYTHON, RUNNERS, environment, forget, mark, noted

from anabranch.failpoints import VARIABLE
from anabranch.outcomes import COMPLETED
from anabranch.store.opening import open_store
from anabranch.store.queries import find_flow_run
from anabranch.store.sessions import bury, open_sessions
from anabranch.store.task_queries import task_counts

SCRIPT = """
import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from anabranch import flow, task

FOLDER = Path(os.environ["FOLDER"])

def note(what):
    file = os.open(FOLDER / "calls", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{what}\\n".encode())
    os.close(file)

def are_recorded(count):
    sql = "SELECT COUNT(*) FROM task_run r JOIN task t ON t.id = r.task WHERE t.name = 'double' AND r.phase = 9"
    with closing(sqlite3.connect(FOLDER / "home" / "anabranch.db")) as store:
        return store.execute(sql).fetchone()[0] >= count

@task
def double(x):
    note(f"double {x}")
    return 2 * x

@task(persist_result=True, result_storage=str(FOLDER / "results"))
def listed(x):
    note(f"listed {x}")
    return [x] * 10

@task
def hold(x):
    note("hold")
    while not (FOLDER / "go").exists():
        time.sleep(0.01)
    return x

@task
def add(values):
    note("add")
    calls = set((FOLDER / "calls").read_text().splitlines())
    while not are_recorded(sum(call.startswith("double") for call in calls)):
        time.sleep(0.01)
    return sum(values)

@flow
def main():
    total = 0
    for start in (0, 5, 10):
        doubled = double.map(range(start, start + 5))
        total += add.submit(doubled).result()
        total += len(listed.submit(start).result())
    total += hold.submit(1).result()
    (FOLDER / "answer").write_text(str(total))
    return total

@flow
def alone():
    double.submit(1).result()
    note("alone")
    while not (FOLDER / "go").exists():
        time.sleep(0.01)
    double.submit(2).result()
    (FOLDER / "answer").write_text("done")

@flow
def careless():
    double.submit(1).result()
    note("alone")
    while not (FOLDER / "go").exists():
        time.sleep(0.01)
    (FOLDER / "answer").write_text("done")
"""
ANSWER = str(2 * sum(range(15)) + 30 + 1)
ITEMS = {f"double {n}": 1 for n in range(15)}


def until(condition: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + 40
    while not condition():
        assert time.monotonic() < end
        if process is not None and process.poll() is not None:
            raise AssertionError(process.communicate())
        time.sleep(0.01)


class Place:
    """A folder with the script, its store, and what its calls note."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.script = folder / "killable.py"
        self.script.write_text(SCRIPT)
        self.variables = {"ANABRANCH_HOME": str(folder / "home"), "FOLDER": str(folder)}
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*PYTHON, *arguments],
            env=environment({**self.variables, **variables}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def run(
        self, runner: str = "threads", flow: str = "main", **variables: str
    ) -> subprocess.Popen[str]:
        return self.start("run", f"{self.script}:{flow}", "--runner", runner, **variables)

    def resume(self, runner: str = "threads", code: int = 0, **variables: str) -> str:
        """Its log."""
        process = self.start("runs", "resume", self.run_id(), "--runner", runner, **variables)
        _, told = process.communicate(timeout=50)
        assert process.returncode == code, told
        return told

    def rows(self, sql: str) -> list[tuple[object, ...]]:
        path = self.folder / "home" / "anabranch.db"
        if not path.exists():
            return []
        with closing(sqlite3.connect(path)) as database:
            try:
                return database.execute(sql).fetchall()
            except sqlite3.OperationalError:  # not made yet
                return []

    def run_id(self) -> str:
        ((run_id,),) = self.rows("SELECT run_id FROM flow_run")
        return str(run_id)

    def recorded(self) -> Counter[str]:
        """How many runs of each task are recorded as completed."""
        found = self.rows(
            f"SELECT t.name FROM task_run r JOIN task t ON t.id = r.task WHERE phase = {COMPLETED}"
        )
        return Counter(str(name) for (name,) in found)

    def state(self) -> str:
        ((state,),) = self.rows("SELECT state_type FROM flow_run")
        return str(state)

    def answer(self) -> str:
        file = self.folder / "answer"
        return file.read_text() if file.exists() else ""

    def held(self, process: subprocess.Popen[str]) -> None:
        """Wait until all but the last task is recorded, and that one runs."""
        until(lambda: noted(self.folder)["hold"], process)
        until(lambda: self.recorded().total() == 21, process)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    for process in place.started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_killed_run_goes_on(place: Place, runner: str) -> None:
    process = place.run(runner)
    place.held(process)
    process.kill()
    process.wait()
    mark(place.folder, "go")
    told = place.resume(runner)
    assert place.answer() == ANSWER
    calls = noted(place.folder)
    assert calls.pop("hold") == 2
    assert calls == {**ITEMS, "add": 3, "listed 0": 1, "listed 5": 1, "listed 10": 1}
    assert "21 completed calls are handed back" in told
    assert place.rows("SELECT state_type, attempt FROM flow_run") == [("COMPLETED", 2)]
    assert place.recorded().total() == 22
    assert place.rows("SELECT COUNT(*) FROM task_run") == [(22,)]
    assert place.rows("SELECT COUNT(*) FROM session WHERE closed IS NULL") == [(0,)]


@pytest.mark.parametrize("runner", ["threads", "processes?max_workers=2"])
@pytest.mark.parametrize(
    "at", ["before-commit:2", "after-commit:2", "mid-batch:2", "result-stored:2"]
)
def test_a_run_that_died_around_a_write_goes_on(place: Place, runner: str, at: str) -> None:
    mark(place.folder, "go")
    process = place.run(runner, **{VARIABLE: at})
    process.communicate(timeout=50)
    worker_died = at.startswith("result") and runner.startswith("processes")
    if worker_died:  # what it ran runs again
        assert process.returncode == 0
        assert place.answer() == ANSWER
        return
    assert process.returncode == -signal.SIGKILL
    names = place.rows(
        "SELECT t.name, r.number FROM task_run r JOIN task t ON t.id = r.task "
        f"WHERE phase = {COMPLETED} AND t.name = 'double'"
    )
    before = noted(place.folder)
    added = place.recorded()["add"]
    listed = place.recorded()["listed"]
    forget(place.folder)
    place.resume(runner)
    assert place.answer() == ANSWER
    again = noted(place.folder)
    assert not [f"{name} {number}" for name, number in names if f"{name} {number}" in again]
    assert again["add"] == 3 - added
    ran = sum(count for name, count in again.items() if name.startswith("listed"))
    assert ran <= 3 - listed  # what was stored and not told of is found again
    assert set(before) | set(again) >= set(ITEMS)
    assert place.recorded() == {"double": 15, "add": 3, "listed": 3, "hold": 1}


# -- changed code -----------------------------------------------------------------------------------

CHANGED = SCRIPT.replace("return 2 * x", "return 3 * x")
OTHER_BODY = SCRIPT.replace(
    "total += hold.submit(1).result()", "total += 100 + hold.submit(1).result()"
)


def killed_changed_and_resumed(place: Place, script: str) -> str:
    """The log of the resume of a run that was killed while it was held."""
    process = place.run()
    place.held(process)
    process.kill()
    process.wait()
    forget(place.folder)
    mark(place.folder, "go")
    place.script.write_text(script)
    return place.resume()


def test_a_changed_task_runs_again_with_what_depends_on_it(place: Place) -> None:
    told = killed_changed_and_resumed(place, CHANGED)
    assert place.answer() == str(3 * sum(range(15)) + 31)
    assert noted(place.folder) == {**ITEMS, "add": 3, "hold": 1}
    assert "the source of killable:double has changed: 15 completed runs of it run again" in told


def test_a_changed_flow_body_keeps_what_its_tasks_did(place: Place) -> None:
    told = killed_changed_and_resumed(place, OTHER_BODY)
    assert place.answer() == str(int(ANSWER) + 100)
    assert noted(place.folder) == {"hold": 1}
    assert "has changed" not in told


# -- who owns a run -----------------------------------------------------------------------------------


def test_a_run_that_a_living_process_owns(place: Place) -> None:
    process = place.run()
    place.held(process)
    refused = place.resume(code=1)
    assert str(process.pid) in refused
    mark(place.folder, "go")
    process.communicate(timeout=50)
    assert process.returncode == 0
    assert place.answer() == ANSWER
    assert "has completed" in place.resume(code=2)


def test_of_two_that_resume_a_run_one_wins(place: Place) -> None:
    process = place.run()
    place.held(process)
    process.kill()
    process.wait()
    forget(place.folder)
    run_id = place.run_id()
    both = [place.start("runs", "resume", run_id) for _ in range(2)]
    until(lambda: any(each.poll() is not None for each in both))
    (lost,) = [each for each in both if each.poll() is not None]
    (won,) = [each for each in both if each is not lost]
    _, told = lost.communicate()
    assert lost.returncode == 1
    assert str(won.pid) in told
    until(lambda: noted(place.folder)["hold"], won)
    mark(place.folder, "go")
    won.communicate(timeout=50)
    assert won.returncode == 0
    assert noted(place.folder) == {"hold": 1}
    assert place.answer() == ANSWER


TABLES = ("flow_run", "task_run", "transition", "log", "dependency")


def bury_all(place: Place) -> None:
    with closing(open_store(None, place.folder / "home")) as database:
        for session in open_sessions(database):
            assert bury(database, session, time.time())


@pytest.mark.parametrize("flow", ["main", "alone", "careless"])
def test_a_process_that_was_given_up_writes_no_more_and_ends(place: Place, flow: str) -> None:
    """In a task, in its own function before the next task, or at its end."""
    process = place.run(flow=flow)
    if flow == "main":
        place.held(process)
    else:
        until(lambda: noted(place.folder)["alone"], process)
        until(lambda: place.recorded().total() == 1, process)
    os.kill(process.pid, signal.SIGSTOP)
    bury_all(place)
    before = [place.rows(f"SELECT * FROM {table} ORDER BY 1") for table in TABLES]
    if flow == "careless":
        mark(place.folder, "go")
    os.kill(process.pid, signal.SIGCONT)
    told = ""
    assert process.stderr is not None
    while "does not own its run any more" not in told and flow != "careless":
        told += process.stderr.readline()
        assert process.poll() is None, told
    mark(place.folder, "go")
    told += process.communicate(timeout=50)[1]
    assert process.returncode == 4, told
    assert "does not own its run any more: another process resumed it" in told
    assert place.state() == "CRASHED"
    assert before == [place.rows(f"SELECT * FROM {table} ORDER BY 1") for table in TABLES]
    assert noted(place.folder)["double 2"] == (flow == "main")
    assert bool(place.answer()) == (flow == "careless")
    place.resume()
    assert place.state() == "COMPLETED"


# -- strict durability --------------------------------------------------------------------------------


@pytest.mark.parametrize("runner", ["threads", "processes?max_workers=2"])
@pytest.mark.parametrize("at", ["before-commit:4", "before-commit:9", "after-commit:6"])
def test_in_strict_durability_nothing_begins_before_its_inputs_are_kept(
    place: Place, runner: str, at: str
) -> None:
    mark(place.folder, "go")
    process = place.run(runner, **{VARIABLE: at, "ANABRANCH_DURABILITY": "strict"})
    process.communicate(timeout=50)
    assert process.returncode == -signal.SIGKILL
    recorded, calls = place.recorded(), noted(place.folder)
    assert recorded["double"] >= 5 * calls["add"]
    listed = sum(count for name, count in calls.items() if name.startswith("listed"))
    assert recorded["add"] >= listed  # which the flow calls once it has the sum
    assert recorded["listed"] >= sum(calls[f"double {n}"] for n in (5, 10))
    place.resume(runner, ANABRANCH_DURABILITY="strict")
    assert place.answer() == ANSWER


def test_a_map_that_was_cut_in_two_is_counted_whole(place: Place) -> None:
    """What the rest of a map has no rows for yet is counted once, with what was handed back."""
    place.script.write_text(SCRIPT + CUT)
    process = place.run("threads?max_workers=1", "cut")
    until(lambda: place.recorded().total() == 10, process)
    process.kill()
    process.wait()
    resumed = place.start(
        "runs", "resume", place.run_id(), "--runner", "threads?max_workers=1"
    )  # which stays where the first was
    until(lambda: place.rows("SELECT 1 FROM submission WHERE count = 20"), resumed)
    with closing(open_store(None, place.folder / "home")) as database:
        counts = task_counts(database, find_flow_run(database, place.run_id()))
    assert sum(each.runs for each in counts) == 30
    mark(place.folder, "go")
    resumed.communicate(timeout=50)
    assert place.recorded() == {"waits": 30}


CUT = """
@task
def waits(x):
    while x >= 10 and not (FOLDER / "go").exists():
        time.sleep(0.01)

@flow
def cut():
    waits.map(range(30)).wait()
"""
