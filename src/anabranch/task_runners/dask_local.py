"""A local Dask cluster in a process of its own, which ends with the flow's.

Dask would start its workers out of the flow's process, which runs the user's script once more in each
of them; and its scheduler would share that process's interpreter with the flow. Run as a module, this
reads what to start from its standard input, writes the scheduler's address, and lives until the input
ends.
"""

from __future__ import annotations

import logging
import os
import select
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import cloudpickle  # pyright: ignore[reportMissingTypeStubs]  # it has none

from anabranch.errors import ClusterConnectionError

LEAVE_SECONDS = 10.0
LOOK_SECONDS = 1.0
"""How often workers are counted."""
LOST_SECONDS = 8
"""One that is gone for so long does not come back by itself."""


class LocalDask:
    """The process, from the flow's side."""

    def __init__(self, cluster_kwargs: Mapping[str, Any], adapt_kwargs: Mapping[str, Any]) -> None:
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"import sys; sys.path[:] = {sys.path!r}; import {__name__} as m; m.main()",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the flow, which ends this in order
        )
        assert self._process.stdin is not None  # it is a pipe
        data: bytes = cloudpickle.dumps((dict(cluster_kwargs), dict(adapt_kwargs)))  # pyright: ignore[reportUnknownMemberType]  # untyped there
        self._process.stdin.write(len(data).to_bytes(8, "big") + data)
        self._process.stdin.flush()

    def address(self) -> str:
        """Where its scheduler listens, once it does; raises `ClusterConnectionError`."""
        assert self._process.stdout is not None  # it is a pipe
        line = self._process.stdout.readline().decode().strip()
        kind, _, told = line.partition(" ")
        if kind != "ready":
            problem = told or f"its process ended with code {self._process.wait()}"
            self.close()
            raise ClusterConnectionError(
                "A local Dask cluster",
                "this machine",
                problem,
                "See what it printed, and cluster_kwargs.",
            )
        return told

    def close(self) -> None:
        """Let it end in order."""
        assert self._process.stdin is not None and self._process.stdout is not None  # pipes
        try:
            self._process.stdin.close()
        except OSError:  # it is gone
            pass
        try:
            self._process.wait(LEAVE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def main() -> None:
    """The process's life."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what workers print is not for the flow's eyes
    try:
        length = int.from_bytes(sys.stdin.buffer.read(8), "big")
        cluster_kwargs, adapt_kwargs = cloudpickle.loads(sys.stdin.buffer.read(length))
        import dask  # slow to load, and only this process needs them
        from distributed import LocalCluster

        # On one machine who does not answer at once is gone; Dask's own 30 s hold up the others.
        # And a worker that is killed while it starts is never replaced: it is forgotten after a while.
        dask.config.set(  # pyright: ignore[reportPrivateImportUsage]  # as its documentation has it
            {
                "distributed.comm.timeouts.connect": "5s",
                "distributed.deploy.lost-worker-timeout": f"{LOST_SECONDS}s",
            }
        )
        options: dict[str, Any] = {
            "host": "127.0.0.1",
            "dashboard_address": "127.0.0.1:0",
            "silence_logs": logging.ERROR,
            **cluster_kwargs,
        }
        made: Any = LocalCluster(**options)
        with made as cluster:
            if adapt_kwargs:
                cluster.adapt(**adapt_kwargs)
            print("ready", cluster.scheduler_address, file=out, flush=True)
            workers = len(cluster.worker_spec)
            # Until the flow's process closes it, or ends.
            while not select.select([sys.stdin], [], [], LOOK_SECONDS)[0]:
                if not adapt_kwargs:
                    cluster.scale(workers)  # does nothing where there are so many
            cluster.close(timeout=LEAVE_SECONDS / 2)
    except BaseException as error:
        print("failed", f"{type(error).__name__}: {error}".replace("\n", " "), file=out, flush=True)
        raise
