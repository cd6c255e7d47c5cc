"""Dask clusters of processes that tests start, kill and end; and what they and their tasks note."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from distributed import Client
from waits import until

from anabranch.execution import measuring

TESTS = Path(__file__).parent
BIG = 4 * measuring.STAYS_FROM
"""Bytes of a result that stays on its worker."""
IN_PROCESS: dict[str, Any] = {
    "n_workers": 1,
    "threads_per_worker": 2,
    "processes": False,
    "dashboard_address": "127.0.0.1:0",
}
"""Options of a `LocalCluster` whose worker is a thread of the test's process."""


class DaskProcesses:
    """A scheduler and workers, each a process of its own, as `dask scheduler` and `dask worker`
    start them."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        path = os.pathsep.join([str(TESTS), *sys.path])
        self.environment = {**os.environ, **environment, "PYTHONPATH": path}
        self.workers: list[subprocess.Popen[bytes]] = []
        self._nannies: list[subprocess.Popen[bytes]] = []
        file = folder / "scheduler.json"
        ports = ("--host", "127.0.0.1", "--port", "0")
        self.scheduler = self._start("scheduler", *ports, "--scheduler-file", str(file))
        self.address: str = until(lambda: file.exists() and _address(file), "a scheduler")

    def _start(self, kind: str, *options: str) -> subprocess.Popen[bytes]:
        with (self.folder / "output").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.dask_{kind}", "--no-dashboard", *options],
                cwd=self.folder,
                env=self.environment,
                stdout=output,
                stderr=output,
            )

    def worker(self, *options: str, nanny: bool = False) -> subprocess.Popen[bytes]:
        """Start a worker of one thread, which only a `nanny` starts again when it is killed."""
        options = (*options, "--nanny" if nanny else "--no-nanny", "--nthreads", "1")
        place = ("--local-directory", str(self.folder), "--name", f"number {len(self.workers)}")
        process = self._start("worker", self.address, *options, *place)
        self.workers.append(process)
        self._nannies += [process] * nanny
        return process

    def end(self, worker: subprocess.Popen[bytes]) -> None:
        """Let a worker leave. Of sixty that run Dask alone, one hung after that, where Dask ends its
        loop: its process is not waited for."""
        worker.terminate()
        name = f"number {self.workers.index(worker)}"
        with Client(self.address, set_as_default=False) as client:
            until(lambda: name not in _names(client), f"the end of {name}")
        self.kill(worker)

    def kill(self, worker: subprocess.Popen[bytes]) -> None:
        worker.kill()
        worker.wait()

    def wait_for(self, workers: int) -> None:
        with Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(workers, 30)

    def keys(self) -> list[str]:
        """Of what the scheduler holds for flows."""
        with Client(self.address, set_as_default=False) as client:
            scheduler: Any = client
            held: list[Any] = scheduler.run_on_scheduler(all_keys)
        return [str(key) for key in held if "anabranch" in str(key)]

    def close(self) -> None:
        for process in self._nannies:
            process.terminate()  # with the worker that it keeps
            process.wait()
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


def _names(client: Client) -> list[Any]:
    info: Any = client.scheduler_info(n_workers=-1)
    return [each["name"] for each in info["workers"].values()]


def _address(file: Path) -> str | None:
    try:
        return json.loads(file.read_text())["address"]
    except ValueError:  # half of it is there
        return None


@contextmanager
def dask_processes(
    folder: Path, environment: Mapping[str, str] = MappingProxyType({})
) -> Generator[DaskProcesses]:
    cluster = DaskProcesses(folder, environment)
    try:
        yield cluster
    finally:
        cluster.close()


def all_keys(dask_scheduler: Any) -> list[Any]:
    return list(dask_scheduler.tasks)


def gone(pid: int) -> bool:
    """Whether a process has ended, also where nobody has asked yet how."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


class Counted:
    """A value that notes each time that it is pickled, and where it is unpickled."""

    def __init__(self, folder: Path, size: int = 0) -> None:
        self.folder = folder
        self.filling = os.urandom(size)

    def __getstate__(self) -> dict[str, Any]:
        _note(self.folder / "pickled")
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        _note(self.folder / "unpickled")


def _note(path: Path) -> None:
    with path.open("a") as file:
        file.write(f"{os.getpid()}\n")


def pids(path: Path) -> list[int]:
    """Of the processes that noted themselves there."""
    return [int(line) for line in path.read_text().split()] if path.exists() else []
