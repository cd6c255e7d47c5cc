"""Results that are found again: which calls find them, who computes them, and what may go wrong."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections import namedtuple
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from anabranch import flow, runtime, task, unmapped
from anabranch.cache_policies import (
    DEFAULT,
    FLOW_PARAMETERS,
    INPUTS,
    NO_CACHE,
    RUN_ID,
    TASK_SOURCE,
)
from anabranch.errors import (
    IsolationError,
    OptionError,
    TamperedResultError,
    UnhashableInput,
    UnserializableResult,
)
from anabranch.futures import TaskFuture
from anabranch.results import FsspecStorage, LocalStorage
from anabranch.settings import load_settings
from anabranch.states import Completed
from anabranch.store.database import Database
from anabranch.store.opening import open_store
from anabranch.store.sessions import open_session
from anabranch.testing import harness

RUNNERS = ["inline", "threads", "asyncio", "processes?max_workers=2"]
PATIENCE = 20.0
"""Seconds for what should happen at once, on a loaded machine."""
Pair = namedtuple("Pair", "left right")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ANABRANCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ANABRANCH_PROGRESS", "false")
    return tmp_path / "home"


@pytest.fixture
def log(tmp_path: Path) -> str:
    """A file that gets a line from each call that runs, in whatever process."""
    return str(tmp_path / "log")


@pytest.fixture
def database(home: Path) -> Iterator[Database]:
    settings = load_settings()
    store = open_store(settings.database_url, settings.home)
    yield store
    store.close()


@pytest.fixture(params=RUNNERS)
def runner(request: pytest.FixtureRequest) -> str:
    return request.param


def mark(log: str, text: object = "ran") -> None:
    with open(log, "a") as file:
        file.write(f"{text}\n")


def marks(log: str) -> list[str]:
    return Path(log).read_text().splitlines() if os.path.exists(log) else []


def changed(database: Database, sql: str, *values: Any) -> int:
    with database.transaction() as transaction:
        return transaction.changed(sql, values)


def locks(database: Database) -> list[Any]:
    return database.read("SELECT key FROM cache_lock")


@task(cache_policy=INPUTS - "log")
def double(x: Any, log: str) -> Any:
    mark(log, x)
    return x * 2


@task(cache_policy=INPUTS - "log")
async def double_async(x: Any, log: str) -> Any:
    mark(log, x)
    return x * 2


@task(cache_policy=INPUTS - "log")
def countdown(n: int, log: str) -> Iterator[int]:
    mark(log, n)
    yield from range(n, 0, -1)


@task(cache_policy=INPUTS - "log")
async def countdown_async(n: int, log: str) -> AsyncIterator[int]:
    mark(log, n)
    for each in range(n, 0, -1):
        yield each


@task
def calls_inside(x: int, log: str) -> list[int]:
    return [
        double(x, log),
        double.submit(x, log).result(),
        *double.map([x, x], unmapped(log)).result(),
    ]


# -- who finds a result ---------------------------------------------------------------------------


def test_a_call_is_found_by_all_ways_of_calling(runner: str, log: str) -> None:
    @flow
    def part() -> int:
        return double.submit(1, log).result()

    @flow(task_runner=runner)
    def census() -> list[Any]:
        first = double.submit(1, log, return_state=True)
        again = double.submit(1, log, return_state=True)
        assert (first.name, again.name) == ("Completed", "Cached")
        assert again.is_completed()
        inside = calls_inside.submit(1, log).result()
        return [first.result(), again.result(), double(1, log), part(), *inside,
                *double.map([1, 2, 2], unmapped(log)).result()]  # fmt: skip  # one a line

    assert census() == [2] * 9 + [4, 4]
    assert sorted(marks(log)) == ["1", "2"]
    assert double(1, log) == 2  # outside of any flow
    assert sorted(marks(log)) == ["1", "2"]


def test_async_tasks_find_theirs(runner: str, log: str) -> None:
    @flow(task_runner=runner)
    async def census() -> list[Any]:
        first = await double_async(3, log)
        return [first, await double_async(3, log), *await double_async.map([3, 3], unmapped(log))]

    assert asyncio.run(census()) == [6] * 4
    assert marks(log) == ["3"]
    assert asyncio.run(double_async(3, log)) == 6
    assert marks(log) == ["3"]


def test_generators_find_theirs(runner: str, log: str) -> None:
    @flow(task_runner=runner)
    def census() -> list[Any]:
        return [list(countdown(3, log)), list(countdown(3, log)), countdown.submit(3, log).result()]

    assert census() == [[3, 2, 1]] * 3
    assert list(countdown(3, log)) == [3, 2, 1]
    assert marks(log) == ["3"]

    @flow(task_runner=runner)
    async def later() -> list[Any]:
        first = await countdown_async.submit(2, log)
        return [first, [n async for n in countdown_async(2, log)]]

    assert asyncio.run(later()) == [[2, 1]] * 2

    async def alone() -> list[int]:
        return [n async for n in countdown_async(2, log)]

    assert asyncio.run(alone()) == [2, 1]
    assert marks(log) == ["3", "2"]


def test_a_generator_left_early_is_not_kept(log: str) -> None:
    @flow
    def census() -> list[int]:
        for _ in countdown(3, log):
            break
        return list(countdown(3, log))

    assert census() == [3, 2, 1]
    assert marks(log) == ["3", "3"]


def test_a_later_process_finds_it(log: str, tmp_path: Path, home: Path) -> None:
    script = tmp_path / "later.py"
    script.write_text(
        textwrap.dedent("""
        import sys
        from anabranch import flow, task
        from anabranch.cache_policies import INPUTS, TASK_SOURCE

        @task(cache_policy=INPUTS + TASK_SOURCE)
        def double(x):
            print("ran", x)
            return x * 2

        @flow
        def census():
            return double.submit(4).result()

        print(census(), double(4))
        """)
    )
    environment = {**os.environ, "ANABRANCH_HOME": str(home)}
    outputs = [
        subprocess.run(
            [sys.executable, script], capture_output=True, text=True, env=environment, check=True
        ).stdout
        for _ in range(2)
    ]
    assert outputs == ["ran 4\n8 8\n", "8 8\n"]


# -- what is found ----------------------------------------------------------------------------------


@dataclass
class Place:
    name: str
    sizes: list[int]


VALUES: list[Any] = [
    None, 0, True, 1 << 70, float("inf"), "é\ud800", b"\0", (1, 2), [1, [2]], {"a": {3}},
    frozenset({1}), Pair(1, 2), Place("x", [1]), dt.date(2026, 1, 2), dt.timedelta(1), Path("a"),
]  # fmt: skip  # a table


def test_values_keep_their_types(log: str) -> None:
    @task(cache_policy=INPUTS - "log")
    def value(number: int, log: str) -> Any:
        mark(log)
        return VALUES[number]

    @flow
    def census() -> list[Any]:
        return value.map(range(len(VALUES)), unmapped(log)).result()

    census()
    found = census()
    assert len(marks(log)) == len(VALUES)
    for mine, theirs in zip(found, VALUES, strict=True):
        assert type(mine) is type(theirs)
        assert mine == theirs


@pytest.mark.parametrize("storage", [None, "folder", "memory"])
def test_each_gets_a_copy_of_its_own(storage: Any, log: str, tmp_path: Path) -> None:
    where = {"folder": tmp_path / "results", "memory": f"memory://{tmp_path}"}.get(storage)

    @task(cache_policy=INPUTS - "log", result_storage=where)
    def names(log: str) -> list[str]:
        mark(log)
        return ["a"]

    @flow
    def census() -> None:
        first = names.submit(log).result()
        first.append("changed")
        second = names.submit(log).result()
        assert second == ["a"]
        second.append("changed")
        assert names(log) == ["a"]

    census()
    assert len(marks(log)) == 1


class Late:
    """A serializer that the cache has to wait for."""

    name = "late"

    def __init__(self) -> None:
        self.changed = threading.Event()

    def dumps(self, value: Any) -> bytes:
        if threading.current_thread().name == "anabranch-cache":
            assert self.changed.wait(PATIENCE)
        return json.dumps(value).encode()

    def loads(self, data: bytes) -> Any:
        return json.loads(data)


def test_what_the_caller_changes_is_not_kept(log: str, tmp_path: Path) -> None:
    late = Late()

    @task(cache_policy=INPUTS - "log", result_storage=tmp_path / "results", result_serializer=late)
    def names(log: str) -> list[str]:
        mark(log)
        return ["a"]

    @flow
    def census() -> list[str]:
        first = names.submit(log).result()
        first.append("changed")
        late.changed.set()
        return names.submit(log).result()

    assert census() == ["a"]
    assert len(marks(log)) == 1


@pytest.mark.parametrize("runner", ["threads", "processes?max_workers=2"])
def test_large_results_are_files(runner: str, log: str, home: Path) -> None:
    @task(cache_policy=INPUTS - "log")
    def large(n: int, log: str) -> list[bytes]:
        mark(log)
        return [bytes(1_000_000)]

    @flow(task_runner=runner)
    def census() -> None:
        assert large.submit(1, log).result() == [bytes(1_000_000)]

    census()
    census()
    assert len(marks(log)) == 1
    (file,) = (home / "storage").iterdir()
    assert file.stat().st_size > 1_000_000
    file.unlink()
    census()  # computed again
    assert len(marks(log)) == 2


class Reversed:
    """A serializer of the user's own."""

    name = "reversed"

    def dumps(self, value: Any) -> bytes:
        return str(value)[::-1].encode()

    def loads(self, data: bytes) -> Any:
        return data.decode()[::-1]


@pytest.mark.parametrize("storage", [None, "folder"])
def test_a_serializer_of_the_users(storage: Any, log: str, tmp_path: Path) -> None:
    where = None if storage is None else tmp_path / storage

    @task(cache_policy=INPUTS - "log", result_serializer=Reversed(), result_storage=where)
    def text(log: str) -> str:
        mark(log)
        return "abc"

    assert [text(log), text(log)] == ["abc", "abc"]
    assert len(marks(log)) == 1


def test_in_strict_durability(log: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANABRANCH_DURABILITY", "strict")

    @flow(task_runner="threads")
    def census() -> list[str]:
        futures = double.map([1, 1, 2], unmapped(log))
        futures.wait()
        return sorted(future.state.name for future in futures)

    assert census() == ["Cached", "Completed", "Completed"]
    assert census() == ["Cached"] * 3


def test_failures_and_states_are_not_cached(log: str) -> None:
    @task(cache_policy=INPUTS - "log")
    def broken(log: str) -> None:
        mark(log)
        raise ValueError("no")

    @task(cache_policy=INPUTS - "log")
    def gives_state(log: str) -> Any:
        mark(log, "state")
        return Completed(data=1, message="as it is")

    @flow
    def census() -> None:
        for _ in range(2):
            assert broken.submit(log, return_state=True).is_failed()
            assert gives_state.submit(log).result() == 1

    census()
    assert sorted(marks(log)) == ["ran", "ran", "state", "state"]


def test_a_result_that_cannot_be_kept_is_an_error(log: str) -> None:
    @task(cache_policy=INPUTS)
    def lock() -> Any:
        return threading.Lock()

    @flow
    def census() -> None:
        lock.submit().result()

    with pytest.raises(UnserializableResult, match="lock"):
        census()


# -- policies -----------------------------------------------------------------------------------------


def run_twice(its_task: Any, *args: Any) -> None:
    @flow
    def census(n: int) -> None:
        its_task.submit(*args).result()
        its_task.submit(*args).result()

    census(1)
    census(1)
    census(2)


@pytest.mark.parametrize(
    ("policy", "ran"),
    [
        (INPUTS - "log", 1),
        (INPUTS - "log" + TASK_SOURCE, 1),
        (TASK_SOURCE, 1),
        (FLOW_PARAMETERS, 2),
        (RUN_ID, 3),
        (DEFAULT - "log", 3),
        (NO_CACHE, 6),
        (None, 6),
    ],
)
def test_policies(policy: Any, ran: int, log: str) -> None:
    @task(cache_policy=policy)
    def counted(x: int, log: str) -> int:
        mark(log)
        return x

    run_twice(counted, 1, log)
    assert len(marks(log)) == ran


def test_persist_result_alone_is_the_default_policy(log: str) -> None:
    @task(persist_result=True)
    def counted(x: int, log: str) -> int:
        mark(log)
        return x

    run_twice(counted, 1, log)
    assert len(marks(log)) == 3
    for _ in range(2):
        counted(1, log)  # on its own, each is a run of its own
    assert len(marks(log)) == 5


@pytest.mark.parametrize("policy", [None, INPUTS - "log"])
def test_storage_keys_of_the_users_do_not_mix_results_up(
    policy: Any, log: str, tmp_path: Path
) -> None:
    @task(
        cache_policy=policy,
        persist_result=True,
        result_storage_key="the latest",
        result_serializer="pickle",
    )
    def counted(x: int, log: str) -> list[int]:
        mark(log)
        return [x]

    @flow
    def census() -> list[Any]:
        return [counted.submit(x, log).result() for x in (1, 2, 1)]

    assert census() == census() == [[1], [2], [1]]
    assert len(marks(log)) == (6 if policy is None else 2)


def test_persist_result_with_no_cache_only_keeps(log: str) -> None:
    @task(persist_result=True, cache_policy=NO_CACHE)
    def counted(x: int, log: str) -> int:
        mark(log)
        return x

    run_twice(counted, 1, log)
    assert len(marks(log)) == 6


def test_tasks_do_not_share_results_unless_they_say_so(log: str) -> None:
    @task(cache_policy=INPUTS)
    def one(x: int) -> str:
        return "one"

    @task(cache_policy=INPUTS)
    def other(x: int) -> str:
        return "other"

    shared = {"cache_key_fn": lambda context, parameters: "the same"}

    @flow
    def census() -> list[str]:
        found = [one.submit(1).result(), other.submit(1).result()]
        for each in (one, other):
            found.append(each.with_options(cache_policy=None, **shared).submit(1).result())
        return found

    assert census() == ["one", "other", "one", "one"]


AWKWARD_KEYS = [
    "plain", "../../etc/passwd", "/etc/passwd", "..", ".hidden", "x" * 300, "x" * 299 + "y",
    "x" * 20_000, "ünï/日本", "line\nbreak\0nul", "half \ud800 pair", "100%", "tilde~" + "0" * 32,
]  # fmt: skip  # a table


def awkward_keys_are_found(log: str, storage: Any) -> None:
    @task(cache_key_fn=lambda context, parameters: parameters["key"], result_storage=storage)
    def keyed(key: str, log: str) -> str:
        mark(log)
        return f"of {key!a}"

    @flow
    def census() -> list[str]:
        return keyed.map(AWKWARD_KEYS, unmapped(log)).result()

    expected = [f"of {key!a}" for key in AWKWARD_KEYS]
    assert census() == expected
    assert census() == expected
    assert len(marks(log)) == len(AWKWARD_KEYS)


@pytest.mark.parametrize("kind", ["store", "folder", "memory"])
def test_any_text_is_a_key(kind: str, log: str, tmp_path: Path) -> None:
    storage = {"store": None, "folder": tmp_path / "results", "memory": f"memory://{tmp_path}"}
    awkward_keys_are_found(log, storage[kind])
    if kind == "folder":
        assert {each.parent for each in tmp_path.rglob("*passwd*")} == {tmp_path / "results"}


@pytest.mark.parametrize("key", ["", 7])
def test_other_keys_are_refused(key: Any, log: str) -> None:
    @task(cache_key_fn=lambda context, parameters: key)
    def keyed(log: str) -> None:
        mark(log)

    @flow
    def census() -> None:
        keyed.submit(log).result()

    with pytest.raises(OptionError, match="a str that is not empty, or None"):
        census()
    assert marks(log) == []


def test_no_key_means_no_cache(log: str) -> None:
    @task(cache_key_fn=lambda context, parameters: None)
    def keyed(log: str) -> None:
        mark(log)

    run_twice(keyed, log)
    assert len(marks(log)) == 6


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cache_policy": "INPUTS"}, "a policy such as"),
        ({"cache_policy": INPUTS, "cache_key_fn": lambda c, p: "k"}, "left out where cache_policy"),
        ({"cache_key_fn": "k"}, "a function"),
        ({"cache_policy": INPUTS, "persist_result": False}, "where results are cached"),
        ({"cache_expiration": 5}, "given with a cache_policy"),
        ({"cache_expiration": dt.timedelta(0)}, "given with a cache_policy"),
        ({"refresh_cache": True}, "given with a cache_policy"),
        ({"refresh_cache": True, "cache_policy": NO_CACHE}, "given with a cache_policy"),
        ({"refresh_cache": "yes", "cache_policy": INPUTS}, "True or False"),
        ({"cache_expiration": 0, "cache_policy": INPUTS}, "more than 0"),
        ({"cache_expiration": -1, "cache_policy": INPUTS}, "more than 0"),
        ({"cache_expiration": float("nan"), "cache_policy": INPUTS}, "more than 0"),
        ({"cache_expiration": dt.timedelta.max, "cache_policy": INPUTS}, "less than 300 years"),
        ({"cache_expiration": "1h", "cache_policy": INPUTS}, "a timedelta, or seconds"),
        (
            {"cache_policy": INPUTS - "typo"},
            "'typo' will not do; it takes one that the task has: x",
        ),
        ({"cache_policy": DEFAULT - "typo"}, "'typo'"),
        ({"persist_result": "yes"}, "True or False"),
        ({"result_storage": "", "cache_policy": INPUTS}, "it is empty"),
        ({"cache_policy": INPUTS.configure(key_storage=7)}, "has not the methods of one"),
        ({"cache_policy": INPUTS.configure(lock_manager=7)}, r"with acquire_lock\(\)"),
    ],
)
def test_contradictions_are_refused_at_once(options: dict[str, Any], said: str) -> None:
    def size(x: int) -> int:
        return x

    with pytest.raises(Exception, match=said):
        task(**options)(size)
    with pytest.raises(Exception, match=said):
        task(size).with_options(**options)


class Scale:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __anabranch_key__(self) -> Any:
        return self.factor

    @task(cache_policy=INPUTS)
    def times(self, x: int) -> int:
        return self.factor * x

    @task(cache_policy=INPUTS - "self")
    def plus(self, x: int) -> int:
        return self.factor + x


def test_a_method_counts_its_object() -> None:
    @flow
    def census() -> list[int]:
        return [Scale(factor).times.submit(3).result() for factor in (2, 5)] + [
            Scale(factor).plus.submit(3).result() for factor in (2, 5)
        ]

    assert census() == [6, 15, 5, 5]


# -- how long -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", [None, "memory://expiring"])
def test_results_expire_by_the_clock(storage: Any, log: str) -> None:
    @task(cache_policy=INPUTS - "log", cache_expiration=60, result_storage=storage)
    def brief(log: str) -> int:
        mark(log)
        return 1

    @flow
    def census() -> str:
        return brief.submit(log, return_state=True).name

    with harness() as test:
        assert census() == "Completed"
        test.clock.move(59)
        assert census() == "Cached"
        assert brief.explain_cache(log).hit
        test.clock.move(2)
        assert not brief.explain_cache(log).hit
        assert census() == "Completed"
        assert census() == "Cached"
    assert len(marks(log)) == 2


def test_refresh_computes_and_keeps(log: str) -> None:
    fresh = double.with_options(refresh_cache=True)

    @flow
    def census() -> list[str]:
        return [
            each.submit(1, log, return_state=True).name for each in (double, fresh, fresh, double)
        ]

    assert census() == ["Completed", "Completed", "Completed", "Cached"]
    assert len(marks(log)) == 3


def test_a_refresh_leaves_what_older_runs_recorded(home: Path, tmp_path: Path) -> None:
    size = [1_000_000]

    @task(cache_policy=NO_CACHE + INPUTS, refresh_cache=True)
    def large() -> bytes:
        return bytes(size[0])

    @flow
    def census() -> int:
        return len(large.submit().result())

    assert census() == 1_000_000
    size[0] = 2_000_000
    assert census() == 2_000_000
    assert len(list((home / "storage").iterdir())) == 2


# -- computed once ------------------------------------------------------------------------------------


GATES: dict[str, threading.Event] = {}


@pytest.fixture
def gate(log: str) -> Iterator[threading.Event]:
    """What `gated` waits for before it ends."""
    GATES[log] = threading.Event()
    yield GATES[log]
    GATES.pop(log).set()


@task(cache_policy=INPUTS - "log" - "fails")
def gated(log: str, fails: int = 0) -> int:
    mark(log)
    assert GATES[log].wait(PATIENCE)
    if len(marks(log)) <= fails:
        raise ValueError("not yet")
    return 1


@task(cache_policy=INPUTS)
def sign(n: int) -> int:
    return n


def followed(*args: Any, count: int = 9, its_task: Any = gated) -> list[TaskFuture[Any]]:
    """A call that computes, and others that wait for it by the time this returns."""
    futures = [its_task.submit(*args) for _ in range(count)]
    sign.submit(len(futures)).result()  # calls are looked for in their order
    return futures


def test_of_equal_calls_one_computes(log: str, gate: threading.Event) -> None:
    @flow(task_runner="threads?max_workers=8")
    def census() -> list[str]:
        futures = followed(log, count=100)
        gate.set()
        for future in futures:
            future.wait()
        return sorted(future.state.name for future in futures)

    assert census() == ["Cached"] * 99 + ["Completed"]
    assert len(marks(log)) == 1


def test_a_map_of_equal_calls_computes_once_on_processes(log: str) -> None:
    @flow(task_runner="processes?max_workers=2")
    def census() -> list[int]:
        return double.map([7] * 100, unmapped(log)).result()

    assert census() == [14] * 100
    assert len(marks(log)) == 1


def test_many_threads_of_tasks_ask_at_once(log: str) -> None:
    together = threading.Barrier(8)

    @task
    def asks(n: int) -> int:
        together.wait(PATIENCE)
        return double(1, log)

    @flow(task_runner="threads?max_workers=8")
    def census() -> list[int]:
        return asks.map(range(8)).result()

    assert census() == [2] * 8
    assert len(marks(log)) == 1


def test_where_the_first_fails_the_next_computes(log: str, gate: threading.Event) -> None:
    @flow(task_runner="threads")
    def census() -> list[str]:
        futures = followed(log, 2, count=5)
        gate.set()
        for future in futures:
            future.wait()
        return [future.state.name for future in futures]

    assert sorted(census()) == ["Cached", "Cached", "Completed", "Failed", "Failed"]
    assert len(marks(log)) == 3


def test_where_the_first_is_cancelled_the_next_computes(log: str, gate: threading.Event) -> None:
    @flow(task_runner="threads")
    def census() -> list[str]:
        futures = followed(log, count=4)
        futures[0].cancel()
        gate.set()
        for future in futures:
            future.wait()
        return [future.state.name for future in futures]

    assert sorted(census()) == ["Cached", "Cached", "Cancelled", "Completed"]
    assert len(marks(log)) == 2


def test_where_the_first_times_out_the_next_computes(log: str, gate: threading.Event) -> None:
    patient = gated.with_options(timeout_seconds=60)

    with harness() as test:

        @flow(task_runner="threads")
        def census() -> list[str]:
            futures = followed(log, count=3, its_task=patient)
            began.set()
            for future in futures:
                future.wait()
            return [future.state.name for future in futures]

        began = threading.Event()
        run = test.start(census)
        assert began.wait(PATIENCE)
        test.clock.move_to_next()
        gate.set()
        assert sorted(run.result(PATIENCE)) == ["Cached", "Completed", "TimedOut"]
    assert len(marks(log)) == 2


def test_a_first_that_is_tried_again_computes(runner: str, log: str) -> None:
    @task(cache_policy=INPUTS - "log", retries=2)
    def shaky(n: int, log: str) -> int:
        mark(log)
        if len(marks(log)) < 3:
            raise ValueError("not yet")
        return n

    @flow(task_runner=runner)
    def census() -> list[int]:
        return shaky.map([5] * 4, unmapped(log)).result()

    assert census() == [5] * 4
    assert len(marks(log)) == 3


def test_a_direct_call_is_tried_again(log: str) -> None:
    @task(cache_policy=INPUTS - "log", retries=1)
    def shaky(log: str) -> int:
        mark(log)
        if len(marks(log)) < 2:
            raise ValueError("not yet")
        return 1

    @task(cache_policy=INPUTS - "log", retries=1)
    def items(log: str) -> Iterator[int]:
        mark(log)
        if len(marks(log)) < 4:
            raise ValueError("not yet")
        yield 1

    assert [shaky(log), shaky(log), *items(log), *items(log)] == [1] * 4
    assert len(marks(log)) == 4


def test_a_first_whose_worker_dies_is_run_again(log: str) -> None:
    @task(cache_policy=INPUTS - "log")
    def deadly(log: str) -> int:
        mark(log)
        if len(marks(log)) < 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return 1

    @flow(task_runner="processes?max_workers=2")
    def census() -> list[int]:
        return [future.result() for future in [deadly.submit(log) for _ in range(3)]]

    assert census() == [1] * 3
    assert len(marks(log)) == 2


def test_a_task_that_calls_its_own_key_does_not_wait_for_itself(log: str) -> None:
    key = {"cache_key_fn": lambda context, parameters: "the key"}

    @task(**key)
    def inner(log: str) -> int:
        mark(log)
        return 1

    @flow
    def between() -> int:
        return inner.submit(log).result()

    @task(**key)
    def outer(log: str) -> int:
        return inner.submit(log).result() + inner(log) + between()

    @flow
    def census() -> int:
        return outer.submit(log).result()

    assert census() == 3
    assert len(marks(log)) == 3
    assert census() == 3
    assert len(marks(log)) == 3


def test_a_cancelled_flow_does_not_wait_for_followers(log: str, gate: threading.Event) -> None:
    with harness(cancel_grace=3600) as test:

        @flow(task_runner="threads")
        def census() -> None:
            futures = followed(log, count=50)
            for future in futures:
                future.cancel()
            for future in futures[1:]:
                future.wait(PATIENCE)
            assert {future.state.name for future in futures[1:]} == {"Cancelled"}
            assert futures[0].state.name == "Cancelling"
            gate.set()

        test.start(census).result(PATIENCE)
    assert len(marks(log)) == 1


def test_a_flow_that_fails_does_not_wait_for_other_processes(
    log: str, database: Database, home: Path
) -> None:
    session = open_session(database, "00" * 10, 0.0)
    key = double.explain_cache(1, log).key
    changed(database, "INSERT INTO cache_lock (key, session) VALUES (?, ?)", key, session)
    states: list[TaskFuture[Any]] = []

    with harness(cancel_grace=3600, database_url=f"sqlite:///{home / 'anabranch.db'}") as test:

        @flow(task_runner="threads")
        def census() -> None:
            states.extend(followed(1, log, count=5, its_task=double))
            raise ValueError("enough")

        with pytest.raises(ValueError, match="enough"):
            test.start(census).result(PATIENCE)
    assert {future.state.name for future in states} == {"Cancelled"}
    assert marks(log) == []


CROWD = """
import os, sys
from anabranch import flow, task
from anabranch.cache_policies import INPUTS
log, act = sys.argv[1:]

def mark(text):
    with open(log, "a") as file:
        file.write(text + "\\n")

@task(cache_policy=INPUTS)
def slow(x):
    mark("ran")
    if act == "hang":
        print("computing", flush=True)
        sys.stdin.read()
    return x * 2

@flow(task_runner="threads")
def census():
    print("ready", flush=True)
    sys.stdin.readline()
    return slow.submit(2).result()

print(census(), flush=True)
"""


class Crowd:
    """Processes that run one script over one store."""

    def __init__(self, folder: Path, log: str, environment: dict[str, str]) -> None:
        self.script = folder / "crowd.py"
        self.script.write_text(CROWD)
        self.log = log
        self.environment = {**os.environ, **environment}
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, act: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, self.script, self.log, act],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=self.environment,
        )  # fmt: skip  # one a line
        self.processes.append(process)
        return process

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.fixture
def crowd(tmp_path: Path, log: str, home: Path) -> Iterator[Crowd]:
    made = Crowd(tmp_path, log, {"ANABRANCH_HOME": str(home)})
    yield made
    made.close()


def test_processes_that_ask_at_once_compute_once(crowd: Crowd, log: str) -> None:
    asking = [crowd.start("quick") for _ in range(8)]
    for process in asking:
        assert said(process) == "ready"
    for process in asking:
        go(process)
    assert [said(process) for process in asking] == ["4"] * 8
    assert marks(log) == ["ran"]


def test_a_killed_process_frees_its_key_at_once(crowd: Crowd, log: str) -> None:
    first, second = crowd.start("hang"), crowd.start("quick")
    for process in (first, second):
        assert said(process) == "ready"
    go(first)
    assert said(first) == "computing"
    go(second)
    first.kill()
    first.wait()
    assert said(second) == "4"  # a session that is only watched lapses after 15 s, pytest's limit
    assert marks(log) == ["ran", "ran"]


def test_a_lock_of_an_ended_session_is_freed(database: Database, log: str) -> None:
    key = double.explain_cache(1, log).key
    changed(database, "INSERT INTO cache_lock (key, session) VALUES (?, 12345)", key)
    assert double(1, log) == 2
    assert locks(database) == []


def test_nothing_stays_open_or_locked(log: str, home: Path) -> None:
    def opened() -> list[str]:
        folder = Path("/proc/self/fd")
        links = [os.readlink(each) for each in folder.iterdir() if each.is_symlink()]
        return [each for each in links if each.startswith(str(home))]

    @flow
    def census() -> None:
        for n in range(10):
            double.with_options(name=f"double {n}").submit(n, log).result()

    census()
    assert opened() == []
    store = open_store(None, home)
    assert locks(store) == []
    store.close()


# -- where results are ----------------------------------------------------------------------------------


@pytest.fixture(params=["folder", "memory", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    name = f"{request.node.name}-{os.getpid()}".replace("[", "-").replace("]", "")
    if request.param == "folder":
        return LocalStorage(tmp_path / "results")
    if request.param == "memory":
        return FsspecStorage(f"memory://{name}")
    return FsspecStorage(f"s3://bucket/{name}", **request.getfixturevalue("s3"))


@pytest.mark.parametrize(
    ("where", "runner"),
    [
        ("result_storage", "threads"),
        ("key_storage", "threads"),
        ("result_storage", "processes?max_workers=1"),
    ],
)
def test_results_in_a_storage_are_found(where: str, runner: str, storage: Any, log: str) -> None:
    policy = INPUTS - "log"
    options: dict[str, Any] = {"cache_policy": policy, "result_storage": storage}
    if where == "key_storage":
        options = {"cache_policy": policy.configure(key_storage=storage)}

    @task(**options)
    def counted(n: int, log: str) -> list[bytes]:
        mark(log)
        return [bytes(n)]

    @flow(task_runner=runner)
    def census() -> list[str]:
        futures = counted.map([3, 3, 100_000], unmapped(log))
        assert futures.result() == [[bytes(3)], [bytes(3)], [bytes(100_000)]]
        return [future.state.name for future in futures]

    assert sorted(census()) == ["Cached", "Completed", "Completed"]
    assert census() == ["Cached"] * 3
    assert len(marks(log)) == 2
    explained = counted.explain_cache(3, log)
    assert explained.hit
    assert storage.keys(explained.key) == [explained.key]
    if runner != "threads":
        return
    storage.write(explained.key, storage.read(explained.key)[:-1] + b"?")
    with pytest.raises(TamperedResultError):
        census()
    storage.remove(explained.key)
    assert sorted(census()) == ["Cached", "Cached", "Completed"]


def test_a_storage_that_fails_costs_only_the_cache(log: str, caplog: Any) -> None:
    class Broken(LocalStorage):
        def read(self, key: str, first: int | None = None) -> bytes:
            raise OSError("the network is down")

    @task(cache_policy=(INPUTS - "log").configure(key_storage=Broken(log + "-folder")))
    def counted(log: str) -> int:
        mark(log)
        return 1

    @flow
    def census() -> int:
        return counted.submit(log).result()

    assert [census(), census()] == [1, 1]
    assert len(marks(log)) == 2
    assert "counted-0 runs without the cache: the network is down" in caplog.text


def test_a_lock_manager_of_the_users(log: str, gate: threading.Event) -> None:
    class Manager:
        def __init__(self) -> None:
            self.told: list[tuple[str, str]] = []
            self.refuses = 3
            self.holders: set[str] = set()

        def acquire_lock(self, key: str, holder: str, acquire_timeout: float) -> bool:
            if self.refuses:
                self.refuses -= 1
                return False
            self.told.append(("acquire", key))
            self.holders.add(holder)
            return True

        def release_lock(self, key: str, holder: str) -> None:
            assert holder in self.holders
            self.told.append(("release", key))

    manager = Manager()
    managed = double.with_options(cache_policy=(INPUTS - "log").configure(lock_manager=manager))

    @flow
    def census() -> list[int]:
        return managed.map([1, 1], unmapped(log)).result()

    assert census() == [2, 2]
    key = managed.explain_cache(1, log).key
    assert manager.told == [("acquire", key), ("release", key)]
    assert marks(log) == ["1"]


def test_a_store_that_cannot_be_written_costs_only_the_cache(
    log: str, home: Path, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.write_text("a file where the folder should be")

    @flow
    def census() -> list[int]:
        return [double.submit(1, log).result(), double(1, log)]

    assert census() == [2, 2]
    assert double(1, log) == 2
    assert len(marks(log)) == 3
    assert "The run goes on without being recorded" in caplog.text


def test_a_serializable_task_does_not_run_where_nobody_is_kept_away(
    log: str, home: Path, tmp_path: Path
) -> None:
    class NoLocks:
        def acquire_lock(self, key: str, holder: str, acquire_timeout: float) -> bool:
            raise ConnectionError("the lock server is gone")

        def release_lock(self, key: str, holder: str) -> None: ...

    policy = (INPUTS - "log").configure(isolation_level="serializable")
    locked = double.with_options(cache_policy=policy.configure(lock_manager=NoLocks()))
    alone = double.with_options(cache_policy=policy)

    @flow
    def census(counted: Any) -> int:
        return counted.submit(1, log).result()

    with pytest.raises(IsolationError, match="the lock server is gone"):
        census(locked)
    assert census(alone) == 2
    shutil.rmtree(home)
    home.write_text("a file where the folder should be")
    with pytest.raises(IsolationError, match="this run is not recorded"):
        census(alone)
    assert marks(log) == ["1"]


def test_on_postgresql(log: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANABRANCH_DATABASE_URL", postgres_url)
    awkward_keys_are_found(log, None)

    @flow(task_runner="threads")
    def census() -> list[str]:
        futures = double.map([1, 1, "large" * 30_000], unmapped(log))
        futures.wait()
        return sorted(future.state.name for future in futures)

    assert census() == ["Cached", "Completed", "Completed"]
    assert census() == ["Cached"] * 3
    assert double.explain_cache(1, log).hit


# -- what may not be believed ---------------------------------------------------------------------------


@dataclass
class Trap:
    log: str

    def __reduce__(self) -> Any:
        return mark, (self.log, "loaded")


@pytest.mark.parametrize("change", ["value", "form", "moved", "pointer"])
def test_a_tampered_row_is_not_loaded(change: str, log: str, database: Database) -> None:
    import pickle

    assert double([1], log) == [1, 1]
    assert double([2], log) == [2, 2]
    key, other = double.explain_cache([1], log).key, double.explain_cache([2], log).key
    ((data,),) = database.read("SELECT result FROM cached WHERE key = ?", (key,))
    if change == "value":
        forged = data[:32] + pickle.dumps(Trap(log))
        changed(database, "UPDATE cached SET result = ? WHERE key = ?", forged, key)
    elif change == "form":
        changed(database, "UPDATE cached SET form = 'json', result = ? WHERE key = ?", b"7", key)
    elif change == "moved":
        changed(database, "UPDATE cached SET result = (SELECT result FROM cached WHERE key = ?) "
                "WHERE key = ?", other, key)  # fmt: skip  # one statement
    else:
        where = b'{"location": "/tmp/x", "key": "x", "serializer": "pickle"}'
        changed(database, "UPDATE cached SET form = 'stored', result = ? WHERE key = ?", where, key)
    with pytest.raises(TamperedResultError, match=str(key)):
        double([1], log)
    assert marks(log) == ["[1]", "[2]"]
    assert double([2], log) == [2, 2]


def test_a_tampered_file_is_not_loaded(log: str, home: Path) -> None:
    large = [bytes(500_000)]
    assert double(large, log) == large * 2
    (file,) = (home / "storage").iterdir()
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(TamperedResultError):
        double(large, log)


def test_a_value_whose_class_is_gone_is_computed_again(
    log: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "placed.py").write_text("class Place:\n    pass\n")
    import placed  # pyright: ignore[reportMissingImports]  # just written

    @task(cache_policy=INPUTS - "log")
    def place(log: str) -> Any:
        mark(log)
        return getattr(placed, "Place", int)()

    assert [type(place(log)), type(place(log))] == [placed.Place] * 2
    assert len(marks(log)) == 1
    monkeypatch.delattr(placed, "Place")
    assert place(log) == 0
    assert len(marks(log)) == 2
    assert place(log) == 0
    assert len(marks(log)) == 2


# -- what is not found, and why -------------------------------------------------------------------------


def test_explanations(log: str, database: Database) -> None:
    plain = task(lambda: 1)
    assert "not cached: give it a cache_policy" in plain.explain_cache().why
    assert plain.explain_cache()[:3] == (None, {}, False)

    explained = double.explain_cache(1, log)
    assert not explained.hit
    assert "there is no cached result of test_caching:double" in explained.why
    double(1, log)
    explained = double.explain_cache(1, log)
    assert explained.hit
    assert explained.why.startswith("made by task run ")
    assert set(explained.parts) == {"task", "inputs", "inputs.x"}
    explained = double.explain_cache(2, log)
    assert not explained.hit
    assert explained.why.endswith(": inputs.x")
    assert str(explained).startswith("miss: unlike the result of ")

    changed(database, "UPDATE cached SET expires = 5.0")
    assert "expired at 1970-01-01 00:00:05" in double.explain_cache(1, log).why
    assert double(1, log) == 2
    assert len(marks(log)) == 2

    refreshing = double.with_options(refresh_cache=True).explain_cache(1, log)
    assert (refreshing.hit, "each time" in refreshing.why) == (False, True)
    assert len(marks(log)) == 2
    with pytest.raises(UnhashableInput, match=r"INPUTS - 'x'"):
        double.explain_cache(threading.Lock(), log)


def test_explanation_of_a_changed_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    text = """
from anabranch import task
from anabranch.cache_policies import INPUTS, TASK_SOURCE

@task(cache_policy=INPUTS + TASK_SOURCE)
def size(x):
    return x {}
"""
    (tmp_path / "sized.py").write_text(text.format("+ 1"))
    import importlib
    import linecache

    sized = importlib.import_module("sized")
    assert sized.size(1) == 2
    assert sized.size.explain_cache(1).hit
    (tmp_path / "sized.py").write_text(text.format("* 11"))
    linecache.clearcache()
    importlib.invalidate_caches()
    monkeypatch.delitem(sys.modules, "sized")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for cached in (tmp_path / "__pycache__").glob("*"):
        cached.unlink()
    sized = importlib.import_module("sized")
    assert sized.size.explain_cache(1).why.endswith(": task_source")
    assert sized.size(1) == 11


def test_an_argument_without_identity_is_an_error(runner: str, log: str) -> None:
    @flow(task_runner=runner)
    def census() -> None:
        double.submit(threading.Lock(), log).result()

    with pytest.raises(UnhashableInput, match=r"leave the argument out with INPUTS - 'x'"):
        census()


# -- beside the rest --------------------------------------------------------------------------------------


def test_a_resumed_run_finds_what_others_cached(log: str) -> None:
    fail = [True]

    @task
    def breaks() -> None:
        if fail[0]:
            raise ValueError("no")

    run_ids: list[str] = []

    @flow
    def census() -> list[str]:
        run_ids.append(runtime.flow_run.id)
        first = double.submit(1, log, return_state=True)
        breaks.submit().result()
        second = double.submit(2, log, return_state=True)
        assert [first.result(), second.result()] == [2, 4]
        return [first.name, second.name]

    assert census(return_state=True).is_failed()
    assert double(2, log) == 4
    fail[0] = False
    assert census.resume(run_ids[0]) == ["Completed", "Cached"]
    assert marks(log) == ["1", "2"]


# -- on the command line --------------------------------------------------------------------------------

COMMANDS = """
from anabranch import flow, task
from anabranch.cache_policies import INPUTS

@task(cache_policy=INPUTS)
def double(x):
    return x * 2

@task(cache_key_fn=lambda context, parameters: f"../{parameters['x']}")
def keyed(x):
    return x

@flow
def census():
    return double.submit(2).result() + keyed.submit(3).result()
"""


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from anabranch.cli.app import app

    (tmp_path / "commands.py").write_text(COMMANDS)
    monkeypatch.chdir(tmp_path)

    def say(*args: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, args)
        assert result.exit_code == code, result.output
        return result.stdout

    explain = ("cache", "explain", "commands.py:double", "-p", "x=2")
    assert "miss: there is no cached result of " in say(*explain)
    say("run", "commands.py:census")
    listed = json.loads(say("cache", "ls", "--json"))
    keys = {each["preview"]: each["key"] for each in listed}
    assert set(keys) == {"4", "3"}
    assert "double" in say("cache", "ls")
    assert "hit: made by task run " in say(*explain)
    assert json.loads(say(*explain, "--json"))["key"] == keys["4"]
    assert "unlike the result of" in say(*explain[:-1], "x=3")
    assert "Forgot 1 cached result" in say("cache", "clear", keys["4"][:8])
    assert "Forgot 1 cached result" in say("cache", "clear", "../3")
    say("cache", "clear", "../3", code=1)
    assert "miss" in say(*explain)
    assert "Forgot 0" in say("cache", "clear", "--all")
