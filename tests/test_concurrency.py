"""Limits: never more at once than there are slots, whatever dies, on each runner and in each store."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import anabranch.concurrency
from anabranch import concurrency, flow, rate_limit, tags, task
from anabranch.concurrency import asyncio as async_limits
from anabranch.concurrency import sync as sync_limits
from anabranch.errors import (
    ConcurrencySlotTimeoutError,
    LimitTooSmallError,
    NotARateLimitError,
    OptionError,
    UnknownLimitError,
)
from anabranch.limits import Grant, Wanted
from anabranch.states import State
from anabranch.store.limits import limits, set_limit
from anabranch.store.sessions import open_session
from anabranch.store.slots import StoreSlots
from anabranch.store.sqlite import SqliteDatabase

RUNNERS = ["threads?max_workers=8", "asyncio", "inline", "processes?max_workers=4"]
MEMORY = "sqlite:///:memory:"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("ANABRANCH_HOME", str(tmp_path / "home"))
    yield tmp_path / "home"


class Inside:
    """Counts in files how many are inside at once, over all processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def stay(self, seconds: float = 0.02) -> int:
        """Come in, look around, go out; how many were there."""
        mine = self.folder / f"{os.getpid()}-{threading.get_ident()}-{time.monotonic_ns()}"
        mine.touch()
        threading.Event().wait(seconds)
        count = len(list(self.folder.iterdir()))
        mine.unlink()
        return count


@task
def work(folder: Path, name: str) -> int:
    with concurrency(name):
        return Inside(folder).stay()


@task
async def work_async(folder: Path, name: str) -> int:
    async with concurrency(name):
        mine = folder / f"{os.getpid()}-{time.monotonic_ns()}"
        mine.touch()
        await asyncio.sleep(0.02)
        count = len(list(folder.iterdir()))
        mine.unlink()
        return count


@pytest.fixture(params=["file", "postgres"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What several processes can share; set for the test."""
    if request.param == "postgres":
        url: str = request.getfixturevalue("postgres_store_url")
        monkeypatch.setenv("ANABRANCH_DATABASE_URL", url)
    return request.param


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("kind", [work, work_async])
def test_never_more_than_slots_inside(runner: str, kind: Any, store: str, tmp_path: Path) -> None:
    _crowd(runner, kind, tmp_path)


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("kind", [work, work_async])
def test_never_more_than_slots_inside_in_memory(
    runner: str, kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANABRANCH_DATABASE_URL", MEMORY)
    _crowd(runner, kind, tmp_path)


def _crowd(runner: str, kind: Any, tmp_path: Path) -> None:
    Inside(tmp_path / "marks")

    @flow(task_runner=runner)
    def crowd() -> tuple[list[int], Any]:
        concurrency.set_limit("desk", 3)
        counts = kind.map([tmp_path / "marks"] * 24, "desk").result()
        return counts, concurrency.limits()

    counts, after = crowd()
    assert len(counts) == 24 and max(counts) <= 3
    if runner.startswith(("threads", "processes")):
        assert max(counts) > 1  # they do run side by side
    assert [limit.name for limit in after] == ["desk"]


CROWD = """
import sys, threading
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_concurrency import Inside
from anabranch import concurrency
inside = Inside(Path(sys.argv[1]))
most = []
def go():
    for _ in range(8):
        with concurrency("desk", strict=True):
            most.append(inside.stay(0.01))
threads = [threading.Thread(target=go) for _ in range(2)]
[each.start() for each in threads]
[each.join() for each in threads]
assert len(most) == 16
print(max(most))
"""


def test_four_processes_of_two_threads(store: str, tmp_path: Path) -> None:
    concurrency.set_limit("desk", 3)
    command = [sys.executable, "-c", CROWD, str(tmp_path / "marks"), str(Path(__file__).parent)]
    crowd = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    most = [int(each.communicate(timeout=50)[0]) for each in crowd]
    assert [each.returncode for each in crowd] == [0] * 4
    assert 2 <= max(most) <= 3
    assert concurrency.limits()[0].in_use == 0


HOLDER = """
import threading
from anabranch import concurrency
with concurrency("desk"):
    print("in", flush=True)
    threading.Event().wait()
"""


def test_the_slots_of_a_killed_process_come_free(store: str) -> None:
    concurrency.set_limit("desk", 1)
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"in\n"
        with pytest.raises(ConcurrencySlotTimeoutError), concurrency("desk", timeout_seconds=0):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait(10)
        with concurrency("desk", timeout_seconds=10):
            pass


@task
def die(folder: Path) -> None:
    if not (folder / "died").exists():
        (folder / "died").touch()
        with concurrency("desk"):
            os.kill(os.getpid(), signal.SIGKILL)


def test_the_slots_of_a_killed_worker_come_free(tmp_path: Path) -> None:
    concurrency.set_limit("desk", 1)

    @flow(task_runner="processes?max_workers=1")
    def dying() -> int:
        die.submit(tmp_path).result()
        with concurrency("desk", timeout_seconds=10):
            return 1

    assert dying() == 1


@task
def forget() -> None:
    concurrency("desk").__enter__()  # a block that is never left


def test_the_slots_of_a_worker_call_that_ended_come_free() -> None:
    concurrency.set_limit("desk", 1)

    @flow(task_runner="processes?max_workers=1")
    def forgetting() -> int:
        forget.submit().result()
        with concurrency("desk", timeout_seconds=10):
            return 1

    assert forgetting() == 1


# -- what a block takes ---------------------------------------------------------------------------


def test_a_limit_that_does_not_exist_limits_nothing_unless_strict() -> None:
    with concurrency("nowhere"), sync_limits.concurrency(["nowhere", "else"]):
        pass
    rate_limit("nowhere")
    with (
        pytest.raises(UnknownLimitError, match="anabranch limits set nowhere SLOTS"),
        concurrency("nowhere", strict=True),
    ):
        pass
    with pytest.raises(UnknownLimitError):
        rate_limit("nowhere", strict=True)


@task
def strictly() -> None:
    with concurrency("nowhere", strict=True):
        pass


@pytest.mark.parametrize("runner", RUNNERS)
def test_errors_reach_the_task_on_each_runner(runner: str) -> None:
    @flow(task_runner=runner)
    def failing() -> State[Any]:
        return strictly.submit(return_state=True)

    with pytest.raises(UnknownLimitError, match="limits set nowhere"):
        failing()


def test_several_limits_are_taken_all_or_none() -> None:
    concurrency.set_limit("a", 1)
    concurrency.set_limit("b", 1)
    with concurrency("b"):
        with (
            pytest.raises(ConcurrencySlotTimeoutError),
            concurrency(["a", "b"], timeout_seconds=0.1),
        ):
            pass
        assert {each.name: each.in_use for each in concurrency.limits()} == {"a": 0, "b": 1}
    with concurrency(["b", "a", "a"], timeout_seconds=0):
        assert [each.in_use for each in concurrency.limits()] == [1, 1]


def test_occupy() -> None:
    concurrency.set_limit("desk", 3)
    with concurrency("desk", occupy=2):
        with concurrency("desk", timeout_seconds=0):
            pass
        with (
            pytest.raises(ConcurrencySlotTimeoutError, match="within 0 seconds"),
            concurrency("desk", occupy=2, timeout_seconds=0),
        ):
            pass
    with pytest.raises(LimitTooSmallError, match="since it has 3"), concurrency("desk", occupy=4):
        pass


def test_no_slots_at_all_stop_everyone() -> None:
    concurrency.set_limit("shut", 0)
    with pytest.raises(TimeoutError), concurrency("shut", timeout_seconds=0.05):
        pass


@pytest.mark.parametrize(
    "options",
    [{"occupy": 0}, {"occupy": True}, {"timeout_seconds": -1}, {"names": [1]}],
)
def test_options_that_will_not_do(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        concurrency(**{"names": "desk", **options})


@pytest.mark.parametrize(
    "given", [("", 1), ("a\nb", 1), ("a", -1), ("a", 1.5), ("a", True), ("a", 1, 0), ("a", 1, -1)]
)
def test_limits_that_will_not_do(given: Any) -> None:
    with pytest.raises(OptionError):
        concurrency.set_limit(*given)


def test_limits_are_changed_and_removed(store: str) -> None:
    concurrency.set_limit("desk", 1)
    concurrency.set_limit("desk", 2, 0.5)
    found = anabranch.concurrency.limits()
    assert [(each.slots, each.slots_per_second) for each in found] == [(2, 0.5)]
    assert concurrency.remove_limit("desk") and not concurrency.remove_limit("desk")
    assert concurrency.limits() == []


def test_async_code_outside_of_a_run() -> None:
    concurrency.set_limit("desk", 1)
    concurrency.set_limit("api", 2, 100)

    async def main() -> None:
        async with async_limits.concurrency("desk"):
            with pytest.raises(ConcurrencySlotTimeoutError):
                async with concurrency("desk", timeout_seconds=0.05):
                    pass
            waiting = asyncio.create_task(enter())
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        async with concurrency("desk", timeout_seconds=5):
            pass
        await rate_limit("api")
        await async_limits.rate_limit(["api"])

    async def enter() -> None:
        async with concurrency("desk"):
            pass

    asyncio.run(main())


@task
def take_and_wait(folder: Path) -> int:
    with concurrency("desk"):
        return tiny.submit(1).result()


@task
def tiny(n: int) -> int:
    return n


@pytest.mark.parametrize("runner", ["threads?max_workers=2", "processes?max_workers=2"])
def test_who_waits_for_slots_keeps_no_worker_from_who_has_them(runner: str, tmp_path: Path) -> None:
    concurrency.set_limit("desk", 1)

    @flow(task_runner=runner)
    def nested() -> list[int]:
        return take_and_wait.map([tmp_path] * 6).result()

    assert nested() == [1] * 6


def test_a_timeout_ends_the_wait_of_a_task() -> None:
    concurrency.set_limit("desk", 1)

    @task(timeout_seconds=0.2)
    def patient() -> None:
        with concurrency("desk"):
            pass

    @flow(task_runner="processes?max_workers=1")
    def impatient() -> str:
        with concurrency("desk"):
            state = patient.submit(return_state=True)
        with concurrency("desk", timeout_seconds=5):
            return state.name

    assert impatient() == "TimedOut"


# -- rates ----------------------------------------------------------------------------------------

RATE = """
import time
from anabranch import flow, rate_limit
@flow
def calls():
    until = time.monotonic() + 2
    times = 0
    while True:
        rate_limit("api")
        if time.monotonic() > until:
            return times
        times += 1
print(calls())
"""


def test_a_rate_over_two_processes(store: str) -> None:
    concurrency.set_limit("api", 1, 20)
    command = [sys.executable, "-c", RATE]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    started = time.monotonic()
    total = sum(int(each.communicate(timeout=30)[0]) for each in both)
    assert [each.returncode for each in both] == [0, 0]
    assert 32 <= total <= 20 * (time.monotonic() - started) + 1  # they do not start together


def test_a_rate_limit_needs_a_rate() -> None:
    concurrency.set_limit("desk", 4)
    with pytest.raises(NotARateLimitError, match="anabranch limits set desk 4 --per-second X"):
        rate_limit("desk")


class Times:
    """A wall clock and a monotonic one that the test moves."""

    def __init__(self) -> None:
        self.wall = 1_000_000.0
        self.clock = 50.0

    def slots(self, database: SqliteDatabase) -> StoreSlots:
        return StoreSlots(database, lambda: self.wall, lambda: self.clock)

    def pass_by(self, seconds: float) -> None:
        self.wall += seconds
        self.clock += seconds


RATED = Wanted(("api",), 1, False, True)


def rated(slots: int, per_second: float) -> tuple[Times, SqliteDatabase]:
    times, database = Times(), SqliteDatabase(None)
    set_limit(database, "api", slots, per_second)
    with database.transaction() as transaction:
        transaction.changed("UPDATE concurrency_limit SET at = ?", (times.wall,))
    return times, database


def test_a_bucket_fills_at_its_rate_and_no_further_than_its_slots() -> None:
    times, database = rated(2, 10.0)
    slots = times.slots(database)
    assert [each.after for each in slots.take(RATED, 2).grants] == [0, 0]
    times.pass_by(0.1)
    assert [each.after for each in slots.take(RATED, 1).grants] == [0]
    times.pass_by(3600)
    ahead = slots.take(RATED, 5).grants
    assert [each.after for each in ahead] == pytest.approx([0, 0, 0.1, 0.2, 0.3])


def test_slots_are_given_out_a_second_ahead_and_no_more() -> None:
    times, database = rated(1, 10.0)
    slots = times.slots(database)
    taken = slots.take(RATED, 100)
    assert [each.after for each in taken.grants] == pytest.approx([n / 10 for n in range(11)])
    assert taken.pause == pytest.approx(0.1)
    slots.spare(RATED, 4)
    again = slots.take(RATED, 4).grants
    assert [each.after for each in again] == pytest.approx([0.7, 0.8, 0.9, 1.0])


@pytest.mark.parametrize("jump", [-3600.0, -0.5, 0.0])
def test_a_wall_clock_that_jumps_back_neither_stops_nor_hastens_a_rate(jump: float) -> None:
    times, database = rated(1, 10.0)
    processes = [times.slots(database), times.slots(database)]
    start = times.clock
    dues = [start + grant.after for grant in processes[0].take(RATED, 1).grants]
    times.wall += jump
    for _ in range(400):  # four seconds, in which 40 slots come back
        for each in processes:
            dues += [times.clock + grant.after for grant in each.take(RATED, 1).grants]
        times.pass_by(0.01)
    in_time = sorted(due for due in dues if due <= start + 4)
    assert 30 <= len(in_time) <= 41
    gaps = [later - earlier for earlier, later in itertools.pairwise(in_time)]
    assert min(gaps) > 0.0999


def test_a_wall_clock_that_jumps_ahead_gives_no_more_than_the_slots() -> None:
    times, database = rated(3, 10.0)
    slots = times.slots(database)
    assert len(slots.take(RATED, 3).grants) == 3
    times.wall += 3600
    assert [each.after > 0 for each in slots.take(RATED, 4).grants] == [False] * 3 + [True]


def test_whoever_gives_up_waiting_for_a_rate_uses_nothing_up() -> None:
    concurrency.set_limit("api", 1, 2)
    rate_limit("api")
    for _ in range(3):
        with pytest.raises(ConcurrencySlotTimeoutError):
            rate_limit("api", timeout_seconds=0)
    rate_limit("api", timeout_seconds=0.6)


# -- the store --------------------------------------------------------------------------------------


def test_a_session_that_was_buried_gives_its_slots_up_and_begins_anew() -> None:
    database = SqliteDatabase(None)
    set_limit(database, "desk", 1)
    slots, wanted = StoreSlots(database), Wanted(("desk",))
    (old,) = slots.take(wanted, 1).grants
    with database.transaction() as transaction:
        transaction.changed("UPDATE session SET closed = 1")
        transaction.changed("DELETE FROM lease")
    (new,) = slots.take(wanted, 1).grants
    assert new.session != old.session
    slots.give([old])  # which may have had the same place
    assert [each.in_use for each in limits(database)] == [1]
    slots.give([new, Grant()])
    assert [each.in_use for each in limits(database)] == [0]


def test_the_holder_on_another_host_is_not_taken_for_dead_at_once() -> None:
    database = SqliteDatabase(None)
    set_limit(database, "desk", 1)
    session = open_session(database, "0" * 20, 0.0)
    with database.transaction() as transaction:
        transaction.changed("UPDATE session SET host = 'elsewhere', pid = 1")
        transaction.changed(
            "INSERT INTO lease (name, session, slots, taken) VALUES ('desk', ?, 1, 0)", (session,)
        )
    slots = StoreSlots(database)
    assert not slots.take(Wanted(("desk",)), 1).grants


# -- limits by tag ----------------------------------------------------------------------------------


@task(tags=["db"])
def tagged(folder: Path) -> int:
    return Inside(folder).stay()


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_limit_by_tag(runner: str, store: str, tmp_path: Path) -> None:
    concurrency.set_limit("tag:db", 2)

    @flow(task_runner=runner)
    def limited() -> list[int]:
        counts = tagged.map([tmp_path / "marks"] * 16)
        single = [tagged.submit(tmp_path / "marks") for _ in range(4)]
        return [*counts.result(), *(each.result() for each in single), tagged(tmp_path / "marks")]

    counts = limited()
    assert len(counts) == 21 and max(counts) <= 2
    assert concurrency.limits()[0].in_use == 0


def test_a_limit_by_tag_holds_for_tags_given_around_and_over_processes(tmp_path: Path) -> None:
    concurrency.set_limit("tag:outer", 1)

    @task
    def plain(folder: Path) -> int:
        return Inside(folder).stay()

    @flow(task_runner="threads?max_workers=8")
    def limited() -> list[int]:
        with tags("outer"):
            return plain.map([tmp_path / "marks"] * 6).result()

    flows = [threading.Thread(target=lambda: counts.extend(limited())) for _ in range(2)]
    counts: list[int] = []
    for each in flows:
        each.start()
    for each in flows:
        each.join(30)
    assert counts == [1] * 12


def test_a_run_that_waits_for_its_tag_holds_no_worker_and_says_so() -> None:
    concurrency.set_limit("tag:shut", 0)

    @task(tags=["shut"])
    def never() -> None:
        raise AssertionError

    @task
    def free() -> int:
        return 1

    @flow(task_runner="threads?max_workers=1")
    def waiting() -> tuple[Any, Any, int]:
        futures = [never.submit() for _ in range(3)]
        value = free.submit().result()
        state = futures[0].state
        for each in futures:
            each.cancel()
        return state.name, state.type.value, value

    assert waiting() == ("AwaitingConcurrencySlot", "SCHEDULED", 1)
    assert concurrency.limits()[0].in_use == 0


@task(tags=["db"], retries=2)
def outer(folder: Path) -> int:
    if not (folder / "failed").exists():
        (folder / "failed").touch()
        raise ValueError
    return inner.submit(1).result() + inner(1)


@task(tags=["db"])
def inner(n: int) -> int:
    return n


@task
def around(folder: Path) -> int:
    return outer(folder)


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("start", [outer, around])
def test_runs_inside_a_tagged_run_go_under_its_slot(
    runner: str, start: Any, tmp_path: Path
) -> None:
    concurrency.set_limit("tag:db", 1)

    @flow(task_runner=runner)
    def nested() -> list[int]:
        return start.map([tmp_path] * 3).result()

    assert nested() == [2] * 3
    assert concurrency.limits()[0].in_use == 0


def test_a_subflow_inside_a_tagged_task_goes_under_its_slot() -> None:
    concurrency.set_limit("tag:db", 1)

    @flow
    def below() -> int:
        return inner.submit(1).result()

    @task(tags=["db"])
    def calls() -> int:
        return below()

    @flow
    def above() -> int:
        return calls.submit().result()

    assert above() == 1


def test_cancelled_runs_leave_the_line(tmp_path: Path) -> None:
    concurrency.set_limit("tag:db", 1)
    inside, go_on = threading.Event(), threading.Event()

    @task(tags=["db"])
    def hold(first: bool) -> int:
        if first:
            inside.set()
            go_on.wait(10)
        return 1

    @flow(task_runner="threads?max_workers=4")
    def cancelling() -> list[int]:
        first = hold.submit(True)
        inside.wait(10)
        second, third = hold.submit(False), hold.submit(False)
        second.cancel()
        go_on.set()
        return [first.result(), third.result()]

    assert cancelling() == [1, 1]


def test_a_store_that_cannot_be_read_for_limits_stops_no_tagged_task(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: StoreSlots) -> frozenset[str]:
        raise RuntimeError("no limits today")

    monkeypatch.setattr(StoreSlots, "tag_limits", broken)

    @flow
    def undisturbed() -> list[int]:
        return inner.map(range(5)).result()

    assert undisturbed() == list(range(5))
    assert "no limits today" in caplog.text


def test_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    from typer.testing import CliRunner

    from anabranch.cli.app import app

    def run(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["limits", *words])
        return result.exit_code, result.output

    assert "anabranch limits set NAME SLOTS" in run("ls")[1]
    assert run("set", "tag:db", "2")[0] == 0
    assert run("set", "api", "1", "--per-second", "2.5")[0] == 0
    with concurrency("tag:db"):
        code, text = run("ls")
        listed = json.loads(run("ls", "--json")[1])
    assert code == 0 and [line.split() for line in text.splitlines()[1:]] == [
        ["api", "0", "1", "2.5"],
        ["tag:db", "1", "2"],
    ]
    assert listed[1] == {"name": "tag:db", "slots": 2, "slots_per_second": None, "in_use": 1}
    assert run("rm", "api")[0] == 0
    code, text = run("rm", "api")
    assert code == 2 and "There is no limit 'api'" in text
    assert run("set", "api", "x")[0] == 2 and run("set", "api", "1", "--per-second", "0")[0] == 2
