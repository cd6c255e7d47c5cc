"""This process's connection to Ray, of which there is one, shared by all flows that need it."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from typing import Any, NamedTuple

from anabranch.errors import ClusterConnectionError
from anabranch.task_runners.ray_addresses import (
    AUTH_MODE,
    is_on_loopback,
    place,
    refuse_nobody,
    wants_token,
)

LET_IN = (
    "See that Ray has the same version there; one that wants a token needs RAY_AUTH_MODE=token."
)
LOCAL = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # whatever its name says: stay on the loopback
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the way of its next version, which it warns of
}
"""What the processes of a local Ray find in their environment."""


LIVES_SECONDS = 5.0
"""How long an actor gets to say that it lives."""


class Office(NamedTuple):
    """The actor by which runners on one connection talk to workers, see `ray_mailbox`."""

    name: str
    actor: Any


class Connection:
    """Ray, connected. `places` are where its head and this machine's part of it listen; `address`
    is for people; `is_known` says that its workers have what this process has."""

    def __init__(self, ray: Any, address: str, is_known: bool = False) -> None:
        self.ray = ray
        self.address = address
        self.is_known = is_known
        self.office: Office | None = None
        self.driver = _driver(ray)
        self._changing = threading.Lock()
        self.places: list[tuple[str, int]] = []
        if ray.util.client.ray.is_connected():
            self.places.append(place(address))
            return
        self.places.append(place(ray.get_runtime_context().gcs_address))
        own: str = ray.get_runtime_context().get_node_id()
        for node in ray.nodes():
            if node["NodeID"] == own:
                self.places.append((node["NodeManagerAddress"], node["NodeManagerPort"]))

    def office_made_by(self, make: Callable[[], Office]) -> Office:
        """The one of this connection, which is made for the first who asks."""
        with self._changing:
            if self.office is None:
                self.office = make()
            return self.office

    def close(self) -> None:
        """End what was started on it."""
        if self.office is not None:
            self.ray.kill(self.office.actor)

    def is_still_there(self) -> bool:
        """Whether it can be used again, after flows that have ended; an office that is gone is
        forgotten."""
        if not self.ray.is_initialized() or _driver(self.ray) != self.driver:
            return False
        if self.office is not None:
            try:
                self.ray.get(self.office.actor.lives.remote(), timeout=LIVES_SECONDS)
            except Exception:  # it was killed, or hangs
                self.office = None
        return True


_changing = threading.Lock()
_users = 0
_lifetimes = ExitStack()
_connection: Connection | None = None
_theirs: Connection | None = None
"""The last that the user made. What was started on it stays until they end it: to start an actor takes
up to half a second, and each flow needs one."""


@contextmanager
def connected_ray(address: str | None, init_kwargs: Mapping[str, Any]) -> Generator[Connection]:
    """Ray's connection, made for the first flow that needs it and ended with the last; one that the
    user made stays. Raises `ClusterConnectionError`."""
    global _users, _connection
    with _changing:
        if _connection is None:
            try:
                _connection = _connect(address, init_kwargs)
            except BaseException:
                _lifetimes.close()
                raise
        else:
            _refuse_another(address, _connection.address)
        _users += 1
        connection = _connection
    try:
        yield connection
    finally:
        with _changing:
            _users -= 1
            if not _users:
                _connection = None
                _lifetimes.close()


def _connect(address: str | None, init_kwargs: Mapping[str, Any]) -> Connection:
    import ray as typed  # slow to load, and only here is it known to be needed
    from ray._private import ray_constants

    ray: Any = typed  # whose types are partly unknown
    if ray.is_initialized():
        return _connection_of_user(ray, address)
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {"logging_level": logging.ERROR, **init_kwargs}
    on_loopback = address == "local"
    if AUTH_MODE not in os.environ:
        _lifetimes.callback(os.environ.pop, AUTH_MODE, None)  # Ray sets it, which is for this one
    if address == "local":
        options = {"include_dashboard": False, **options}
    elif address != "auto":
        refuse_nobody(address)
        host, port = place(address)
        if ip_address(socket.gethostbyname(host)).is_loopback:
            on_loopback = is_on_loopback(port, ray.util.get_node_ip_address())
            if wants_token(address):
                os.environ[AUTH_MODE] = "token"
    ray._raylet.Config.initialize("")  # reads the environment again
    with ExitStack() as meanwhile:
        meanwhile.enter_context(_signals_kept())
        if address == "local":
            paths = os.pathsep.join(each or os.getcwd() for each in sys.path)
            unset = {name: value for name, value in LOCAL.items() if name not in os.environ}
            meanwhile.enter_context(_environment({**unset, "PYTHONPATH": paths}))
        ray_constants.ENABLE_RAY_CLUSTER = not on_loopback  # read from the environment at import
        try:
            ray.init(address=address, **options)
        except (ConnectionError, TimeoutError) as error:
            problem = f"it does not let this process in ({' '.join(str(error).split())})"
            raise ClusterConnectionError("Ray", address, problem, LET_IN) from error
    _collect()
    _lifetimes.callback(_collect)
    _lifetimes.callback(ray.shutdown)
    is_known = address == "local" and "runtime_env" not in init_kwargs
    return Connection(ray, _address(ray) if address in ("local", "auto") else address, is_known)


def _connection_of_user(ray: Any, wanted: str | None) -> Connection:
    global _theirs
    known = _address(ray)
    _refuse_another(wanted, known)
    if ray.util.client.ray.is_connected():
        connection = Connection(ray, known)
        _lifetimes.callback(connection.close)
        return connection
    if _theirs is None or not _theirs.is_still_there():
        _theirs = Connection(ray, known)
    return _theirs


def _driver(ray: Any) -> str | None:
    """What tells this process's connection from any other."""
    return (
        None
        if ray.util.client.ray.is_connected()
        else str(ray.get_runtime_context().get_worker_id())
    )


def _collect() -> None:
    """Ray leaves files open, of which Python would warn some time later."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@contextmanager
def _signals_kept() -> Generator[None]:
    """Ray takes SIGTERM, which is the flow's to deal with."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _environment(values: Mapping[str, str]) -> Generator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _address(ray: Any) -> str:
    if ray.util.client.ray.is_connected():
        return str(ray.util.client.ray.worker.connection_str)
    return str(ray.get_runtime_context().gcs_address)


def _refuse_another(wanted: str | None, known: str) -> None:
    """Raise where a flow wants another Ray than that of this process."""
    if wanted in (None, "auto", "local") or place(str(wanted))[1] == place(known)[1]:
        return
    raise ClusterConnectionError(
        "Ray",
        str(wanted),
        f"this process is connected to Ray at {known}, and Ray allows one connection a process",
        "Leave the address out, or run this flow in a process of its own.",
    )


def brief(error: BaseException) -> str:
    """What an error of Ray's says in the end, without the advice around it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
