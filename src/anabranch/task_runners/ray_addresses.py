"""Addresses of Ray: what they say, whether anybody listens there, and whom they let in."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from anabranch.errors import ClusterConnectionError

CONNECT_SECONDS = 10.0
START = "Start a head there with `ray start --head`, or give another address."
AUTH_MODE = "RAY_AUTH_MODE"
PROBE = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1])"
PROBE_SECONDS = 4.0


def place(address: str) -> tuple[str, int]:
    """Host and port of an address, with or without a scheme."""
    parts = urlsplit(address if "://" in address else f"ray://{address}")
    try:
        return parts.hostname or "127.0.0.1", parts.port or 10001
    except ValueError as error:
        raise ClusterConnectionError("Ray", address, f"no such port ({error})", START) from error


def reach(where: tuple[str, int], timeout: float) -> None:
    """Open a connection there and close it; raises `OSError`."""
    with socket.create_connection(where, timeout):
        pass


def refuse_nobody(address: str) -> None:
    """Raise `ClusterConnectionError` where nobody answers."""
    try:
        reach(place(address), CONNECT_SECONDS)
    except OSError as error:
        problem = f"nobody answered within {CONNECT_SECONDS:g} seconds ({error})"
        raise ClusterConnectionError("Ray", address, problem, START) from error


def is_on_loopback(port: int, on_network: str) -> bool:
    """Whether this machine's head listens on the loopback alone; Ray would look for it on the
    network."""
    try:
        reach((on_network, port), 1.0)
    except OSError:
        return True
    return ip_address(on_network).is_loopback


def wants_token(address: str) -> bool:
    """Whether a head on this machine lets in only who shows the token of its user, as one that was
    started after a local Ray does; Ray shows it to those alone that it finds by itself."""
    token = Path("~/.ray/auth_token").expanduser()
    if AUTH_MODE in os.environ or not token.exists():
        return False
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBE, address],
            env={**os.environ, AUTH_MODE: "disabled"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=PROBE_SECONDS,
        )
    except subprocess.TimeoutExpired:  # it tries again and again
        return True
    return done.returncode != 0
