"""The contract over the runners of clusters: local ones, and those of separate processes, each a real
one of two workers on the loopback."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest
from dask_clusters import dask_processes
from ray_here import RayHere

from anabranch.task_runners import DaskTaskRunner, RayTaskRunner
from anabranch.task_runners.dask_local import LocalDask
from anabranch.testing import RunnerContract
from benchmarks.clusters import cluster

Folders = pytest.TempPathFactory


def local_dask(**options: int) -> Iterator[str]:
    local = LocalDask(options, {})
    yield local.address()
    local.close()


def dask_of_processes(folders: Folders, workers: int) -> Iterator[str]:
    with dask_processes(folders.mktemp("dask")) as dask:
        for _ in range(workers):
            dask.worker()
        dask.wait_for(workers)
        yield dask.address


def ray_head(num_cpus: int) -> Iterator[str]:
    with cluster("ray", num_cpus) as made:
        yield made.address


@pytest.fixture(scope="session")
def two_local_workers() -> Iterator[str]:
    yield from local_dask(n_workers=2, threads_per_worker=2)


@pytest.fixture(scope="session")
def one_local_worker() -> Iterator[str]:
    yield from local_dask(n_workers=1, threads_per_worker=1)


@pytest.fixture(scope="session")
def two_workers(tmp_path_factory: Folders) -> Iterator[str]:
    yield from dask_of_processes(tmp_path_factory, 2)


@pytest.fixture(scope="session")
def one_worker(tmp_path_factory: Folders) -> Iterator[str]:
    yield from dask_of_processes(tmp_path_factory, 1)


@pytest.fixture(scope="session")
def head_of_two() -> Iterator[str]:
    yield from ray_head(2)


@pytest.fixture(scope="session")
def head_of_one() -> Iterator[str]:
    yield from ray_head(1)


class OnDask(RunnerContract):
    """`two` and `one` name the fixtures with the addresses."""

    two: ClassVar[str]
    one: ClassVar[str]

    @pytest.fixture(autouse=True)
    def clusters(self, request: pytest.FixtureRequest) -> None:
        self.request = request

    @property
    def runner(self) -> DaskTaskRunner:
        return DaskTaskRunner(address=self.request.getfixturevalue(self.two))

    @property
    def one_worker(self) -> DaskTaskRunner:
        return DaskTaskRunner(address=self.request.getfixturevalue(self.one))


class TestDask(OnDask):
    two, one = "two_local_workers", "one_local_worker"


class TestDaskProcesses(OnDask):
    two, one = "two_workers", "one_worker"
    replaces_workers = False


@pytest.mark.timeout(120)  # the first call waits for workers, which take long beside other tests
class OnRay(RunnerContract):
    @pytest.fixture(autouse=True)
    def clusters(self, request: pytest.FixtureRequest, ray_here: RayHere) -> None:
        self.request = request
        self.ray_here = ray_here


class TestRay(OnRay):
    @property
    def runner(self) -> RayTaskRunner:
        return self.ray_here.have(None, num_cpus=2)

    @property
    def one_worker(self) -> RayTaskRunner:
        return self.ray_here.have(None, num_cpus=1)


class TestRayHead(OnRay):
    @property
    def runner(self) -> RayTaskRunner:
        return self.ray_here.have(self.request.getfixturevalue("head_of_two"))

    @property
    def one_worker(self) -> RayTaskRunner:
        return self.ray_here.have(self.request.getfixturevalue("head_of_one"))
