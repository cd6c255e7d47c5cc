"""What `anabranch.testing` gives to users' tests: the clock, and the harness around a flow."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anabranch import flow, task
from anabranch import testing as anabranch_testing
from anabranch.events import TaskRunsSubmitted
from anabranch.settings import load_settings
from anabranch.testing import MovableClock, harness

RUNNERS = ["inline", "threads", "asyncio"]
HOUR = 3600.0
WITHIN = 20.0  # a loaded machine's


def failing_once() -> Callable[[], str]:
    attempts: list[int] = []

    def attempt() -> str:
        attempts.append(1)
        if len(attempts) == 1:
            raise ValueError("not yet")
        return "there"

    return attempt


# -- the clock ------------------------------------------------------------------------------------


def test_timers_run_in_order_each_at_its_own_time() -> None:
    clock = MovableClock(start=1000.0)
    told: list[tuple[str, float]] = []

    def note(name: str) -> None:
        told.append((name, clock.time()))
        if name == "second":
            clock.call_later(1.0, lambda: note("set by the second"))
            clock.call_later(90.0, lambda: note("too late"))

    clock.call_later(5.0, lambda: note("third"))
    clock.call_later(0.0, lambda: note("first"))
    clock.call_later(2.0, lambda: note("second"))
    clock.move(10.0)
    assert told == [
        ("first", 1000.0),
        ("second", 1002.0),
        ("set by the second", 1003.0),
        ("third", 1005.0),
    ]
    assert clock.time() == 1010.0
    assert clock.timers == 1
    assert clock.next_due == 1092.0


def test_time_stands_still_by_itself_and_never_goes_back() -> None:
    clock = MovableClock(start=7.0)
    assert clock.time() == clock.time() == 7.0
    clock.move_to(3.0)
    assert clock.time() == 7.0


def test_move_to_next_waits_for_a_timer_of_another_thread() -> None:
    clock = MovableClock(start=0.0)
    rang = threading.Event()
    other = threading.Thread(target=clock.call_later, args=(HOUR, rang.set))
    other.start()
    assert clock.move_to_next() == HOUR
    assert rang.is_set()
    other.join()


def test_waiting_for_a_timer_that_nobody_sets() -> None:
    clock = MovableClock()
    with pytest.raises(TimeoutError, match="0 timers are set, not 1"):
        clock.wait_for_timer(timeout=0.01)


def test_an_engine_that_closes_its_clock_leaves_the_timers_of_others() -> None:
    clock = MovableClock(start=0.0)
    told: list[str] = []
    first, second = clock.share(), clock.share()
    first.call_later(1.0, lambda: told.append("first"))
    second.call_later(1.0, lambda: told.append("second"))
    clock.call_later(1.0, lambda: told.append("own"))
    first.close()
    clock.move(2.0)
    assert told == ["second", "own"]
    second.call_later(1.0, lambda: told.append("again"))
    clock.close()
    clock.move(2.0)
    assert told == ["second", "own"]


# -- the harness ----------------------------------------------------------------------------------


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_task_that_retries_after_an_hour(runner: str) -> None:
    patient = task(failing_once(), name="patient", retries=1, retry_delay_seconds=HOUR)  # type: ignore[call-overload]

    @flow(task_runner=runner)
    def census() -> str:
        return patient.submit().result()

    with harness(start=1e9) as test:
        run = test.start(census)
        assert test.clock.move_to_next() == HOUR
        assert run.result(timeout=WITHIN) == "there"
        assert test.clock.time() == 1e9 + HOUR
    assert test.states("patient-0") == ["AwaitingRetry", "Completed"]


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_direct_call_that_retries_after_an_hour(runner: str) -> None:
    patient = task(failing_once(), name="patient", retries=1, retry_delay_seconds=HOUR)  # type: ignore[call-overload]

    @flow(task_runner=runner)
    def census() -> str:
        return patient()

    with harness() as test:
        run = test.start(census)
        test.clock.move_to_next()
        assert run.result(timeout=WITHIN) == "there"


def test_a_task_called_on_its_own_that_retries_after_an_hour() -> None:
    patient = task(failing_once(), name="patient", retries=1, retry_delay_seconds=HOUR)  # type: ignore[call-overload]
    with harness() as test:
        run = test.start(patient)
        test.clock.move_to_next()
        assert run.result(timeout=WITHIN) == "there"
    assert test.states("patient-0") == ["AwaitingRetry", "Completed"]


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_flow_that_retries_after_an_hour(runner: str) -> None:
    attempt = failing_once()

    @flow(task_runner=runner, retries=1, retry_delay_seconds=HOUR)
    def census() -> str:
        return attempt()

    with harness() as test:
        run = test.start(census)
        assert test.clock.move_to_next() == HOUR
        assert run.result(timeout=WITHIN) == "there"
    assert test.states("census") == ["Running", "Retrying", "Completed"]


def test_an_async_flow_that_retries_after_an_hour() -> None:
    attempt = failing_once()

    @flow(retries=1, retry_delay_seconds=HOUR)
    async def census() -> str:
        return attempt()

    with harness() as test:
        run = test.start(census)
        test.clock.move_to_next()
        assert run.result(timeout=WITHIN) == "there"

    async def both() -> str:
        running = asyncio.create_task(census())
        await asyncio.to_thread(test.clock.move_to_next)
        return await running

    attempt = failing_once()
    with harness() as test:
        assert asyncio.run(both()) == "there"


def test_a_timeout_of_an_hour() -> None:
    gate = threading.Event()

    @task(timeout_seconds=HOUR)
    def stuck() -> None:
        gate.wait(WITHIN)

    @flow(task_runner="threads")
    def census() -> Any:
        return stuck.submit(return_state=True)  # type: ignore[call-arg]

    with harness() as test:
        run = test.start(census, return_state=True)
        test.clock.move_to_next()
        assert run.result(timeout=WITHIN).is_failed()
        gate.set()
    assert test.states("stuck-0") == ["Running", "TimedOut"]


def test_flows_one_after_the_other_share_the_clock() -> None:
    @flow(task_runner="inline", retries=1, retry_delay_seconds=HOUR)
    def census(attempt: Callable[[], str]) -> str:
        return attempt()

    with harness(start=0.0) as test:
        for count in (1, 2):
            run = test.start(census, failing_once())
            test.clock.move_to_next()
            assert run.result(timeout=WITHIN) == "there"
            assert test.clock.time() == count * HOUR
        assert test.clock.timers == 0


def test_no_setting_leaks_in_or_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "config.toml").write_text("cancel_grace = 77\n")
    (tmp_path / "pyproject.toml").write_text('[tool.anabranch]\ntask_runner = "nowhere"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANABRANCH_HOME", str(home))
    monkeypatch.setenv("ANABRANCH_LOGGING_LEVEL", "DEBUG")
    before = dict(os.environ)
    with harness(cancel_grace=0.25) as test:
        settings = load_settings()
        assert settings.home == Path(test.home) != home
        assert list(settings.home.iterdir()) == []
        assert (settings.task_runner, settings.logging_level) == ("threads", "INFO")
        assert settings.cancel_grace == 0.25
        assert not settings.progress
    assert dict(os.environ) == before
    assert not Path(test.home).exists()
    assert load_settings().cancel_grace == 77


def test_log_lines_are_kept_and_the_terminal_stays_quiet(
    capfd: pytest.CaptureFixture[str],
) -> None:
    @flow(task_runner="inline")
    def census() -> None:
        print("a line of the flow")

    logger = logging.getLogger("anabranch")
    before = (list(logger.handlers), logger.level)
    with harness() as test:
        census.with_options(log_prints=True)()
    assert any(line.endswith("| a line of the flow") for line in test.lines)
    assert any("flow 'census': Completed" in line for line in test.lines)
    assert capfd.readouterr().err == ""
    assert (list(logger.handlers), logger.level) == before


def test_all_events_are_there_when_the_flow_has_ended() -> None:
    @task
    def double(n: int) -> int:
        return 2 * n

    @flow(task_runner="threads")
    def census() -> list[int]:
        return double.map(range(3)).result()

    with harness() as test:
        assert census() == [0, 2, 4]
        told = [type(event).__name__ for event in test.events]
        assert told.count("TaskRunsSubmitted") == 1
        assert [test.states(f"double-{n}") for n in range(3)] == [["Completed"]] * 3
        assert test.states("census") == ["Running", "Completed"]
        assert any(isinstance(each, TaskRunsSubmitted) for each in test.events)


def test_nothing_of_the_harness_is_left_after_it() -> None:
    @flow(task_runner="inline")
    def census() -> int:
        return 1

    with harness() as test:
        pass
    assert census() == 1
    assert test.events == []


def test_importing_it_needs_no_pytest() -> None:
    code = "import sys, anabranch.testing; assert 'pytest' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names() -> None:
    assert all(getattr(anabranch_testing, name) for name in anabranch_testing.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        anabranch_testing.nothing  # noqa: B018  # the access is the test
