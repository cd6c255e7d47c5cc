"""Which versions the workers of a Dask cluster have, asked at the start."""

from __future__ import annotations

from typing import Any

from anabranch.errors import ClusterConnectionError, WorkerVersionError
from anabranch.execution.cluster_calls import versions


def refuse_versions(client: Any) -> None:
    """Raise `WorkerVersionError` if a worker cannot read what this process sends."""
    told: Any = client.get_versions(packages=["anabranch"])
    own = versions()
    for worker, its in told["workers"].items():
        python = ".".join(its["host"]["python"].split(".")[:2])
        package = its["packages"].get("anabranch")
        if package is None:
            problem = f"worker {worker} has no anabranch installed"
            way_out = (
                f"Install anabranch {own[1]} there: workers need it, and nothing else of ours."
            )
            raise ClusterConnectionError("Dask", client.scheduler.address, problem, way_out)
        if (python, package) != own:
            raise WorkerVersionError(worker, (python, package), own)
