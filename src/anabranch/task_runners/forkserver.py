"""A process that forks children: single-threaded, and clean of the user's script and its threads.

It is this module's own main program, on a socket to the pool that started it. Requests and reports
are 9 bytes each; a request to fork comes with the child's socket and memory. The server ends with its pool,
and takes the children that are left with it.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import mmap
import os
import pickle
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from types import FrameType, ModuleType
from typing import IO, Any, Final, NoReturn

import anabranch
from anabranch.execution.remote_logs import logger_levels
from anabranch.execution.worker import SHARED_BYTES, Worker

FORK: Final = b"F"  # to the server, with a socket and a file
KILL: Final = b"K"  # to the server: pid, signal; nothing happens if it is gone
FORKED: Final = b"P"  # from the server, in the order of requests: pid, -1 if there can be none
EXITED: Final = b"X"  # from the server: pid, status as of waitpid
NOTE: Final = struct.Struct("<cii")
LEAVE_SECONDS = 1.0
"""How long a server gets to leave."""
_LENGTH = struct.Struct("<Q")
_idle: ForkServer | None = None
_changing = threading.Lock()


def fork_server() -> ForkServer:
    """The last that was given back, where this process is still as that one has seen it, since starting
    takes a fifth of a second; else a new one."""
    global _idle
    hello = _hello()
    with _changing:
        idle, _idle = _idle, None
    if idle is not None:
        if idle.hello == hello and idle.is_alive():
            return idle
        idle.close(LEAVE_SECONDS)
    return ForkServer(hello)


def give_back(server: ForkServer) -> None:
    """Keep one that has no children for the next who needs one, or until this process ends."""
    global _idle
    with _changing:
        kept = _idle is None and server.is_alive()
        if kept:
            _idle = server
    if not kept:
        server.close(LEAVE_SECONDS)


@atexit.register
def _end_idle() -> None:
    if _idle is not None and _idle.is_own():
        _idle.close(LEAVE_SECONDS)


def _hello() -> bytes:
    """What a server becomes like."""
    return pickle.dumps(
        {
            "path": sys.path,
            "environ": dict(os.environ),
            "cwd": os.getcwd(),
            "main": getattr(sys.modules.get("__main__"), "__file__", None),
            "levels": logger_levels(),
        }
    )


class ForkServer:
    """The pool's end: starts the server, asks it for children, and hears how they ended."""

    def __init__(self, hello: bytes) -> None:
        self.hello = hello
        self._owner = os.getpid()
        self.socket, theirs = socket.socketpair()
        path = [entry for entry in sys.path if entry]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONSAFEPATH": "1"},
            )
        try:
            self.socket.sendall(_LENGTH.pack(len(hello)) + hello)
        except OSError:  # it is gone already; whoever reads from it notices
            pass

    def is_own(self) -> bool:
        """Whether this process has started it, and is not a fork of one that has."""
        return self._owner == os.getpid()

    def is_alive(self) -> bool:
        return self.is_own() and self._process.poll() is None

    def fork(self) -> tuple[socket.socket, mmap.mmap]:
        """Ask for a child; gives the socket to it at once, and memory that it shares."""
        ours, its = socket.socketpair()
        with its, _memory() as file:
            file.truncate(SHARED_BYTES)
            shared = mmap.mmap(file.fileno(), SHARED_BYTES)
            try:
                fds = [its.fileno(), file.fileno()]
                socket.send_fds(self.socket, [NOTE.pack(FORK, 0, 0)], fds)
            except OSError:  # as above
                pass
        return ours, shared

    def kill(self, pid: int, number: int) -> None:
        """Send a signal to a child that the server has not yet reaped."""
        try:
            self.socket.sendall(NOTE.pack(KILL, pid, number))
        except OSError:  # as above
            pass

    def reports(self) -> list[tuple[bytes, int, int]] | None:
        """What the server has told since the last time; None if it is gone. May block."""
        try:
            data = self.socket.recv(NOTE.size * 256)
            while len(data) % NOTE.size:
                data += self.socket.recv(NOTE.size - len(data) % NOTE.size)
        except OSError:
            return None
        return list(NOTE.iter_unpack(data)) if data else None

    def close(self, seconds: float) -> None:
        self.socket.close()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _memory() -> IO[bytes]:
    """A file that is memory, where there is such a thing."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("anabranch"), "w+b")
    return tempfile.TemporaryFile()


def how_it_ended(status: int) -> str:
    """In words, a status as of waitpid."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"left with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


# -- the server's end -----------------------------------------------------------------------------


def serve(its_socket: socket.socket) -> None:
    """Fork on request until the pool is gone."""
    hello = _received_hello(its_socket)
    _become_like(hello)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # both are for the pool's process to act on
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, _noted)
    woken, waker = socket.socketpair()
    children: set[int] = set()
    with woken, waker:
        woken.setblocking(False)
        waker.setblocking(False)
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        gc.collect()
        gc.freeze()  # children share what is here, and need not look through it
        try:
            while True:
                ready, _, _ = select.select([its_socket, woken], [], [])
                if woken in ready:
                    _drain(woken)
                    _reap(its_socket, children)
                if its_socket in ready and not _answer(its_socket, children, (woken, waker), hello):
                    break
        except OSError:  # the pool is gone, with its end of the socket
            pass
        signal.set_wakeup_fd(-1)
    for pid in children:
        os.kill(pid, signal.SIGKILL)


def _received_hello(its_socket: socket.socket) -> dict[str, Any]:
    with its_socket.makefile("rb", buffering=0) as file:
        data = b""
        (length,) = _LENGTH.unpack(file.read(_LENGTH.size) or sys.exit())
        while len(data) < length:
            data += file.read(length - len(data)) or sys.exit()
    return pickle.loads(data)


def _become_like(hello: Mapping[str, Any]) -> None:
    """Take on what the pool's process has, but for its main module."""
    sys.path[:] = hello["path"]
    os.environ.clear()
    os.environ.update(hello["environ"])
    os.chdir(hello["cwd"])
    for name in ("flow", "task"):  # what modules with tasks import, here once for all children
        getattr(anabranch, name)
    importlib.import_module("asyncio")
    main = sys.modules["__main__"] = ModuleType("__main__")
    main.__file__ = hello[
        "main"
    ]  # whose names are those of the script, though it does not run here


def _answer(
    its_socket: socket.socket,
    children: set[int],
    own: tuple[socket.socket, ...],
    hello: Mapping[str, Any],
) -> bool:
    """Do what the pool asks; False once it is gone."""
    data, fds, _, _ = socket.recv_fds(its_socket, NOTE.size, 2)
    if len(data) < NOTE.size:
        return False
    what, pid, number = NOTE.unpack(data)
    if what == KILL:
        if pid in children:
            os.kill(pid, number)
        return True
    try:
        pid = os.fork()
    except OSError:  # no memory, or no more processes
        pid = -1
    if pid == 0:
        for each in (its_socket, *own):
            each.close()
        _be_child(fds[0], fds[1], hello)
    for fd in fds:
        os.close(fd)
    if pid > 0:
        children.add(pid)
    its_socket.sendall(NOTE.pack(FORKED, pid, 0))
    return True


def _be_child(fd: int, shared_fd: int, hello: Mapping[str, Any]) -> NoReturn:
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.set_inheritable(fd, False)
        shared = mmap.mmap(shared_fd, SHARED_BYTES)
        os.close(shared_fd)
        with socket.socket(fileno=fd) as its_socket:
            code = Worker(its_socket, shared).run(hello["levels"])
    except BaseException:
        sys.excepthook(*sys.exc_info())  # pyright: ignore[reportArgumentType]  # there is one
    finally:
        os._exit(code)


def _noted(number: int, frame: FrameType | None) -> None:
    """A child ended: the byte that this signal writes wakes the server."""


def _drain(woken: socket.socket) -> None:
    try:
        while woken.recv(4096):
            pass
    except BlockingIOError:
        pass


def _reap(its_socket: socket.socket, children: set[int]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        if pid in children:
            children.discard(pid)
            its_socket.sendall(NOTE.pack(EXITED, pid, status))


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as given:
        os.set_inheritable(given.fileno(), False)
        serve(given)
