"""Which versions the workers of a Ray cluster have, asked at the start."""

from __future__ import annotations

import logging
from time import monotonic
from typing import Any

from ray import exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from anabranch.errors import ClusterConnectionError, WorkerVersionError
from anabranch.execution.cluster_calls import versions
from anabranch.task_runners.ray_connection import Connection, brief

logger = logging.getLogger("anabranch.runs")

SLICE_SECONDS = 1.0
SAY_SECONDS = 2.0


def refuse_versions(connection: Connection, of_head: Any) -> None:
    """Raise `ClusterConnectionError` or `WorkerVersionError` where a node cannot take calls; `of_head`
    is the reference to what the head says of itself."""
    if connection.is_known:
        return
    ray = connection.ray
    asked = [("the head", of_head)]
    here = ray.get_runtime_context().get_node_id()
    for node in ray.nodes():
        if node["Alive"] and node["NodeID"] != here:
            where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=True)
            probe = ray.remote(versions).options(num_cpus=0, scheduling_strategy=where)
            asked.append((node["NodeManagerAddress"], probe.remote()))
    for where, reference in asked:
        its = _told(connection, where, reference)
        if its != versions():
            raise WorkerVersionError(where, its, versions())
    connection.is_known = True


def _told(connection: Connection, where: str, reference: Any) -> tuple[str, str]:
    began, said = monotonic(), False
    while True:
        try:
            python, package = connection.ray.get(reference, timeout=SLICE_SECONDS)
        except exceptions.GetTimeoutError:
            if not said and monotonic() - began > SAY_SECONDS:
                said = True
                logger.info("Ray gets a worker ready on %s ...", where)
        except exceptions.RayError as error:
            problem = f"no worker with anabranch could be had on {where} ({brief(error)})"
            way_out = f"Install anabranch {versions()[1]} there: workers need nothing else of ours."
            raise ClusterConnectionError("Ray", connection.address, problem, way_out) from error
        else:
            return python, package
