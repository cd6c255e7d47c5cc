"""The runner for Dask clusters: local ones, those of an address, and those that the user made."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

from anabranch import late
from anabranch.errors import MissingExtraError, TaskRunnerOptionError
from anabranch.task_runners.base import (
    Capabilities,
    Inbox,
    OpenRunner,
    TaskRunner,
    only_options,
    whole_number,
)

ONE_OF = ("address", "cluster", "cluster_class")
LOCAL_OPTIONS = ("n_workers", "threads_per_worker")


class DaskTaskRunner(TaskRunner):
    """Runs calls on the workers of a Dask cluster.

    That of `address` (such as `"tcp://host:8786"`), or `cluster`, an object of the user's that stays
    open, or one that is made by `cluster_class` with `cluster_kwargs` for the flow's length. With none
    of these it is a local one of processes, for which `cluster_kwargs` are those of
    `distributed.LocalCluster`. `adapt_kwargs`, such as `{"minimum": 1, "maximum": 10}`, let a cluster
    that is made here grow and shrink. `client_kwargs` go to `distributed.Client`, such as `security`
    for TLS. A report of Dask's on the run is written to `performance_report_path`, a file ending in
    .html. Workers need this package in the flow's version, and nothing else.
    """

    scheme: ClassVar[str] = "dask"

    def __init__(
        self,
        address: str | None = None,
        cluster: Any = None,
        cluster_class: str | Callable[..., Any] | None = None,
        cluster_kwargs: Mapping[str, Any] | None = None,
        adapt_kwargs: Mapping[str, Any] | None = None,
        client_kwargs: Mapping[str, Any] | None = None,
        performance_report_path: str | None = None,
    ) -> None:
        given = {"address": address, "cluster": cluster, "cluster_class": cluster_class}
        chosen = [name for name, value in given.items() if value is not None]
        if len(chosen) > 1:
            raise TaskRunnerOptionError(
                self.scheme, chosen[1], given[chosen[1]], f"no {chosen[0]} beside it"
            )
        for name, options in (("cluster_kwargs", cluster_kwargs), ("adapt_kwargs", adapt_kwargs)):
            if options and chosen in (["address"], ["cluster"]):
                expected = f"none: the cluster of {chosen[0]} is not made here"
                raise TaskRunnerOptionError(self.scheme, name, options, expected)
        self.address = address
        self.cluster = cluster
        self.cluster_class = cluster_class
        self.cluster_kwargs = dict(cluster_kwargs or {})
        self.adapt_kwargs = dict(adapt_kwargs or {})
        self.client_kwargs = dict(client_kwargs or {})
        self.performance_report_path = performance_report_path

    @classmethod
    def from_string(cls, target: str, options: Mapping[str, str]) -> DaskTaskRunner:
        if target:
            only_options(cls.scheme, options, [])
            return cls(address=target)
        only_options(cls.scheme, options, LOCAL_OPTIONS)
        numbers = {
            name: whole_number(cls.scheme, name, value, 1) for name, value in options.items()
        }
        return cls(cluster_kwargs=numbers)

    @contextmanager
    def open(self, inbox: Inbox, loop: Any) -> Generator[OpenRunner]:
        """Raises `MissingExtraError`, `ClusterConnectionError` and `WorkerVersionError`."""
        try:
            open_client, dask_cluster = late.open_dask_client, late.DaskCluster
        except ImportError as error:
            raise MissingExtraError("The dask runner", "distributed", "anabranch[dask]") from error
        with (
            open_client(self) as client,
            late.cluster_at_work(
                inbox, self.capabilities(), partial(dask_cluster, client)
            ) as runner,
        ):
            yield runner

    def capabilities(self) -> Capabilities:
        return Capabilities(
            name=self.scheme,
            priority=True,
            stops_sync=False,
            stops_async=True,
            parallel=True,
            remote=True,
            resources=None,
        )

    def __repr__(self) -> str:
        given = {name: getattr(self, name) for name in (*ONE_OF, "cluster_kwargs", "adapt_kwargs")}
        told = ", ".join(f"{name}={value!r}" for name, value in given.items() if value)
        return f"DaskTaskRunner({told})"
