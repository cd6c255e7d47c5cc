"""The Dask runner's options: which cluster it uses, how it reaches it, and what it leaves alone."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import distributed as typed_distributed
import numpy as np
import pytest
from dask_clusters import BIG, IN_PROCESS, DaskProcesses, dask_processes
from distributed import LocalCluster
from waits import until

from anabranch import get_run_logger, runtime
from anabranch.context import current_context
from anabranch.errors import (
    ClusterConnectionError,
    MissingExtraError,
    TaskRunnerOptionError,
    WorkerVersionError,
)
from anabranch.task_runners import DaskTaskRunner, task_runner
from anabranch.testing.contract.base import in_flow
from anabranch.testing.contract.tasks import inc, task

distributed: Any = typed_distributed
"""Much of it has no types."""
Client = distributed.Client
NOBODY = "tcp://127.0.0.1:1"


def add_one() -> int:
    return inc.submit(1).result()


@pytest.fixture
def cluster() -> Iterator[Any]:
    made: Any = LocalCluster(**IN_PROCESS)
    with made as cluster:
        yield cluster


class NotedCluster(LocalCluster):
    """Keeps what is made of it, and what it is told."""

    made: list[Any] = []  # noqa: RUF012  # shared, on purpose

    def __init__(self, **options: Any) -> None:
        parent: Any = super()
        parent.__init__(**options)
        self.told: dict[str, Any] = {}
        self.made.append(self)

    def adapt(self, *args: Any, **options: Any) -> Any:
        self.told = options
        return super().adapt(*args, **options)


def test_a_given_cluster_is_used_and_stays_open(cluster: Any) -> None:
    seen: set[str] = set()

    def body() -> int:
        seen.update(cluster.scheduler.clients)
        return inc.submit(1).result()

    runner = DaskTaskRunner(cluster=cluster, client_kwargs={"name": "census"})
    for _ in range(2):
        assert in_flow(runner, body) == 2
    assert len([name for name in seen if name.startswith("Client-census-")]) == 2
    assert cluster.status.name == "running"
    until(lambda: not any("census" in name for name in cluster.scheduler.clients), "their leave")
    with Client(cluster, set_as_default=False) as client:
        assert client.submit(sum, [1, 2]).result() == 3


@pytest.mark.parametrize(
    "kind", [LocalCluster, "distributed.LocalCluster", NotedCluster, f"{__name__}.NotedCluster"]
)
def test_a_cluster_is_made_for_the_flow_and_closed(kind: Any) -> None:
    NotedCluster.made.clear()
    runner = DaskTaskRunner(cluster_class=kind, cluster_kwargs=IN_PROCESS)
    assert in_flow(runner, add_one) == 2
    assert [made.status.name for made in NotedCluster.made] == ["closed"] * ("Noted" in str(kind))


def test_a_cluster_grows_as_it_is_needed() -> None:
    NotedCluster.made.clear()
    runner = DaskTaskRunner(
        cluster_class=NotedCluster,
        cluster_kwargs={**IN_PROCESS, "n_workers": 0},
        adapt_kwargs={"minimum": 0, "maximum": 2, "interval": "20ms"},
    )
    assert in_flow(runner, add_one) == 2
    assert NotedCluster.made[0].told["maximum"] == 2


def test_a_local_one_of_processes_grows_too() -> None:
    grows = {"minimum": 0, "maximum": 1, "interval": "50ms"}
    options = {"n_workers": 0, "threads_per_worker": 1}
    assert in_flow(DaskTaskRunner(cluster_kwargs=options, adapt_kwargs=grows), add_one) == 2


def test_a_string_is_enough_for_a_local_one() -> None:
    def body() -> Any:
        assert inc.submit(1).result() == 2
        with Client(address(), set_as_default=False) as client:
            return client.nthreads()

    assert list(in_flow("dask?n_workers=1&threads_per_worker=1", body).values()) == [1]


def address() -> str:
    """Of the scheduler that the running flow uses."""
    runner: Any = current_context().open_flow.runner
    return runner._cluster.client.scheduler.address


def test_options_in_strings() -> None:
    made: Any = [
        task_runner(text)
        for text in ("dask", "dask?n_workers=3&threads_per_worker=2", "dask+tcp://host:8786")
    ]
    assert [each.address for each in made] == [None, None, "tcp://host:8786"]
    assert made[1].cluster_kwargs == {"n_workers": 3, "threads_per_worker": 2}
    assert task_runner(DaskTaskRunner).scheme == "dask"
    for text, told in {
        "dask?n_workers=0": "n_workers='0'.*1 or more",
        "dask?n_workers=²": "n_workers='²'.*1 or more",
        "dask?n_workers": "n_workers=''.*1 or more",
        "dask?workers=2": "workers='2'.*n_workers, threads_per_worker",
        "dask+tcp://host:8786?n_workers=2": "n_workers='2'.*no options",
    }.items():
        with pytest.raises(TaskRunnerOptionError, match=told):
            task_runner(text)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"address": NOBODY, "cluster": object()}, "cluster=.*no address beside it"),
        ({"address": NOBODY, "cluster_class": "a.B"}, "cluster_class='a.B'.*no address beside"),
        ({"cluster": object(), "cluster_class": "a.B"}, "cluster_class='a.B'.*no cluster beside"),
        ({"address": NOBODY, "cluster_kwargs": {"n_workers": 1}}, "cluster_kwargs=.*not made here"),
        ({"cluster": object(), "adapt_kwargs": {"minimum": 1}}, "adapt_kwargs=.*not made here"),
    ],
)
def test_options_that_exclude_each_other(options: Any, told: str) -> None:
    with pytest.raises(TaskRunnerOptionError, match=told):
        DaskTaskRunner(**options)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"address": "nonsense"}, "address='nonsense'.*missing port"),
        ({"address": "foo://host:1"}, "address='foo://host:1'.*unknown address scheme"),
        ({"address": "tcp://host:x"}, "address='tcp://host:x'"),
        ({"address": ""}, "address=''"),
        ({"cluster_class": "LocalCluster"}, "cluster_class='LocalCluster'"),
        ({"cluster_class": "distributed.Nope"}, "cluster_class='distributed.Nope'.*'Nope'"),
        ({"cluster_class": "nowhere.Nope"}, "cluster_class='nowhere.Nope'.*'nowhere'"),
    ],
)
def test_options_that_mean_nothing(options: Any, told: str) -> None:
    with pytest.raises(TaskRunnerOptionError, match=told):
        in_flow(DaskTaskRunner(**options), add_one)


def test_where_nobody_listens() -> None:
    began, threads = time.monotonic(), set(threading.enumerate())
    with pytest.raises(ClusterConnectionError, match=f"Dask at {NOBODY}: nobody answered"):
        in_flow(DaskTaskRunner(address=NOBODY, client_kwargs={"timeout": 1}), add_one)
    assert time.monotonic() - began < 10
    assert not [each for each in set(threading.enumerate()) - threads if each.name == "IO loop"]


def test_a_local_cluster_that_does_not_start_is_told_of() -> None:
    runner = DaskTaskRunner(cluster_kwargs={"n_workers": 1, "no_such_option": 1})
    with pytest.raises(ClusterConnectionError, match="Nanny failed to start"):
        in_flow(runner, add_one)


def test_a_report_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def report(self: Any, **options: Any) -> str:
        return f"<html>{options['start'] > 0}</html>"

    # Dask draws it with bokeh, which is large; all else of it is Dask's own here.
    monkeypatch.setattr(distributed.Scheduler, "performance_report", report)
    says_that_it_is_there = tmp_path / "bokeh-3.0.dist-info" / "METADATA"
    says_that_it_is_there.parent.mkdir()
    says_that_it_is_there.write_text("Name: bokeh\nVersion: 3.0\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    path = tmp_path / "report.html"
    runner = DaskTaskRunner(
        cluster_class=LocalCluster, cluster_kwargs=IN_PROCESS, performance_report_path=str(path)
    )
    assert in_flow(runner, add_one) == 2
    assert path.read_text() == "<html>True</html>"

    lost = path / "below a file.html"
    runner.performance_report_path = str(lost)
    with caplog.at_level("WARNING", "anabranch"):
        assert in_flow(runner, add_one) == 2
    assert f"The performance report could not be written to {lost}" in caplog.text


@pytest.mark.skipif(bool(find_spec("bokeh")), reason="bokeh is installed")
def test_a_report_without_bokeh_is_refused_at_the_start(cluster: Any) -> None:
    began: list[bool] = []
    runner = DaskTaskRunner(cluster=cluster, performance_report_path="report.html")
    with pytest.raises(MissingExtraError, match=r"performance_report_path.*bokeh.*dask\[diag"):
        in_flow(runner, lambda: began.append(True))
    assert not began


def test_another_client_of_the_process_stays_the_default_one(cluster: Any) -> None:
    def body() -> int:
        assert distributed.default_client() is mine
        return inc.submit(mine.submit(sum, [1, 2]).result()).result()

    with Client(cluster) as mine:
        assert in_flow(DaskTaskRunner(cluster=cluster), body) == 4
        assert distributed.default_client() is mine
        assert mine.submit(sum, [1, 2]).result() == 3


def test_no_client_becomes_the_default_one(cluster: Any) -> None:
    def body() -> int:
        with pytest.raises(ValueError, match="No clients found"):
            distributed.default_client()
        return inc.submit(1).result()

    assert in_flow(DaskTaskRunner(cluster=cluster), body) == 2


def test_an_async_flow(cluster: Any) -> None:
    async def body() -> list[int]:
        first = inc.submit(1)
        return [await first, await inc.submit(first), *await inc.map([5, 6])]

    assert asyncio.run(in_flow(DaskTaskRunner(cluster=cluster), body)) == [2, 3, 6, 7]


def test_workers_in_the_process_of_the_flow(
    cluster: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"

    @task(log_prints=True)
    def talks(number: int) -> Any:
        print(f"task {number}")
        until(gate.exists, "the gate")
        get_run_logger().info("logged %d", number)
        return np.full(BIG, number, np.uint8)

    @task
    def first(array: Any) -> int:
        return int(array[0])

    @task
    def nests(number: int) -> int:
        return first.submit(talks.submit(number)).result() + int(talks.submit(3).result()[0])

    def body() -> Any:
        futures = talks.map(range(2))
        print("flow while they run")
        get_run_logger().info("flow logs")
        gate.touch()
        return first.map(futures).result(), nests.submit(2).result(), runtime.flow_run.name

    with caplog.at_level(logging.INFO, "anabranch"):
        values = in_flow(
            DaskTaskRunner(cluster=cluster), body, log_prints=True, flow_run_name="tuesday"
        )
    assert values == ([0, 1], 5, "tuesday")
    records = [each for each in caplog.records if each.name.startswith("anabranch.")]
    told = Counter(each.getMessage() for each in records)
    assert told["tuesday | flow while they run"] == told["tuesday | flow logs"] == 1
    for number, name in enumerate(("talks-0", "talks-1", "talks-2", "talks-3")):
        assert told[f"tuesday/{name} | task {number}"] == 1, told
        assert told[f"tuesday/{name} | logged {number}"] == 1, told


def test_two_flows_at_once(cluster: Any) -> None:
    both_run = threading.Barrier(2)
    results: dict[int, list[int]] = {}

    def run(start: int) -> None:
        def body() -> list[int]:
            futures = inc.map(range(start, start + 50))
            both_run.wait(30)
            return inc.map(futures).result()

        results[start] = in_flow(DaskTaskRunner(cluster=cluster), body)

    threads = [threading.Thread(target=run, args=(start,)) for start in (0, 1000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert results == {start: list(range(start + 2, start + 52)) for start in (0, 1000)}


def test_a_flow_after_another_of_the_same_cluster_and_tasks(cluster: Any) -> None:
    for start in (1, 5):
        assert (
            in_flow(DaskTaskRunner(cluster=cluster), lambda n=start: inc.submit(n).result())
            == start + 1
        )


def test_tls() -> None:
    pytest.importorskip("cryptography", reason="Dask makes certificates for a test with it")
    security = distributed.Security.temporary()
    made: Any = LocalCluster(**IN_PROCESS, protocol="tls", security=security)
    with made as cluster:
        address = cluster.scheduler_address
        assert address.startswith("tls://")
        secure = DaskTaskRunner(address=address, client_kwargs={"security": security})
        assert in_flow(secure, add_one) == 2
        bare: Any = task_runner(f"dask+{address}")
        bare.client_kwargs = {"timeout": 1}
        with pytest.raises((ClusterConnectionError, TypeError), match=r"TLS|tls"):
            in_flow(bare, add_one)


def test_without_dask_installed_the_extra_is_named(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("""
import sys
from importlib.abc import MetaPathFinder

class Missing(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("dask", "distributed"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
from anabranch import flow, task
from anabranch.errors import MissingExtraError

@flow(task_runner="dask")
def census():
    print("began")

try:
    census()
except MissingExtraError as error:
    print(error)
""")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=40)
    told = "The dask runner needs the package distributed, which is not installed. Install it with "
    assert done.stdout == f'{told}pip install "anabranch[dask]".\n', done.stderr


def test_a_script_without_a_main_guard_runs_once(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("""
import os
from anabranch import flow, task

print("script runs")

class Point:
    def __init__(self, x):
        self.x = x

@task
def move(point):
    return Point(point.x + 1), os.getpid()

@flow(task_runner="dask?n_workers=2&threads_per_worker=1")
def census():
    return move.map([Point(n) for n in range(20)]).result()

found = census()
print(sum(point.x for point, _ in found), {type(point) is Point for point, _ in found})
print(os.getpid() in {pid for _, pid in found})
""")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=50)
    assert done.stdout.splitlines() == ["script runs", "210 {True}", "False"], done.stderr
    assert "script runs" not in done.stderr


PATCHES = {
    "package": (
        "import anabranch.execution.cluster_calls as calls; calls.__version__ = '0.0.1'",
        WorkerVersionError,
        r"has Python 3\.\d+ with anabranch 0\.0\.1, and this flow runs on Python .* anabranch ",
    ),
    "Python": (
        "import anabranch.execution.cluster_calls as calls\n"
        "calls.versions = lambda: ('3.9', calls.__version__)",
        WorkerVersionError,
        r"has Python 3\.9 with anabranch .*, and this flow runs on Python 3\.\d\d",
    ),
    "nothing": (
        "import sys; sys.modules['anabranch'] = None",
        ClusterConnectionError,
        r"worker tcp://.* cannot use anabranch \(.*ModuleNotFoundError.*\)\. Install anabranch ",
    ),
}


@pytest.fixture(scope="module")
def old_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskProcesses]:
    with dask_processes(tmp_path_factory.mktemp("dask")) as processes:
        yield processes


@pytest.mark.parametrize("what", list(PATCHES))
def test_a_worker_of_another_version_is_refused_at_the_start(
    what: str, old_workers: DaskProcesses, tmp_path: Path
) -> None:
    patch, error, told = PATCHES[what]
    preload = tmp_path / "patch.py"
    preload.write_text(patch)
    worker = old_workers.worker("--preload", str(preload))
    old_workers.wait_for(1)
    began: list[bool] = []
    with pytest.raises(error, match=told):
        in_flow(DaskTaskRunner(address=old_workers.address), lambda: began.append(True))
    assert not began
    old_workers.end(worker)


def test_a_worker_of_another_version_that_comes_later(
    old_workers: DaskProcesses, tmp_path: Path
) -> None:
    preload = tmp_path / "patch.py"
    preload.write_text(PATCHES["package"][0])
    workers: list[Any] = []

    def body() -> int:
        workers.append(old_workers.worker("--preload", str(preload)))
        return inc.submit(1).result(timeout=30)

    with pytest.raises(Exception, match=PATCHES["package"][2]):
        in_flow(DaskTaskRunner(address=old_workers.address), body)
    old_workers.end(workers[0])
