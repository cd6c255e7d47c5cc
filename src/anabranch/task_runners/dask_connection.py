"""A client of the Dask cluster that a runner names, or has made for it."""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from distributed import Client, performance_report
from distributed.comm.addressing import get_address_host_port

from anabranch.errors import ClusterConnectionError, MissingExtraError, TaskRunnerOptionError
from anabranch.task_runners.dask_local import LocalDask
from anabranch.task_runners.dask_versions import refuse_versions

if TYPE_CHECKING:
    from anabranch.task_runners.dask import DaskTaskRunner

logger = logging.getLogger("anabranch.runs")

CONNECT_SECONDS = 10.0


@contextmanager
def open_dask_client(runner: DaskTaskRunner) -> Generator[Any]:
    """A client of the runner's cluster, which is made for its length if it is not there; raises
    `ClusterConnectionError`."""
    with ExitStack() as lifetimes:
        target: Any = runner.address if runner.address is not None else runner.cluster
        if target is None and runner.cluster_class is None:
            local = LocalDask(runner.cluster_kwargs, runner.adapt_kwargs)
            lifetimes.callback(local.close)
            target = local.address()
        elif target is None:
            make = _cluster_class(runner.cluster_class)
            target = lifetimes.enter_context(make(**runner.cluster_kwargs))
            if runner.adapt_kwargs:
                target.adapt(**runner.adapt_kwargs)
        elif runner.address is not None:
            _refuse_address(runner.address)
        options: dict[str, Any] = {
            "timeout": CONNECT_SECONDS,
            "set_as_default": False,
            **runner.client_kwargs,
        }
        try:
            client = _connected(target, options)
        except (OSError, TimeoutError) as error:
            problem = f"nobody answered ({error})"
            where = str(getattr(target, "scheduler_address", target))
            raise ClusterConnectionError(
                "Dask", where, problem, "Start a scheduler there, or give another address."
            ) from error
        lifetimes.callback(_disconnect, client)
        refuse_versions(client)
        if runner.performance_report_path is not None:
            lifetimes.enter_context(_report(client, runner.performance_report_path))
        yield client


def _connected(target: Any, options: dict[str, Any]) -> Any:
    """A client of Dask's; one that cannot connect is closed at once, and its thread ended.

    Left to the garbage collector it would be closed on any thread at any time: there are some where
    that hangs, and takes the next client with it. The thread would stay.
    """
    client: Any = Client.__new__(Client)
    try:
        client.__init__(target, **options)
    except BaseException:
        if hasattr(client, "status"):
            _disconnect(client)
        raise
    return client


def _disconnect(client: Any) -> None:
    """Close it, and end its thread."""
    try:
        client.close()
    except Exception as error:  # two closings at once trip over each other, as of one that is lost
        logger.debug("Dask's client could not be closed in order: %s", error)
    client._loop_runner.stop()  # which closing leaves out where it was closed already


def _cluster_class(given: Any) -> Any:
    """The class that a string stands for, or what is none; raises `TaskRunnerOptionError`."""
    if not isinstance(given, str):
        return given
    module, _, name = given.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        expected = f"a class, or where to import one, such as 'distributed.LocalCluster' ({error})"
        raise TaskRunnerOptionError("dask", "cluster_class", given, expected) from error


def _refuse_address(address: str) -> None:
    """Raise `TaskRunnerOptionError` for one that Dask cannot read."""
    if address.startswith("inproc://"):
        return  # of a cluster in this process, which has neither host nor port
    try:
        get_address_host_port(address)
    except ValueError as error:
        expected = f"one such as 'tcp://host:8786' ({error})"
        raise TaskRunnerOptionError("dask", "address", address, expected) from error


@contextmanager
def _report(client: Any, path: str) -> Generator[None]:
    """Have Dask write its report of the block; raises `MissingExtraError`.

    The scheduler draws it, at the end, with a package that Dask does without: one that it lacks is
    better told of before the work. A report that cannot be written is no reason to lose the work.
    """
    try:
        client.run_on_scheduler(importlib.metadata.version, "bokeh")
    except importlib.metadata.PackageNotFoundError as error:
        what = f"performance_report_path, at the Dask scheduler {client.scheduler.address},"
        raise MissingExtraError(what, "bokeh", "dask[diagnostics]") from error
    report: Any = performance_report(filename=path)
    with client.as_current():
        report.__enter__()
        try:
            yield
        finally:
            try:
                report.__exit__(None, None, None)
            except Exception as error:
                logger.warning("The performance report could not be written to %s: %s", path, error)
