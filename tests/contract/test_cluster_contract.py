"""The contract over the runners of clusters, each a real one of two workers on the loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from anabranch.task_runners import DaskTaskRunner, RayTaskRunner
from anabranch.task_runners.dask_local import LocalDask
from anabranch.task_runners.ray_connection import connected_ray
from anabranch.testing import RunnerContract


def local_dask(**options: int) -> Iterator[str]:
    local = LocalDask(options, {})
    yield local.address()
    local.close()


@pytest.fixture(scope="session")
def dask_address() -> Iterator[str]:
    yield from local_dask(n_workers=2, threads_per_worker=2)


@pytest.fixture(scope="session")
def one_thread_of_dask() -> Iterator[str]:
    yield from local_dask(n_workers=1, threads_per_worker=1)


class TestDask(RunnerContract):
    @pytest.fixture(autouse=True)
    def clusters(self, request: pytest.FixtureRequest) -> None:
        self.request = request

    @property
    def runner(self) -> DaskTaskRunner:
        return DaskTaskRunner(address=self.request.getfixturevalue("dask_address"))

    @property
    def one_worker(self) -> DaskTaskRunner:
        return DaskTaskRunner(address=self.request.getfixturevalue("one_thread_of_dask"))


def dask_processes(workers: int, threads: int) -> Iterator[str]:
    """A scheduler and workers, each a process of its own."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    dask = [sys.executable, "-m", "dask"]
    scheduler = ["scheduler", "--host=127.0.0.1", f"--port={port}", "--no-dashboard", "--no-show"]
    worker = ["worker", address, "--host=127.0.0.1", f"--nthreads={threads}", "--no-dashboard"]
    commands = [[*dask, *scheduler], *([[*dask, *worker]] * workers)]
    quiet = subprocess.DEVNULL
    processes = [subprocess.Popen(each, stdout=quiet, stderr=quiet) for each in commands]
    yield address
    for process in reversed(processes):
        process.terminate()
    for process in processes:
        process.wait()


def ray_head(folder: Path, num_cpus: int) -> Iterator[str]:
    """A head of Ray's in processes of its own; its address."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    options = {"port": port, "num-cpus": num_cpus, "include-dashboard": "false", "temp-dir": folder}
    process = subprocess.Popen(
        [
            Path(sys.executable).with_name("ray"),
            "start",
            "--head",
            "--block",
            "--disable-usage-stats",
            *(f"--{name}={value}" for name, value in options.items()),
        ],
        env={**os.environ, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"},  # on the loopback
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None  # it is a pipe
    for line in process.stdout:
        if "Ray runtime started." in line:
            yield f"127.0.0.1:{port}"
            break
    process.terminate()
    process.stdout.read()
    process.wait()


@pytest.fixture(scope="session")
def two_workers_of_dask() -> Iterator[str]:
    yield from dask_processes(2, 2)


@pytest.fixture(scope="session")
def one_worker_of_dask() -> Iterator[str]:
    yield from dask_processes(1, 1)


class TestDaskProcesses(RunnerContract):
    @pytest.fixture(autouse=True)
    def clusters(self, request: pytest.FixtureRequest) -> None:
        self.request = request

    @property
    def runner(self) -> DaskTaskRunner:
        return DaskTaskRunner(address=self.request.getfixturevalue("two_workers_of_dask"))

    @property
    def one_worker(self) -> DaskTaskRunner:
        return DaskTaskRunner(address=self.request.getfixturevalue("one_worker_of_dask"))


@pytest.fixture(scope="session")
def two_cpus_of_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from ray_head(tmp_path_factory.mktemp("ray"), 2)


@pytest.fixture(scope="session")
def one_cpu_of_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from ray_head(tmp_path_factory.mktemp("ray"), 1)


class Connection:
    """The one of this process: it stays until a test wants another, since new workers take a second
    to start."""

    def __init__(self) -> None:
        self.wanted: object = None
        self.lifetime = ExitStack()

    def have(self, address: str | None, **options: int) -> RayTaskRunner:
        """A runner that shares the connection."""
        if self.wanted != (address, options):
            self.lifetime.close()
            self.wanted = address, options
            self.lifetime.enter_context(connected_ray(address, options))
        return RayTaskRunner(address=address)


@pytest.fixture(scope="session")
def connection() -> Iterator[Connection]:
    connection = Connection()
    yield connection
    connection.lifetime.close()


class TestRay(RunnerContract):
    @pytest.fixture(autouse=True)
    def ray(self, connection: Connection) -> None:
        self.connection = connection

    @property
    def runner(self) -> RayTaskRunner:
        return self.connection.have(None, num_cpus=2)

    @property
    def one_worker(self) -> RayTaskRunner:
        return self.connection.have(None, num_cpus=1)


class TestRayHead(RunnerContract):
    @pytest.fixture(autouse=True)
    def heads(self, request: pytest.FixtureRequest, connection: Connection) -> None:
        self.request = request
        self.connection = connection

    @property
    def runner(self) -> RayTaskRunner:
        return self.connection.have(self.request.getfixturevalue("two_cpus_of_ray"))

    @property
    def one_worker(self) -> RayTaskRunner:
        return self.connection.have(self.request.getfixturevalue("one_cpu_of_ray"))
