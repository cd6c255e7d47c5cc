"""The tasks that the contract runs; at module level, so that a child process can import them."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from anabranch import concurrency, create_markdown_artifact, get_run_logger, runtime
from anabranch import task as typed_task
from anabranch.futures import FutureList
from anabranch.states import Completed, Failed

task: Any = typed_task
"""Futures stand where the tasks declare values, which a type checker would refuse."""

FOREVER = 3600.0
"""Seconds that no test waits."""


def note(path: Path, text: str) -> None:
    """Leave a trace in a file, so that it does not matter where a task ran."""
    with path.open("a") as file:
        file.write(text + "\n")


def notes(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclasses.dataclass(frozen=True)
class Box:
    item: Any
    label: str = "box"


class Model(BaseModel):
    item: Any
    label: str = "model"


class Broken(Exception):
    pass


@task
def inc(x: int) -> int:
    return x + 1


@task
def add(x: int, y: int = 10) -> int:
    return x + y


@task
def same(value: Any) -> Any:
    return value


@task
def total(values: Any) -> int:
    return sum(values)


@task
def zero() -> int:
    return 0


@task
async def inc_async(x: int) -> int:
    await asyncio.sleep(0)
    return x + 1


@task
def three(x: int):
    yield x
    yield x + 1
    yield x + 2


@task
async def three_async(x: int):
    for n in range(3):
        await asyncio.sleep(0)
        yield x + n


@task
def broken(text: str = "no good") -> None:
    raise Broken(text)


@task
def broken_if(x: int, bad: int) -> int:
    if x == bad:
        raise Broken(f"{x} is bad")
    return x


@task
def noted(path: Path, text: str, after: Any = None) -> str:
    note(path, text)
    return text


@task
def kind_of(value: Any) -> str:
    return type(value).__name__


@task
def numbers(count: int) -> list[int]:
    return list(range(count))


@task
def fails_until(path: Path, attempts: int) -> int:
    note(path, "attempt")
    done = len(notes(path))
    if done < attempts:
        raise Broken(f"attempt {done}")
    return done


@task
async def fails_until_async(path: Path, attempts: int) -> int:
    note(path, "attempt")
    done = len(notes(path))
    if done < attempts:
        raise Broken(f"attempt {done}")
    return done


GATE = threading.Event()


@task
def waits_at_gate() -> str:
    GATE.wait(30)
    return "through"


ENDLESS: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []


@task
async def endless() -> None:
    event = asyncio.Event()
    ENDLESS.append((asyncio.get_running_loop(), event))
    await event.wait()


@task
def large(length: int) -> bytes:
    """More than rides back with an outcome, from some length on."""
    return b"x" * length


@task
def length_of(value: Any) -> int:
    return len(value)


@task
def broken_if_missing(path: Path) -> None:
    if not path.exists():
        raise Broken(f"{path.name} is missing")


LIMIT = "contract"


@task
def limited(folder: Path) -> int:
    """How many are in the block of the limit at once."""
    with concurrency(LIMIT, strict=True):
        folder.mkdir(parents=True, exist_ok=True)
        own = folder / str(runtime.task_run.id)
        own.touch()
        time.sleep(0.01)
        inside = len(list(folder.iterdir()))
        own.unlink()
    return inside


@task
def shown(text: str) -> str:
    create_markdown_artifact(text, key=f"artifact-{text}")
    return text


@task
def exits() -> None:
    raise SystemExit(3)


@task
def interrupts() -> None:
    raise GeneratorExit("odd")


@task
def recurses(n: int = 0) -> int:
    return recurses.fn(n + 1)


@task
def returns_state(kind: str) -> Any:
    if kind == "completed":
        return Completed(data=7, message="as asked")
    if kind == "named":
        return Completed(name="Cached", data=8)
    return Failed(message="not today")


@task
def about_run() -> dict[str, Any]:
    return {
        "id": runtime.task_run.id,
        "name": runtime.task_run.name,
        "task_name": runtime.task_run.task_name,
        "tags": list(runtime.task_run.tags),
        "run_count": runtime.task_run.run_count,
        "flow_name": runtime.flow_run.flow_name,
        "flow_run_id": runtime.flow_run.id,
    }


@task
def about_parameters(x: int, y: int = 5) -> dict[str, Any]:
    return dict(runtime.task_run.parameters)


@task
def logs(x: int) -> None:
    get_run_logger().info("working on %s", x)


@task(log_prints=True)
def prints(x: int) -> None:
    print("printed", x, sep=":")


@task
def nested(depth: int) -> int:
    if depth == 0:
        return 0
    return nested.submit(depth - 1).result() + 1


@task
def maps_inside(count: int) -> int:
    return sum(inc.map(range(count)).result())


@task
def streams_inside(count: int) -> int:
    return sum(future.result() for future in inc.stream(range(count), max_in_flight=5))


def close_gates() -> None:
    """Start a test with closed gates, and nobody before them."""
    GATE.clear()
    ENDLESS.clear()


def open_gates() -> None:
    """Let go what still waits, so that no thread is left behind."""
    GATE.set()
    for loop, event in ENDLESS:
        if not loop.is_closed():
            loop.call_soon_threadsafe(event.set)


@task
def pair(left: Any, right: Any) -> tuple[Any, Any]:
    return left, right


@task
def noted_kind() -> str:
    return "ran"


def settled(futures: FutureList[Any]) -> list[Any]:
    futures.wait()
    return futures.states()


def waited(futures: Any) -> Any:
    futures.wait()
    return futures


@task
def waits_then_breaks() -> None:
    GATE.wait(30)
    raise Broken("after all")


@task
def after(path: Path) -> int:
    return len(notes(path))
