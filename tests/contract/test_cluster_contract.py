"""The contract over the runners of clusters, each a real one of two workers on the loopback."""

from __future__ import annotations

import gc
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
def two_cpus_of_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from ray_head(tmp_path_factory.mktemp("ray"), 2)


@pytest.fixture(scope="session")
def one_cpu_of_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from ray_head(tmp_path_factory.mktemp("ray"), 1)


@pytest.fixture(scope="session")
def connections() -> Iterator[dict[str, ExitStack]]:
    connections: dict[str, ExitStack] = {}
    yield connections
    for connection in connections.values():
        connection.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # files, see above
class TestRay(RunnerContract):
    @pytest.fixture(autouse=True)
    def heads(self, request: pytest.FixtureRequest) -> None:
        self.request = request

    def connected(self, head: str) -> RayTaskRunner:
        """One stays connected until another is wanted: new workers take a second to start."""
        address: str = self.request.getfixturevalue(head)
        connections: dict[str, ExitStack] = self.request.getfixturevalue("connections")
        if address not in connections:
            for connection in connections.values():
                connection.close()
            connections.clear()
            connections[address] = ExitStack()
            connections[address].enter_context(connected_ray(address, {}))
            gc.collect()  # files that Ray leaves open
        return RayTaskRunner(address=address)

    @property
    def runner(self) -> RayTaskRunner:
        return self.connected("two_cpus_of_ray")

    @property
    def one_worker(self) -> RayTaskRunner:
        return self.connected("one_cpu_of_ray")
