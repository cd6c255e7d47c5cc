"""Results that are found again: which calls find them, who computes them, and what may go wrong."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
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

from anabranch import flow, task, unmapped
from anabranch.cache_policies import (
    DEFAULT,
    FLOW_PARAMETERS,
    INPUTS,
    NO_CACHE,
    RUN_ID,
    TASK_SOURCE,
)
from anabranch.errors import (
    CancelledRun,
    OptionError,
    RunTimedOut,
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
    return [double(x, log), double.submit(x, log).result(), *double.map([x, x], unmapped(log)).result()]


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


def test_each_gets_a_copy_of_its_own(log: str) -> None:
    @task(cache_policy=INPUTS - "log")
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
        return f"of {ascii(key)}"

    @flow
    def census() -> list[str]:
        return keyed.map(AWKWARD_KEYS, unmapped(log)).result()

    expected = [f"of {ascii(key)}" for key in AWKWARD_KEYS]
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
        ({"cache_policy": INPUTS - "typo"}, "'typo' will not do; it takes one that the task has: x"),
        ({"cache_policy": DEFAULT - "typo"}, "'typo'"),
        ({"persist_result": "yes"}, "True or False"),
        ({"result_storage": "", "cache_policy": INPUTS}, "it is empty"),
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
