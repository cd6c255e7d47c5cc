"""Which versions the workers of a Dask cluster have, asked at the start."""

from __future__ import annotations

from typing import Any

from anabranch.errors import ClusterConnectionError, WorkerVersionError
from anabranch.execution.cluster_calls import versions


def refuse_versions(client: Any) -> None:
    """Raise `WorkerVersionError` if a worker cannot read what this process sends."""
    told: dict[str, Any] = client.run(versions, on_error="return")
    own = versions()
    for worker, its in told.items():
        if isinstance(its, OSError):  # it is gone
            continue
        if isinstance(its, BaseException):
            problem = f"worker {worker} cannot use anabranch ({type(its).__name__}: {its})"
            way_out = (
                f"Install anabranch {own[1]} there: workers need it, and nothing else of ours."
            )
            raise ClusterConnectionError("Dask", client.scheduler.address, problem, way_out)
        if tuple(its) != own:
            raise WorkerVersionError(worker, its, own)
