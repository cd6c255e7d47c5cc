"""Clusters in processes of their own, on the loopback, that end with the block that needs them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

MARK = "ANABRANCH_BENCHMARK_CLUSTER"
READY: dict[str, Callable[[int], tuple[str, int]]] = {
    "dask": lambda workers: ("Registered to:", workers),
    "ray": lambda _: ("Ray runtime started.", 1),
}
"""What processes say when they are ready, and how often that is."""
START_SECONDS = 60.0
LEAVE_SECONDS = 15.0


class Cluster(NamedTuple):
    """`runner` is the string that names it; `mark` stands in the environment of each process."""

    runner: str
    address: str
    mark: str

    def processes(self, name: str = "") -> list[int]:
        """The processes of the cluster whose command line has this in it."""
        wanted = f"{MARK}={self.mark}".encode()
        found: list[int] = []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if name in command and wanted in (place / "environ").read_bytes().split(b"\0"):
                    found.append(int(place.name))
            except OSError:  # it has ended
                pass
        return found


def pss(processes: list[int]) -> int:
    """Bytes that these processes hold together, what they share counted once."""
    total = 0
    for process in processes:
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
        except (OSError, StopIteration):
            pass
    return total


def free_port() -> int:
    """A port of the loopback that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@contextmanager
def cluster(kind: str, workers: int) -> Generator[Cluster]:
    """A scheduler of Dask's with so many workers of a thread each, or a head of Ray's with so many
    CPUs."""
    port, mark = free_port(), uuid.uuid4().hex
    address = f"127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="cluster-", ignore_cleanup_errors=True) as folder:
        if kind == "dask":
            made = Cluster(f"dask+tcp://{address}", f"tcp://{address}", mark)
            options = ["--host=127.0.0.1", f"--port={port}", "--no-dashboard", "--no-show"]
            commands = [[sys.executable, "-m", "dask", "scheduler", *options]]
            options = ["--nthreads=1", "--no-dashboard", f"--local-directory={folder}"]
            for _ in range(workers):
                commands.append(
                    [
                        sys.executable,
                        "-m",
                        "dask",
                        "worker",
                        made.address,
                        "--host=127.0.0.1",
                        *options,
                    ]
                )
        else:
            made = Cluster(f"ray?address={address}", address, mark)
            ray = str(Path(sys.executable).with_name("ray"))
            options = [f"--port={port}", f"--num-cpus={workers}", "--include-dashboard=false"]
            options += [f"--temp-dir={folder}", "--disable-usage-stats", "--block"]
            commands = [[ray, "start", "--head", *options]]
        environment = {**os.environ, MARK: mark, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
        output = Path(folder, "output")
        with output.open("wb") as file:
            started = [
                subprocess.Popen(command, env=environment, stdout=file, stderr=file)
                for command in commands
            ]
        try:
            _wait_for(output, *READY[kind](workers))
            yield made
        finally:
            for process in reversed(started):
                process.terminate()
            for process in started:
                try:
                    process.wait(LEAVE_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            for left in made.processes():
                try:
                    os.kill(left, signal.SIGKILL)
                except ProcessLookupError:
                    pass


def _wait_for(output: Path, words: str, times: int) -> None:
    """Until its processes have said so, and so often."""
    deadline = time.monotonic() + START_SECONDS
    while output.read_text(errors="replace").count(words) < times:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the cluster did not start: {output.read_text()[-500:]}")
        time.sleep(0.05)
