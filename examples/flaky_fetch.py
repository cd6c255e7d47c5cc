"""Fetch pages from a server that fails now and then, and try again only where that can help.

    python examples/flaky_fetch.py

The server runs on this machine for as long as the flow does. It answers some pages with "503
Service Unavailable" or hangs up, at first or always. Such attempts are made again, after delays
that double and differ by chance. A page that does not exist is asked for once.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from anabranch import State, Task, exponential_backoff, flow, task
from anabranch.runs import TaskRun

HOST = "127.0.0.1"
PAGES = {"/rivers": "Amazon, Nile", "/lakes": "Baikal", "/deltas": "Okavango", "/flood": "..."}
UNAVAILABLE = {"/lakes": 2, "/flood": 99}
"""How many of the first requests for a page are answered with 503."""
HANGS_UP = {"/deltas": 1}
"""How many of the first requests for a page are not answered at all."""


class Unavailable(Exception):
    """503: the server may have the page a little later."""


class NotFound(Exception):
    """404: the server does not have the page, now or later."""


class Fetched(NamedTuple):
    path: str
    attempts: int
    text: str | None
    error: BaseException | None


def may_pass(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether another attempt may go better than the one that ended in this state."""
    return isinstance(state.exception(), Unavailable | OSError)


@task(
    task_run_name="fetch {path}",
    retries=3,
    retry_delay_seconds=exponential_backoff(0.05),  # 0.05, 0.1 and 0.2 seconds,
    retry_jitter_factor=0.5,  # each up to a half longer, so that not all come back at once
    retry_condition_fn=may_pass,
    timeout_seconds=10,
)
async def fetch(port: int, path: str) -> str:
    """The text of a page. An HTTP library would do this in a line."""
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        answer = (await reader.read()).decode()
    finally:
        writer.close()
        await writer.wait_closed()
    head, _, text = answer.partition("\r\n\r\n")
    if not head:
        raise ConnectionError(f"the server hung up on {path}")
    status = head.split()[1]
    if status == "503":
        raise Unavailable(path)
    if status == "404":
        raise NotFound(path)
    return text


@flow(task_runner="asyncio")
async def fetch_all(paths: list[str]) -> list[Fetched]:
    """All pages side by side; a page that cannot be had stops no other."""
    async with flaky_server() as port:
        futures = [fetch.submit(port, path) for path in paths]
        fetched: list[Fetched] = []
        for path, future in zip(paths, futures, strict=True):
            text, error = None, None
            try:
                text = await future
            except (Unavailable, NotFound, OSError) as caught:
                error = caught
            fetched.append(Fetched(path, future.task_run.run_count, text, error))
        return fetched


@asynccontextmanager
async def flaky_server() -> AsyncGenerator[int, None]:
    """Serves `PAGES` while the block runs; gives its port."""
    requests: Counter[str] = Counter()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        path = request.decode().split()[1]
        requests[path] += 1
        if requests[path] <= UNAVAILABLE.get(path, 0):
            writer.write(b"HTTP/1.0 503 Service Unavailable\r\n\r\n")
        elif path not in PAGES:
            writer.write(b"HTTP/1.0 404 Not Found\r\n\r\n")
        elif requests[path] > HANGS_UP.get(path, 0):
            writer.write(f"HTTP/1.0 200 OK\r\n\r\n{PAGES[path]}".encode())
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, HOST, port=0) as server:
        yield server.sockets[0].getsockname()[1]


def show(fetched: list[Fetched]) -> None:
    table = Table("page", "attempts", "what came")
    for path, attempts, text, error in fetched:
        told = f"{type(error).__name__}: {error}" if error else text
        table.add_row(path, str(attempts), told)
    Console().print(table)
    missing = [each.path for each in fetched if each.error]
    print(f"{len(fetched) - len(missing)} pages came; these did not: {', '.join(missing)}")


if __name__ == "__main__":
    show(asyncio.run(fetch_all([*PAGES, "/nowhere"])))
