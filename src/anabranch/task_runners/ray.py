"""The runner for Ray clusters: local ones, and those of an address."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, ClassVar

from anabranch import late
from anabranch.errors import MissingExtraError, TaskRunnerOptionError
from anabranch.task_runners.base import Capabilities, Inbox, OpenRunner, TaskRunner, only_options

LOCAL_OPTIONS = ("num_cpus", "num_gpus", "address")


class RayTaskRunner(TaskRunner):
    """Runs calls on the workers of a Ray cluster.

    That of `address`: `"host:6379"`, `"auto"` for the one that runs on this machine, or
    `"ray://host:10001"` for one that is reached through Ray's client server. Without an address it is
    the Ray that this process is connected to, else that of the variable RAY_ADDRESS, else a local one
    for the flow's length. `init_kwargs` go to `ray.init`, such as `num_cpus` or `runtime_env`. A Ray
    that was not started here is left running. Workers need this package in the flow's version, and
    nothing else.
    """

    scheme: ClassVar[str] = "ray"

    def __init__(
        self, address: str | None = None, init_kwargs: Mapping[str, Any] | None = None
    ) -> None:
        options = dict(init_kwargs or {})
        if "address" in options:
            if address is not None:
                raise TaskRunnerOptionError(
                    self.scheme, "init_kwargs", init_kwargs, "no address in them beside address"
                )
            address = options.pop("address")
        self.address = address
        self.init_kwargs = options

    @classmethod
    def from_string(cls, target: str, options: Mapping[str, str]) -> RayTaskRunner:
        if target:
            only_options(cls.scheme, options, [])
            return cls(address=f"ray://{target}")
        only_options(cls.scheme, options, LOCAL_OPTIONS)
        numbers: dict[str, int] = {}
        for name, value in options.items():
            if name == "address":
                continue
            if not (value.isascii() and value.isdigit()):
                raise TaskRunnerOptionError(cls.scheme, name, value, "a whole number")
            numbers[name] = int(value)
        if numbers and "address" in options:
            raise TaskRunnerOptionError(
                cls.scheme, "address", options["address"], f"no {next(iter(numbers))} beside it"
            )
        return cls(options.get("address"), numbers)

    @contextmanager
    def open(self, inbox: Inbox, loop: Any) -> Generator[OpenRunner]:
        """Raises `MissingExtraError`, `ClusterConnectionError` and `WorkerVersionError`."""
        with ExitStack() as lifetimes:
            try:
                connection = lifetimes.enter_context(
                    late.connected_ray(self.address, self.init_kwargs)
                )
            except ImportError as error:
                raise MissingExtraError("The ray runner", "ray", "anabranch[ray]") from error
            connect = partial(late.RayCluster, connection)
            yield lifetimes.enter_context(late.cluster_at_work(inbox, self.capabilities(), connect))

    def capabilities(self) -> Capabilities:
        return Capabilities(
            name=self.scheme,
            priority=False,
            stops_sync=True,
            stops_async=True,
            parallel=True,
            remote=True,
            resources=None,
        )

    def __repr__(self) -> str:
        given = {"address": self.address, "init_kwargs": self.init_kwargs}
        told = ", ".join(f"{name}={value!r}" for name, value in given.items() if value)
        return f"RayTaskRunner({told})"
