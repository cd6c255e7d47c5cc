"""The values of flow runs: kept as those of tasks are, and handed back by a resume."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anabranch import flow, runtime, task
from anabranch.errors import OptionError, UnserializableResult
from anabranch.outcomes import Away
from anabranch.results import ResultStore
from anabranch.settings import load_settings
from anabranch.store.opening import open_store

RUNNERS = ["threads", "asyncio", "processes", "inline"]
RAN: list[str] = []


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    RAN.clear()
    monkeypatch.setenv("ANABRANCH_HOME", str(tmp_path / "home"))


def kept(name: str) -> list[tuple[str, str, str | None]]:
    """The states of a flow's runs, with how their values are kept."""
    settings = load_settings()
    database = open_store(settings.database_url, settings.home, False)
    try:
        return database.read(
            "SELECT state_name, form, preview FROM flow_run WHERE flow_name = ? ORDER BY id",
            (name,),
        )
    finally:
        database.close()


def run_id_of(name: str) -> str:
    settings = load_settings()
    database = open_store(settings.database_url, settings.home, False)
    try:
        return database.read("SELECT run_id FROM flow_run WHERE flow_name = ?", (name,))[0][0]
    finally:
        database.close()


@task
def two() -> int:
    return 2


@flow
def small() -> dict[str, int]:
    RAN.append("small")
    return {"two": two()}


@flow(persist_result=True)
def large() -> bytearray:
    RAN.append("large")
    return bytearray(1_000_000)


@flow
def too_large() -> bytearray:
    RAN.append("too large")
    return bytearray(1_000_000)


@flow
def lazy() -> Iterator[int]:
    RAN.append("lazy")
    yield two()


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_resume_hands_subflows_back(runner: str) -> None:
    @flow(task_runner=runner)
    def root() -> Any:
        given = small(), small.submit().result(), len(large()), len(large.submit().result())
        again = len(too_large()), list(lazy()), lazy.submit().result()
        if len(broken) == 0:
            broken.append(runtime.flow_run.id or "")
            raise ValueError("broken")
        return given, again

    broken: list[str] = []
    with pytest.raises(ValueError, match="broken"):
        root()
    assert RAN == ["small", "small", "large", "large", "too large", "lazy", "lazy"]
    RAN.clear()
    values = ({"two": 2}, {"two": 2}, 1_000_000, 1_000_000), (1_000_000, [2], [2])
    assert root.resume(broken[0]) == values
    assert RAN == ["too large", "lazy"]  # whose values nobody has
    assert kept("root")[-1][:2] == ("Completed", "pickle")
    assert {row[:2] for row in kept("large")} == {("Completed", "stored")}


@pytest.mark.parametrize("runner", RUNNERS)
def test_async_flows(runner: str, tmp_path: Path) -> None:
    @flow(task_runner=runner, result_storage=tmp_path / "there", result_serializer="json")
    async def root() -> list[int]:
        return [1, await asyncio.sleep(0, 2)]

    assert asyncio.run(root()) == [1, 2]
    assert kept("root")[0][:2] == ("Completed", "stored")
    assert ResultStore(tmp_path / "there").read(run_id_of("root")).value == [1, 2]


def test_what_cannot_be_kept_fails_the_run() -> None:
    @flow(persist_result=True)
    def root() -> Any:
        return {"lock": threading.Lock()}

    with pytest.raises(UnserializableResult, match="lock"):
        root()
    assert kept("root") == [("Failed", None, None)]

    @flow
    def plain() -> Any:
        return threading.Lock()

    assert plain().acquire(blocking=False)
    assert kept("plain")[0][:2] == ("Completed", "not kept")


def test_values_that_are_not_held_in_memory() -> None:
    @flow(persist_result=True, cache_result_in_memory=False)
    def below() -> bytearray:
        return bytearray(100_000)

    @flow
    def root() -> int:
        future = below.submit()
        future.wait()
        assert type(future._outcome.value) is Away  # pyright: ignore
        state: Any = below(return_state=True)  # pyright: ignore[reportCallIssue]  # every flow takes it
        assert type(state.data) is Away and len(state.result()) == 100_000
        return len(future.result()) + len(below())

    assert root() == 200_000


def test_a_state_that_is_not_held_can_be_returned() -> None:
    @task(persist_result=True, cache_result_in_memory=False)
    def large_one() -> bytearray:
        return bytearray(100)

    @task
    def passes_on() -> Any:
        return large_one(return_state=True)  # pyright: ignore[reportCallIssue]  # every task takes it

    @flow
    def root() -> Any:
        assert passes_on.submit().result() == bytearray(100)
        return large_one(return_state=True)  # pyright: ignore[reportCallIssue]  # as above

    assert root() == bytearray(100)
    settings = load_settings()
    database = open_store(settings.database_url, settings.home, False)
    found = database.read("SELECT form, result FROM flow_run WHERE flow_name = 'root'")
    database.close()
    assert found[0][0] == "pickle" and b"_read" not in bytes(found[0][1])


def test_options_are_checked() -> None:
    for options in (
        {"persist_result": "yes"},
        {"persist_result": False, "result_serializer": "json"},
        {"cache_result_in_memory": False},
    ):
        with pytest.raises(OptionError, match="Flow 'two'"):
            flow(name="two", **options)(lambda: 2)  # pyright: ignore
    assert json.loads("1") == flow(name="lambda")(lambda: 1)()
