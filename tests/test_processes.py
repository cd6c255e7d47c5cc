"""The processes runner: what children are sent and send back, and what becomes of their deaths.

Most flows run in scripts of their own, as users write them: with everything in `__main__`, and no
main guard.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from anabranch.errors import TaskRunnerOptionError, UnpicklableError
from anabranch.execution.messages import FrameReader, pack
from anabranch.execution.pickling import dumps
from anabranch.execution.portable import portable_exception, received_exception
from anabranch.task_runners.processes import ProcessPoolTaskRunner

HEAD = """
import asyncio, logging, os, signal, subprocess, sys, threading, time
from pathlib import Path
from anabranch import flow, get_run_logger, runtime, task
from anabranch.task_runners.processes import ProcessPoolTaskRunner
POOL = ProcessPoolTaskRunner(2)
"""


def script(tmp_path: Path, body: str) -> Path:
    path = tmp_path / "script.py"
    path.write_text(HEAD + body)
    return path


def run(tmp_path: Path, body: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", str(script(tmp_path, body))],
        capture_output=True,
        text=True,
        timeout=40,
    )


def output(tmp_path: Path, body: str) -> list[str]:
    done = run(tmp_path, body)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def until_gone(pids: list[int], seconds: float = 10) -> list[int]:
    """Those that are still there after so long."""
    deadline = time.monotonic() + seconds
    left = pids
    while left and time.monotonic() < deadline:
        left = [pid for pid in left if not gone(pid)]
        os.sched_yield()
    return left


def test_a_map_of_ten_thousand_from_main_without_a_guard(tmp_path: Path) -> None:
    lines = output(
        tmp_path,
        """
print("script runs")
OFFSET = 3
@task
def add(n):
    return n + OFFSET, os.getpid()
@flow(task_runner=POOL)
def census():
    return add.map(range(10_000)).result()
found = census()
print(sum(n for n, _ in found), os.getpid() in {pid for _, pid in found})
""",
    )
    assert lines == ["script runs", f"{sum(range(10_000)) + 30_000} False"]


def test_classes_of_main_come_back_as_themselves(tmp_path: Path) -> None:
    lines = output(
        tmp_path,
        """
class Point:
    def __init__(self, x): self.x = x
@task
def move(point):
    return Point(point.x + 1)
@flow(task_runner=POOL)
def census():
    return move.submit(Point(1)).result()
found = census()
print(type(found) is Point, found.x)
""",
    )
    assert lines == ["True 2"]


def test_async_and_generator_tasks(tmp_path: Path) -> None:
    lines = output(
        tmp_path,
        """
@task
async def later(n):
    await asyncio.sleep(0)
    return n
@task
def some(n):
    yield from range(n)
@flow(task_runner=POOL)
async def census():
    return await later.submit(4), await some.submit(3)
print(asyncio.run(census()))
""",
    )
    assert lines == ["(4, [0, 1, 2])"]


def test_a_killed_child_is_replaced_and_its_call_runs_again(tmp_path: Path) -> None:
    lines = output(
        tmp_path,
        """
FLAG = Path(sys.argv[0]).with_name("flag")
@task
def work(n):
    if n == 50 and not FLAG.exists():
        FLAG.write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    with Path(FLAG.parent, "ran").open("a") as file:
        file.write(f"{n}\\n")
    return n
@flow(task_runner=POOL)
def census():
    return sum(work.map(range(500)).result())
print(census())
ran = list(map(int, Path(FLAG.parent, "ran").read_text().split()))
again = sorted(n for n in set(ran) if ran.count(n) > 1)
print(sorted(set(ran)) == list(range(500)))
print(all(ran.count(n) == 2 and n < 50 for n in again))  # ended, and not told of when it died
""",
    )
    assert lines == [str(sum(range(500))), "True", "True"]


@pytest.mark.parametrize(
    ("death", "told"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed by SIGKILL while it ran die-0."),
        ("os._exit(3)", "left with exit code 3 while it ran die-0."),
    ],
)
def test_a_call_that_always_kills_its_child_crashes(tmp_path: Path, death: str, told: str) -> None:
    lines = output(
        tmp_path,
        f"""
@task
def die():
    {death}
@task
def fine(n):
    return n
@flow(task_runner=POOL)
def census():
    bad, good = die.submit(), fine.map(range(20))
    bad.wait()
    print(bad.state.name, bad.state.message)
    print(sum(good.result()))
    return 1
census()
""",
    )
    assert lines[0].startswith("Crashed Child process ") and lines[0].endswith(told)
    assert lines[1] == "190"


def test_sys_exit_ends_the_call_and_not_the_child(tmp_path: Path) -> None:
    lines = output(
        tmp_path,
        """
@task
def leave():
    sys.exit(3)
@task
def pid():
    return os.getpid()
@flow(task_runner=ProcessPoolTaskRunner(1))
def census():
    before = pid.submit().result()
    future = leave.submit()
    future.wait()
    print(future.state.name, before == pid.submit().result())
    return 1
census()
""",
    )
    assert lines == ["Crashed True"]


def test_a_timeout_ends_the_child_and_finally_blocks_run(tmp_path: Path) -> None:
    lines = output(
        tmp_path,
        """
NOTE = Path(sys.argv[0]).with_name("note")
@task(timeout_seconds=0.2)
def stuck():
    try:
        threading.Event().wait(3600)
    finally:
        NOTE.write_text("cleaned up")
@task(timeout_seconds=0.2)
async def stuck_async():
    await asyncio.sleep(3600)
@task
def fine(n):
    return n
@flow(task_runner=POOL)
def census():
    bad = [stuck.submit(), stuck_async.submit()]
    good = fine.map(range(20))
    for future in bad:
        future.wait()
        print(future.state.name)
    print(sum(good.result()))
    return 1
start = time.monotonic()
census()
print(NOTE.read_text(), time.monotonic() - start < 10)
""",
    )
    assert lines == ["TimedOut", "TimedOut", "190", "cleaned up True"]


def test_a_task_that_swallows_sigterm_is_killed(tmp_path: Path) -> None:
    lines = output(
        tmp_path,
        """
@task(timeout_seconds=0.2)
def stubborn():
    while True:
        try:
            threading.Event().wait(3600)
        except BaseException:
            pass
@flow(task_runner=POOL)
def census():
    future = stubborn.submit()
    future.wait()
    print(future.state.name)
    return 1
census()
""",
    )
    assert lines == ["TimedOut"]


def test_cancelling_one_run_spares_the_others(tmp_path: Path) -> None:
    lines = output(
        tmp_path,
        """
PLACE = Path(sys.argv[0]).parent
@task
def work(n):
    if n == 0:
        (PLACE / "up").write_text("")
        threading.Event().wait(3600)
    return n
@flow(task_runner=POOL)
def census():
    futures = work.map(range(200))
    while not (PLACE / "up").exists():
        os.sched_yield()
    futures[0].cancel()
    futures[0].wait()
    print(sum(future.result() for future in futures[1:]), futures[0].state.name)
    return 1
census()
""",
    )
    assert lines == [f"{sum(range(200))} Cancelled"]


def test_what_cannot_be_pickled_fails_alone_and_is_named(tmp_path: Path) -> None:
    lines = output(
        tmp_path,
        """
class Model:
    def __init__(self): self.lock = threading.Lock()
class Holder:
    def __init__(self): self.model = Model()
@task
def take(holder):
    return 1
@task
def give(n):
    return [n, threading.Lock()] if n == 1 else [n]
@flow(task_runner=POOL)
def census():
    futures = [take.submit(1), take.submit(Holder()), take.submit(2), *give.map(range(3))]
    for future in futures:
        future.wait()
        error = future.state.data
        print(future.state.name, getattr(error, "what", ""), getattr(error, "path", ""))
    return 1
census()
""",
    )
    assert lines[0].strip() == lines[2].strip() == "Completed"
    assert lines[1] == "Failed The arguments of take-1 args[0].model.lock"
    assert [line.strip() for line in lines[3:]] == [
        "Completed",
        "Failed The result of give-1 result[1]",
        "Completed",
    ]


def test_a_function_that_cannot_be_pickled_is_named(tmp_path: Path) -> None:
    lines = output(
        tmp_path,
        """
guard = threading.Lock()
@task
def locked(n):
    with guard:
        return n
@flow(task_runner=POOL)
def census():
    future = locked.submit(1)
    future.wait()
    print(type(future.state.data).__name__, future.state.data.path)
    return 1
census()
""",
    )
    assert lines == ["UnpicklableError function.guard"]


def test_exceptions_arrive_with_their_traceback_and_cause(tmp_path: Path) -> None:
    lines = output(
        tmp_path,
        """
import traceback
class Odd(Exception):
    def __init__(self, left, right):
        super().__init__(f"{left} and {right}")
        self.left = left
class Locked(Exception):
    def __init__(self):
        self.lock = threading.Lock()
@task
def plain():
    try:
        int("x")
    except ValueError as error:
        raise LookupError("no good") from error
@task
def odd():
    raise Odd(1, 2)
@task
def locked():
    raise Locked
@task
def deep(n):
    return deep.fn(n + 1)
@flow(task_runner=POOL)
def census():
    for run in (plain, odd, locked):
        error = run.submit().exception()
        frames = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        print(type(error).__name__, error, frames[0], type(error.__cause__).__name__)
        print(getattr(error, "left", None), "in locked" in getattr(error, "traceback_text", ""))
    error = deep.submit(0).exception()
    print(type(error).__name__, 0 < len(traceback.extract_tb(error.__traceback__)) < 200)
    return 1
census()
""",
    )
    assert lines == [
        "LookupError no good plain ValueError",
        "None False",
        "Odd 1 and 2 odd NoneType",
        "1 False",
        "RemoteTaskError Locked:  locked NoneType",
        "None True",
        "RecursionError True",
    ]


def test_logs_and_prints_of_children(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
@task(log_prints=True)
def talk():
    print("printed", 1)
    get_run_logger().warning("warned")
    try:
        raise KeyError("lost key")
    except KeyError:
        logging.getLogger("of.a.library").exception("broke")
@task
def shout():
    print("aloud")
@flow(task_runner=POOL)
def census():
    talk.submit().result()
    shout.submit().result()
    return 1
logging.basicConfig(level="INFO", format="%(name)s %(levelname)s %(message)s")
census()
""",
    )
    assert done.stdout == "aloud\n"
    lines = done.stderr.splitlines()
    printed = next(n for n, line in enumerate(lines) if line.endswith("talk-0 | printed 1"))
    assert lines[printed].startswith("anabranch.task_runs INFO ")
    assert lines[printed + 1].startswith("anabranch.task_runs WARNING ")
    assert lines[printed + 2] == "of.a.library ERROR broke"
    assert "KeyError: 'lost key'" in done.stderr


INNER = """
@task(retries=1)
def inner(n):
    if runtime.task_run.run_count == 1:
        raise ValueError
    return n + 1, runtime.flow_run.name
"""

OUTER = """
@task
def outer(n):
    return inner(n), runtime.flow_run.name
@task
def nested(n):
    return inner.submit(n).result()
@task
def asks():
    return dict(runtime.flow_run.parameters)
@flow(task_runner=POOL)
def census(size=3):
    (value, inside), outside = outer.submit(1).result()
    print(value, inside == outside == runtime.flow_run.name)
    print(nested.submit(1).result()[0], asks.submit().result())
census()
"""


def test_a_task_calls_submits_and_asks(tmp_path: Path) -> None:
    (tmp_path / "inner_tasks.py").write_text("from anabranch import runtime, task\n" + INNER)
    lines = output(tmp_path, "from inner_tasks import inner\n" + OUTER)
    assert lines == ["2 True", "2 {'size': 3}"]


def test_a_task_calls_submits_and_asks_in_main(tmp_path: Path) -> None:
    assert output(tmp_path, INNER + OUTER) == ["2 True", "2 {'size': 3}"]


def test_a_long_call_does_not_hold_up_those_behind_it(tmp_path: Path) -> None:
    lines = output(
        tmp_path,
        """
PLACE = Path(sys.argv[0]).parent
@task
def work(n):
    if n == 300:
        while len(list(PLACE.glob("done-*"))) < 399:
            os.sched_yield()
        return n
    (PLACE / f"done-{n}").write_text("")
    return n
@flow(task_runner=POOL)
def census():
    return sum(work.map(range(400)).result())
print(census())
""",
    )
    assert lines == [str(sum(range(400)))]


def test_no_child_is_left_after_a_flow(tmp_path: Path) -> None:
    lines = output(
        tmp_path,
        """
@task
def pids(n):
    return os.getpid(), os.getppid()
@flow(task_runner=POOL)
def census():
    return pids.map(range(50)).result()
for _ in range(2):
    children, servers = map(set, zip(*census()))
    print(*children)
    print(*servers)
left = subprocess.run(["ps", "--no-headers", "-o", "pid=,comm=", "--ppid", str(os.getpid())], capture_output=True, text=True)
print(*[line.split()[0] for line in left.stdout.splitlines() if not line.endswith(" ps")])
""",
    )
    children, server, others, same_server, left = ([*map(int, line.split())] for line in lines)
    assert until_gone(children + others, 0.5) == []
    assert server == same_server == left  # which the next flow takes too, until the process ends
    assert until_gone(server, 0.5) == []


def test_nothing_is_left_after_the_parent_was_killed(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        """
@task
def stuck(n):
    os.write(1, f"{os.getpid()} {os.getppid()}\\n".encode())
    threading.Event().wait(3600)
@flow(task_runner=POOL)
def census():
    stuck.map(range(2)).wait()
census()
""",
    )
    with subprocess.Popen(
        [sys.executable, str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for _ in range(2) for pid in parent.stdout.readline().split()]
        parent.kill()
        parent.wait()
    assert len(pids) == 4
    assert until_gone(pids) == []


def test_a_killed_fork_server_is_replaced(tmp_path: Path) -> None:
    lines = output(
        tmp_path,
        """
FLAG = Path(sys.argv[0]).with_name("flag")
@task
def work(n):
    if n == 50 and not FLAG.exists():
        FLAG.write_text("")
        os.kill(os.getppid(), signal.SIGKILL)
        threading.Event().wait(3600)
    return n
@flow(task_runner=POOL)
def census():
    return sum(work.map(range(100)).result())
print(census())
""",
    )
    assert lines == [str(sum(range(100)))]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_cancel_the_flow(tmp_path: Path, number: int) -> None:
    path = script(
        tmp_path,
        """
@task
def stuck(n):
    os.write(1, f"{os.getpid()} {os.getppid()}\\n".encode())
    threading.Event().wait(3600)
@flow(task_runner=POOL)
def census():
    stuck.map(range(100)).wait()
census()
""",
    )
    with subprocess.Popen(
        [sys.executable, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for _ in range(2) for pid in parent.stdout.readline().split()]
        os.killpg(parent.pid, number)  # as a terminal does
        _, errors = parent.communicate(timeout=20)
    assert parent.returncode in (-number, 128 + number)
    assert b"Cancelled" in errors
    assert until_gone(pids) == []


def test_options() -> None:
    runner = ProcessPoolTaskRunner.from_string("", {"max_workers": "3"})
    assert runner.max_workers == 3
    assert ProcessPoolTaskRunner().max_workers == os.cpu_count()
    assert ProcessPoolTaskRunner(resources={"gpu": 1}).capabilities().resources == {"gpu": 1}
    with pytest.raises(TaskRunnerOptionError):
        ProcessPoolTaskRunner(0)
    with pytest.raises(TaskRunnerOptionError):
        ProcessPoolTaskRunner.from_string("", {"workers": "3"})


def test_windows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(TaskRunnerOptionError), ProcessPoolTaskRunner(1).open(None, None):  # type: ignore[arg-type]
        pass


def test_the_path_goes_through_slots_and_closures() -> None:
    class Slotted:
        __slots__ = ("stream",)

    holder = Slotted()
    holder.stream = threading.Lock()  # type: ignore[attr-defined]
    with pytest.raises(UnpicklableError) as raised:
        dumps({"a": [lambda: holder]}, "This")
    assert raised.value.path.startswith("value['a'][0].holder.stream")


def test_an_exception_that_unpickles_as_something_else() -> None:
    error = received_exception(portable_exception(UnpicklableError("a", "b", "c")))
    assert isinstance(error, UnpicklableError) and error.path == "b"


def test_a_child_killed_from_outside_during_a_map_of_ten_thousand(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
PLACE = Path(sys.argv[0]).parent
@task
def work(n):
    if n == 5_000:
        PLACE.joinpath("pid").write_text(str(os.getpid()))
        if not (PLACE / "at half").exists():
            PLACE.joinpath("pid").rename(PLACE / "at half")
            threading.Event().wait(3600)
    return n
@flow(task_runner=POOL)
def census():
    futures = work.map(range(10_000))
    while not (PLACE / "at half").exists():
        os.sched_yield()
    os.kill(int((PLACE / "at half").read_text()), signal.SIGKILL)
    return futures.result()
print(census() == list(range(10_000)))
""",
    )
    assert done.stdout == "True\n"
    assert "was killed by SIGKILL while it ran work-5000.; it runs again" in done.stderr


def test_frames_in_any_pieces_and_of_any_messages() -> None:
    plain: list[Any] = [(1, None, True, 1.5, "\ud800é", b"\0", (2**90, [])), (2,)]
    other: list[Any] = [(3, Path("/tmp"))]  # marshal has no such thing
    sent = pack(plain) + pack(other) + pack([]) + pack(plain)
    for length in (1, 7, len(sent)):
        reader = FrameReader()
        pieces = [sent[at : at + length] for at in range(0, len(sent), length)]
        assert [each for piece in pieces for each in reader.feed(piece)] == plain + other + plain
