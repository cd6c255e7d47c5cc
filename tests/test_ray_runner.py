"""What is particular to the Ray runner, on a local Ray of two CPUs."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray_here import RayHere
from waits import until

from anabranch.errors import (
    ClusterConnectionError,
    CrashedRun,
    TaskRunnerOptionError,
    WorkerVersionError,
)
from anabranch.task_runners import RayTaskRunner, task_runner
from anabranch.task_runners.ray_addresses import place
from anabranch.task_runners.ray_connection import connected_ray
from anabranch.testing.contract.base import in_flow
from anabranch.testing.contract.tasks import inc, length_of, note, notes, task


@pytest.fixture
def connection(ray_here: RayHere) -> Any:
    """This process's Ray, which the flows here share."""
    return ray_here.connected(None, num_cpus=2, resources={"special": 1})


@pytest.fixture
def on_ray(connection: Any) -> Callable[[Callable[..., Any]], Any]:
    return lambda body: in_flow(RayTaskRunner(), body)


def script(tmp_path: Path, text: str) -> subprocess.CompletedProcess[str]:
    """Run this as a user's script."""
    file = tmp_path / "script.py"
    file.write_text(textwrap.dedent(text))
    return subprocess.run([sys.executable, str(file)], capture_output=True, text=True, timeout=50)


# -- options --------------------------------------------------------------------------------------


def test_strings_and_options() -> None:
    assert repr(task_runner("ray")) == "RayTaskRunner()"
    assert repr(task_runner("ray://host:10001")) == "RayTaskRunner(address='ray://host:10001')"
    assert repr(task_runner("ray?num_cpus=2")) == "RayTaskRunner(init_kwargs={'num_cpus': 2})"
    assert repr(task_runner("ray?address=host:1")) == "RayTaskRunner(address='host:1')"
    assert RayTaskRunner(init_kwargs={"address": "host:1"}).address == "host:1"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("ray?num_cpus=two", "num_cpus='two'"),
        ("ray?num_cpus=²", "num_cpus='²'"),
        ("ray?colour=red", "colour='red'"),
        ("ray?address=host:1&num_cpus=2", "no num_cpus beside it"),
        ("ray://host:10001?num_cpus=2", "num_cpus='2'"),
    ],
)
def test_strings_that_will_not_do(given: str, told: str) -> None:
    with pytest.raises(TaskRunnerOptionError, match=told):
        task_runner(given)


def test_one_address_only() -> None:
    with pytest.raises(TaskRunnerOptionError, match="beside address"):
        RayTaskRunner("host:1", {"address": "host:2"})


# -- connections ----------------------------------------------------------------------------------


def test_a_process_has_one_ray(connection: Any) -> None:
    with (
        pytest.raises(ClusterConnectionError, match=r"127\.0\.0\.1:1: this process is connected"),
        connected_ray("127.0.0.1:1", {}),
    ):
        pass


def test_nobody_listens(tmp_path: Path) -> None:
    done = script(
        tmp_path,
        """
        from anabranch import flow
        from anabranch.task_runners import RayTaskRunner

        @flow(task_runner=RayTaskRunner("127.0.0.1:1"))
        def main():
            pass

        main()
        """,
    )
    assert "ClusterConnectionError: Ray at 127.0.0.1:1: nobody answered within" in done.stderr


def test_what_is_not_installed_is_named(tmp_path: Path) -> None:
    done = script(
        tmp_path,
        """
        import sys
        sys.modules["ray"] = None
        from anabranch import flow

        @flow(task_runner="ray")
        def main():
            pass

        main()
        """,
    )
    assert "MissingExtraError: The ray runner needs the package ray" in done.stderr
    assert 'pip install "anabranch[ray]"' in done.stderr


def test_a_ray_of_the_users_stays(tmp_path: Path) -> None:
    done = script(
        tmp_path,
        """
        import logging, os, signal
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        import ray
        from anabranch import flow, task
        from anabranch.task_runners import RayTaskRunner

        @task
        def inc(x):
            return x + 1

        @flow(task_runner=RayTaskRunner())
        def main():
            return sum(inc.map(range(4)).result())

        ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level=logging.ERROR)
        before = signal.getsignal(signal.SIGTERM)
        print(main(), main(), ray.is_initialized(), signal.getsignal(signal.SIGTERM) is before)
        """,
    )
    assert done.stdout.strip() == "10 10 True True"


def test_flows_on_a_ray_of_the_users_share_an_actor_as_long_as_there_is_one(tmp_path: Path) -> None:
    text = """
        import logging, os
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        import ray
        from anabranch import flow, task
        from anabranch.task_runners import ray_connection

        @task
        def half(x):
            return x // 2

        @flow(task_runner="ray")
        def census():
            return sum(half.map(range(100)).result())

        def office():
            return ray_connection._theirs.office

        def init():
            ray.init(address="local", num_cpus=1, include_dashboard=False,
                     logging_level=logging.ERROR)

        init()
        answers, offices = [census()], [office()]
        answers.append(census())
        print("same", office() is offices[0])
        ray.kill(office().actor)
        answers.append(census())
        print("another", office().name != offices[0].name)
        offices.append(office())
        ray.shutdown()
        init()
        answers.append(census())
        print("a third", office().name not in [each.name for each in offices])
        ray.shutdown()
        print(answers)
    """
    done = script(tmp_path, text)
    assert done.stdout.splitlines() == [
        *("same True", "another True", "a third True", "[2450, 2450, 2450, 2450]")
    ], done.stderr


def test_versions_that_differ_are_named(connection: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "is_known", False)
    monkeypatch.setattr("anabranch.task_runners.ray_versions.versions", lambda: ("3.99", "9.9"))
    with pytest.raises(WorkerVersionError, match=r"flow runs on Python 3\.99 with anabranch 9\.9"):
        in_flow(RayTaskRunner(), lambda: inc.submit(1).result())


def test_places_of_addresses() -> None:
    assert place("127.0.0.1:6379") == ("127.0.0.1", 6379)
    assert place("ray://host") == ("host", 10001)
    with pytest.raises(ClusterConnectionError, match="no such port"):
        place("host:many")


# -- resources ------------------------------------------------------------------------------------


@task
def assigned() -> dict[str, float]:
    import ray as typed_ray  # in the worker: here it is loaded by the runner, which says how

    ray: Any = typed_ray
    return dict(ray.get_runtime_context().get_assigned_resources())


def test_resources_are_rays(on_ray: Any) -> None:
    asks = assigned.with_options(resources={"cpu": 2, "special": 1})
    assert on_ray(lambda: asks.submit().result()) == {"CPU": 2.0, "special": 1.0}


needs_three_gpus = inc.with_options(resources={"gpu": 3})


@task
def submits_in_vain(told: Path) -> str:
    future = needs_three_gpus.submit(1)
    until(lambda: notes(told), "what the flow was told")
    future.cancel()
    future.wait()
    return future.state.name


@pytest.mark.parametrize("outer", [True, False])
def test_resources_that_ray_does_not_have(
    on_ray: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path, outer: bool
) -> None:
    text = "waits for resources {'GPU': 3}, which Ray does not have; in all it has: CPU 2"
    told = tmp_path / "told"

    def is_told() -> bool:
        return text in caplog.text

    def body() -> Any:
        if not outer:
            name = submits_in_vain.submit(told)
            until(is_told, "a word of it")
            note(told, text)
            return name.result()
        future = needs_three_gpus.submit(1)
        until(is_told, "a word of it")
        future.cancel()
        future.wait()
        return future.state.name

    with caplog.at_level(logging.WARNING, "anabranch"):
        assert on_ray(body) == "Cancelled"


# -- faults ---------------------------------------------------------------------------------------


@task
def dies_at_first(path: Path, value: int) -> int:
    note(path, f"{value}")
    if notes(path).count(f"{value}") == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return value


@task
def always_dies(path: Path) -> None:
    note(path, "began")
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_costs_no_retry_of_the_users(on_ray: Any, tmp_path: Path) -> None:
    def body() -> Any:
        futures = [dies_at_first.submit(tmp_path / "calls", 7), *inc.map(range(20))]
        return [future.result() for future in futures]

    assert on_ray(body) == [7, *range(1, 21)]
    assert notes(tmp_path / "calls") == ["7", "7"]


def test_what_always_kills_its_worker_is_crashed(on_ray: Any, tmp_path: Path) -> None:
    def body() -> Any:
        poison = always_dies.submit(tmp_path / "calls")
        return [type(poison.exception()), inc.submit(1).result()]

    assert on_ray(body) == [CrashedRun, 2]
    assert 1 < len(notes(tmp_path / "calls")) <= 12


@task
def has_a_child_that_dies(path: Path) -> int:
    return dies_at_first.submit(path, 1).result() + 1


def test_a_child_takes_its_seat_along(on_ray: Any, tmp_path: Path) -> None:
    assert on_ray(lambda: has_a_child_that_dies.submit(tmp_path / "calls").result()) == 2


# -- what stays, and who submits ------------------------------------------------------------------


class Traveller:
    """Notes where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.load = b"x" * 300_000

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        note(self.path, str(os.getpid()))

    def __len__(self) -> int:
        return len(self.load)


@task
def traveller(path: Path) -> Traveller:
    return Traveller(path)


@task
def made_inside(path: Path) -> Any:
    return length_of.submit(traveller.submit(path)).result()


def test_large_results_do_not_come_by(on_ray: Any, tmp_path: Path) -> None:
    def body() -> Any:
        made = traveller.submit(tmp_path / "calls")
        lengths = [length_of.submit(made).result(), length_of.submit(made).result()]
        return [*lengths, notes(tmp_path / "calls")]

    *lengths, where = on_ray(body)
    assert lengths == [300_000, 300_000]
    assert where and str(os.getpid()) not in where


def test_large_results_of_what_tasks_submit_do_not_come_by(on_ray: Any, tmp_path: Path) -> None:
    def body() -> Any:
        return [made_inside.submit(tmp_path / "calls").result(), notes(tmp_path / "calls")]

    length, where = on_ray(body)
    assert length == 300_000
    assert where and str(os.getpid()) not in where


@task
def where_it_ran(depth: int) -> set[int]:
    below: set[int] = where_it_ran.submit(depth - 1).result() if depth else set()
    return below | {os.getpid()}


def test_recursion_needs_no_more_processes(on_ray: Any) -> None:
    assert len(on_ray(lambda: where_it_ran.submit(40).result())) <= 3


@task
def many_inside(count: int) -> int:
    return sum(inc.map(range(count)).result())


def test_maps_inside_of_tasks(on_ray: Any) -> None:
    assert on_ray(lambda: many_inside.map([50, 50, 50]).result()) == [1275] * 3


# -- stopping -------------------------------------------------------------------------------------


@task
def sleeps(path: Path) -> None:
    note(path, "began")
    time.sleep(1000)


def test_a_call_that_sleeps_is_ended(on_ray: Any, tmp_path: Path) -> None:
    def body() -> Any:
        hasty = sleeps.with_options(timeout_seconds=0.3).submit(tmp_path / "one")
        other = sleeps.submit(tmp_path / "two")
        until(lambda: notes(tmp_path / "two"), "its beginning")
        other.cancel()
        other.wait()
        hasty.wait()
        return [hasty.state.name, other.state.name, inc.submit(1).result()]

    assert on_ray(body) == ["TimedOut", "Cancelled", 2]


def test_a_call_on_a_seat_is_ended(on_ray: Any, tmp_path: Path) -> None:
    @task
    def cancels(path: Path) -> str:
        child = sleeps.submit(path)
        until(lambda: notes(path), "its beginning")
        child.cancel()
        child.wait()
        return child.state.name

    assert on_ray(lambda: cancels.submit(tmp_path / "one").result()) == "Cancelled"


def test_flows_side_by_side(connection: Any) -> None:
    answers: list[int] = []

    def run(count: int) -> None:
        answers.append(in_flow(RayTaskRunner(), lambda: sum(inc.map(range(count)).result())))

    threads = [threading.Thread(target=run, args=(count,)) for count in (10, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [55, 210]


def test_a_call_that_nothing_can_end_on_a_seat_holds_no_place_after_its_flow(
    on_ray: Any, connection: Any, tmp_path: Path
) -> None:
    @task(timeout_seconds=0.5)
    def stuck() -> None:
        note(tmp_path / "stuck", "")
        threading.Event().wait(40)  # no exception reaches it there

    @task
    def leaves_one() -> None:
        stuck.submit()
        until(lambda: notes(tmp_path / "stuck"), "its beginning")

    on_ray(lambda: leaves_one.submit().result())
    assert notes(tmp_path / "stuck")
    until(lambda: connection.ray.available_resources().get("CPU") == 2, "all places", seconds=15)
