"""The contract over the runners of clusters, each a real one of two workers on the loopback."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from anabranch.task_runners import DaskTaskRunner
from anabranch.task_runners.dask_local import LocalDask
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
