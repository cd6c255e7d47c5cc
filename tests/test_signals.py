"""Ctrl-C and SIGTERM while a flow runs, really sent to a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

RUNNERS = ["inline", "threads", "asyncio", "processes"]
SIGNALS = [signal.SIGINT, signal.SIGTERM]
EXIT_CODES = {signal.SIGINT: {-signal.SIGINT, 130}, signal.SIGTERM: {143}}
WHY = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
GRACE = 1.0
SLACK = 8.0  # a loaded machine's, for start and end of a process

HEAD = """
import asyncio, itertools, signal, sys, threading
from anabranch import flow, task

RUNNER = sys.argv[1]
FOREVER = 3600
said = itertools.count()

def say(text):
    sys.stdout.write(text + "\\n")
    sys.stdout.flush()

def ready():
    if next(said) == 0:
        say("ready")

@task
def stuck(n):
    ready()
    while True:  # in slices: Python may note a signal just before a wait, and then it ends none
        threading.Event().wait(1)

@task
async def stuck_async(n):
    ready()
    await asyncio.sleep(FOREVER)

@task
def quick(n):
    ready()
    return n

def ended(its_flow, run, state):
    say(f"hook {state.name} {state.message}")
"""

SYNC_MAP = """
@flow(task_runner=RUNNER, on_cancellation=[ended])
def census():
    stuck.map(range(100)).wait()

census()
say("went on")
"""

ASYNC_MAP = """
@flow(task_runner=RUNNER, on_cancellation=[ended])
async def census():
    await stuck_async.map(range(100))

asyncio.run(census())
say("went on")
"""

ASYNC_TASKS_IN_SYNC_FLOW = """
@flow(task_runner=RUNNER, on_cancellation=[ended])
def census():
    stuck_async.map(range(100)).wait()

census()
say("went on")
"""

SUBMITTING = """
@flow(task_runner=RUNNER, on_cancellation=[ended])
def census():
    for n in itertools.count():
        quick.submit(n)

census()
say("went on")
"""

NEVER_TURNING = """
@flow(task_runner=RUNNER, on_cancellation=[ended])
async def census():
    while True:
        await quick.submit(1)

asyncio.run(census())
say("went on")
"""

CALLING = """
@flow(on_cancellation=[ended])
def census():
    for n in itertools.count():
        quick(n)

census()
say("went on")
"""

BUSY = """
@flow(task_runner=RUNNER, on_cancellation=[ended])
async def census():
    ready()
    while True:
        pass

asyncio.run(census())
say("went on")
"""

JOINING = """
@flow(task_runner=RUNNER, on_cancellation=[ended])
def census():
    stuck_async.map(range(20))

census()
say("went on")
"""

SUBFLOWS = """
@flow
def below():
    stuck.map(range(10)).wait()

@flow(task_runner=RUNNER, on_cancellation=[ended])
def census():
    below()

census()
say("went on")
"""

BETWEEN_ATTEMPTS = """
import logging

class Ready(logging.StreamHandler):  # called by a thread of the engine, not by the main one
    def emit(self, record):
        super().emit(record)
        if "Retrying" in record.getMessage():
            ready()

logging.getLogger("anabranch").addHandler(Ready())

@flow(task_runner=RUNNER, retries=1, retry_delay_seconds=FOREVER, on_cancellation=[ended])
def census():
    raise ValueError("once more")

@flow(task_runner=RUNNER, retries=1, retry_delay_seconds=FOREVER, on_cancellation=[ended])
async def census_async():
    raise ValueError("once more")

census() if sys.argv[1] != "asyncio" else asyncio.run(census_async.with_options(name="census")())
say("went on")
"""

CAUGHT = """
before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]

@flow(task_runner=RUNNER, on_cancellation=[ended])
def census():
    stuck_async.map(range(10)).wait()

try:
    census()
except BaseException as error:
    kinds = (KeyboardInterrupt, SystemExit)
    say(f"caught {[each.__name__ for each in kinds if isinstance(error, each)]}")
after = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
say(f"put back {before == after}")

@flow
def again():
    return quick.submit(5).result()

say(f"again {again()}")
"""


@contextmanager
def script(
    tmp_path: Path, text: str, runner: str, grace: float = GRACE
) -> Iterator[subprocess.Popen[str]]:
    """The script, running, once it has said that it is ready."""
    path = tmp_path / "script.py"
    path.write_text(HEAD + text)
    env = {
        **os.environ,
        "ANABRANCH_CANCEL_GRACE": str(grace),
        "ANABRANCH_HOME": str(tmp_path),
        "PYTHONWARNINGS": "default",
    }
    process = subprocess.Popen(
        [sys.executable, str(path), runner],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        cwd=tmp_path,
        start_new_session=True,
    )
    try:
        line = next_line(process)
        assert line == "ready\n", line + process.communicate(timeout=30)[1]
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def next_line(process: subprocess.Popen[str]) -> str:
    """No more is read than the line: what follows is left to `communicate`, which looks into no
    buffer."""
    assert process.stdout is not None
    line = b""
    while not line.endswith(b"\n") and (piece := os.read(process.stdout.fileno(), 1)):
        line += piece
    return line.decode()


def end_of(process: subprocess.Popen[str], within: float) -> tuple[str, str, float]:
    began = time.monotonic()
    try:
        out, err = process.communicate(timeout=within)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        pytest.fail(f"still there after {within} s\n{out}\n{err}")
    return out, err, time.monotonic() - began


def check_cancelled(process: subprocess.Popen[str], number: signal.Signals) -> None:
    process.send_signal(number)
    out, err, _ = end_of(process, GRACE + SLACK)
    assert process.returncode in EXIT_CODES[number], err
    assert f"hook Cancelled Cancelled ({WHY[number]})." in out, err
    assert "flow 'census': Cancelled" in err
    assert "went on" not in out
    assert "Exception ignored" not in err
    assert "was never awaited" not in err
    assert "Task was destroyed" not in err


@pytest.mark.parametrize("number", SIGNALS, ids=lambda each: each.name)
@pytest.mark.parametrize("runner", RUNNERS)
def test_during_a_map(tmp_path: Path, runner: str, number: signal.Signals) -> None:
    with script(tmp_path, SYNC_MAP, runner) as process:
        check_cancelled(process, number)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda each: each.name)
@pytest.mark.parametrize("runner", ["threads", "asyncio", "processes"])
def test_during_a_map_of_an_async_flow(tmp_path: Path, runner: str, number: signal.Signals) -> None:
    with script(tmp_path, ASYNC_MAP, runner) as process:
        check_cancelled(process, number)


@pytest.mark.parametrize("runner", RUNNERS)
def test_during_async_tasks_of_a_sync_flow(tmp_path: Path, runner: str) -> None:
    with script(tmp_path, ASYNC_TASKS_IN_SYNC_FLOW, runner) as process:
        check_cancelled(process, signal.SIGINT)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda each: each.name)
@pytest.mark.parametrize("runner", RUNNERS)
def test_while_the_flow_submits(tmp_path: Path, runner: str, number: signal.Signals) -> None:
    with script(tmp_path, SUBMITTING, runner) as process:
        check_cancelled(process, number)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda each: each.name)
def test_while_an_async_flow_submits_and_its_loop_never_turns(
    tmp_path: Path, number: signal.Signals
) -> None:
    with script(tmp_path, NEVER_TURNING, "inline") as process:
        check_cancelled(process, number)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda each: each.name)
def test_while_the_flow_calls_tasks_itself(tmp_path: Path, number: signal.Signals) -> None:
    with script(tmp_path, CALLING, "threads", grace=60) as process:
        check_cancelled(process, number)  # and nothing waits for the end of the grace


def test_a_second_signal_ends_an_async_flow_that_never_awaits(tmp_path: Path) -> None:
    with script(tmp_path, BUSY, "threads") as process:
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)  # the loop cannot hand the first one on
        process.send_signal(signal.SIGTERM)
        out, err, _ = end_of(process, GRACE + SLACK)
    assert process.returncode == 143, err
    assert "went on" not in out


@pytest.mark.parametrize("number", SIGNALS, ids=lambda each: each.name)
def test_while_the_flow_joins_its_children(tmp_path: Path, number: signal.Signals) -> None:
    with script(tmp_path, JOINING, "asyncio") as process:
        check_cancelled(process, number)


@pytest.mark.parametrize("runner", RUNNERS)
def test_below_a_subflow(tmp_path: Path, runner: str) -> None:
    with script(tmp_path, SUBFLOWS, runner) as process:
        check_cancelled(process, signal.SIGINT)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda each: each.name)
@pytest.mark.parametrize("runner", RUNNERS)
def test_while_the_flow_waits_to_be_tried_again(
    tmp_path: Path, runner: str, number: signal.Signals
) -> None:
    with script(tmp_path, BETWEEN_ATTEMPTS, runner) as process:
        check_cancelled(process, number)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda each: each.name)
def test_caught_by_the_script_the_handlers_are_put_back(
    tmp_path: Path, number: signal.Signals
) -> None:
    with script(tmp_path, CAUGHT, "asyncio") as process:
        process.send_signal(number)
        out, err, _ = end_of(process, GRACE + SLACK)
    caught = {signal.SIGINT: "KeyboardInterrupt", signal.SIGTERM: "SystemExit"}[number]
    assert process.returncode == 0, err
    assert f"caught ['{caught}']" in out
    assert "put back True" in out
    assert "again 5" in out


@pytest.mark.parametrize("number", SIGNALS, ids=lambda each: each.name)
def test_a_second_signal_leaves_now(tmp_path: Path, number: signal.Signals) -> None:
    """The first is in its grace period, which would last far longer than the test allows."""
    told = """
from anabranch.events import FlowRunChanged
import anabranch.engine.engine as engine
cancel_flow = engine.Engine.cancel_flow
def cancel_and_tell(self, open_flow):
    result = cancel_flow(self, open_flow)
    say("grace")
    return result
engine.Engine.cancel_flow = cancel_and_tell
"""
    with script(tmp_path, told + SYNC_MAP, "threads", grace=600) as process:
        process.send_signal(number)
        assert next_line(process) == "grace\n"
        process.send_signal(number)
        _, err, took = end_of(process, SLACK)
    assert process.returncode in EXIT_CODES[number], err
    assert took < SLACK


TORN = '''
import threading
enter = threading.Condition.__enter__

def enter_and_be_told(self):
    """A signal comes when the lock is taken and no `with` owns it yet."""
    got = self._lock.__enter__()
    threading.Condition.__enter__ = enter
    signal.raise_signal(signal.SIGINT)
    return got

told = type(enter)(enter_and_be_told.__code__, {"__name__": "threading", "threading": threading,
                                                "signal": signal, "enter": enter})

@task(timeout_seconds=30)
def timed(n):
    return n

@flow(task_runner=RUNNER, on_cancellation=[ended])
def census():
    say("ready")
    threading.Condition.__enter__ = told
    for n in itertools.count():
        timed.submit(n)

census()
'''


def test_a_signal_leaves_no_lock_of_ours_behind(tmp_path: Path) -> None:
    with script(tmp_path, TORN, "inline") as process:
        out, err, _ = end_of(process, GRACE + SLACK)
    assert process.returncode in EXIT_CODES[signal.SIGINT], err
    assert f"hook Cancelled Cancelled ({WHY[signal.SIGINT]})." in out, err


UNSEEN = """
@task
def tells_itself():
    say("ready")
    main = threading.main_thread().ident
    while sys._current_frames()[main].f_code.co_name != "block":
        pass
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)
    threading.Event().wait(FOREVER)

@flow(task_runner=RUNNER, on_cancellation=[ended])
def census():
    tells_itself.submit().wait()

census()
"""


@pytest.mark.parametrize("runner", ["threads", "asyncio"])
def test_a_signal_that_does_not_wake_the_main_thread(tmp_path: Path, runner: str) -> None:
    """Python has noted it, but the main thread sleeps on: as with one just before the sleep."""
    with script(tmp_path, UNSEEN, runner) as process:
        out, err, _ = end_of(process, GRACE + SLACK)
    assert process.returncode in EXIT_CODES[signal.SIGINT], err
    assert f"hook Cancelled Cancelled ({WHY[signal.SIGINT]})." in out, err
