"""A run that stopped goes on where it was: what is recorded stays, what is not runs."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from resumable import (
    RUNNERS,
    change,
    forget,
    is_marked,
    log_of,
    mark,
    newest_run,
    note,
    noted,
    only,
    rows,
)

from anabranch import allow_failure, flow, runtime, tags, task, unmapped
from anabranch.errors import (
    AlreadyCompletedError,
    MissingParameterError,
    NotARootError,
    NotResumableError,
    OtherFlowError,
    TamperedResultError,
    UnknownRunError,
)
from anabranch.flows import Flow


class Stopped(Exception):
    """What stops a flow, as its folder says."""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of its own for each test."""
    folder = tmp_path / "home"
    monkeypatch.setenv("ANABRANCH_HOME", str(folder))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """Where calls are noted."""
    place = tmp_path / "calls"
    place.mkdir()
    return str(place)


def stop(folder: str, where: str = "go") -> None:
    """End the flow here, at first."""
    if not is_marked(folder, where):
        raise Stopped(where)


def interrupted(its_flow: Flow[..., Any], folder: str, *args: Any, **kwargs: Any) -> str:
    """Run it until it stops; its id. The next run passes."""
    with pytest.raises(Stopped):
        its_flow(folder, *args, **kwargs)
    mark(folder, "go")
    return newest_run()


# -- tasks ----------------------------------------------------------------------------------------


@task
def double(folder: str, x: int) -> int:
    note(folder, f"double {x}")
    return 2 * x


@task
async def triple(folder: str, x: int) -> int:
    note(folder, f"triple {x}")
    await asyncio.sleep(0)
    return 3 * x


@task
def add(folder: str, values: Any, more: int = 0) -> int:
    note(folder, "add")
    return sum(values) + more


@task
def fails_at_first(folder: str, x: int) -> int:
    note(folder, f"fails {x}")
    if not is_marked(folder, "go"):
        raise ValueError("at first")
    return x


# -- the usual ------------------------------------------------------------------------------------


@flow
def chain(folder: str) -> int:
    doubled = double.map(unmapped(folder), range(5))
    total = add.submit(folder, doubled)
    failed = fails_at_first.submit(folder, 7)
    total.wait()
    failed.wait()
    stop(folder)
    return total.result() + failed.result()


@pytest.mark.parametrize("runner", RUNNERS)
def test_what_completed_is_handed_back_and_what_failed_runs_again(runner: str, folder: str) -> None:
    runs = chain.with_options(task_runner=runner)
    run_id = interrupted(runs, folder)
    before = rows("SELECT id, phase FROM task_run WHERE phase = 9 ORDER BY id")
    name = only("SELECT name FROM flow_run")
    assert len(before) == 6
    forget(folder)
    assert runs.resume(run_id) == 27
    assert noted(folder) == {"fails 7": 1}
    assert rows("SELECT run_id, name, state_type, attempt FROM flow_run") == [
        (run_id, name, "COMPLETED", 2)
    ]
    after = rows("SELECT id, phase FROM task_run ORDER BY id")
    assert after[:6] == before
    assert [phase for _, phase in after] == [9] * 7
    assert "6 completed calls are handed back" in log_of(run_id)


def test_ids_and_names_of_task_runs_stay(folder: str) -> None:
    seen: list[tuple[str, str]] = []

    @task(task_run_name="of-{x}")
    def named(x: int) -> int:
        return x

    @flow
    def runs(folder: str) -> None:
        futures = [double.submit(folder, 1), named.submit(3), *double.map(unmapped(folder), [4, 5])]
        for future in futures:
            future.wait()
        seen.extend((future.task_run_id, future.name) for future in futures)
        stop(folder)

    run_id = interrupted(runs, folder)
    runs.resume(run_id)
    assert seen[:4] == seen[4:]
    assert [name for _, name in seen[:4]] == ["double-0", "of-3", "double-1", "double-2"]


@pytest.mark.parametrize("runner", ["asyncio", "threads", "processes?max_workers=2"])
def test_an_async_flow(runner: str, folder: str) -> None:
    @flow(task_runner=runner)
    async def runs(folder: str) -> int:
        found = await triple.map(unmapped(folder), [1, 2])
        direct = await triple(folder, 3)
        stop(folder)
        return sum(found) + direct + await triple.submit(folder, 4)

    with pytest.raises(Stopped):
        asyncio.run(runs(folder))
    mark(folder, "go")
    forget(folder)

    async def resumes() -> int:
        return await runs.resume(newest_run())

    assert asyncio.run(resumes()) == 30
    assert noted(folder) == {"triple 4": 1}


# -- equal calls, futures as inputs ----------------------------------------------------------------


@task
def ticket(folder: str) -> int:
    """Another number at each call."""
    note(folder, "ticket")
    return noted(folder)["ticket"]


@pytest.mark.parametrize("runner", RUNNERS)
def test_equal_calls_are_handed_back_in_their_order(runner: str, folder: str) -> None:
    @flow(task_runner=runner)
    def runs(folder: str) -> list[int]:
        first = [ticket.submit(folder).result() for _ in range(3)]
        stop(folder)
        return [*first, ticket.submit(folder).result()]

    run_id = interrupted(runs, folder)
    assert runs.resume(run_id) == [1, 2, 3, 4]


@dataclass
class Pair:
    left: Any
    right: Any


@task
def total(folder: str, pair: Pair) -> int:
    note(folder, "total")
    return pair.left + pair.right


@task
def keyed(folder: str, *, values: dict[str, Any], scale: int = 1) -> int:
    note(folder, f"keyed {scale}")
    return scale * sum(values["them"])


@pytest.mark.parametrize("runner", RUNNERS)
def test_futures_count_wherever_they_stand_in_the_inputs(runner: str, folder: str) -> None:
    @flow(task_runner=runner)
    def runs(folder: str) -> list[int]:
        one, two = double.submit(folder, 1), double.submit(folder, 2)
        futures = [
            add.submit(folder, [one, two]),
            add.submit(folder, (one, two), more=1),
            total.submit(folder, Pair(one, two)),
            keyed.submit(folder, values={"them": [one, two]}),
            keyed.submit(folder, values={"them": [one, two]}, scale=3),
            *add.map(unmapped(folder), [[one], [two]], more=[5, 6]),
            add.submit(folder, allow_failure([one])),
        ]
        found = [future.result() for future in futures]
        stop(folder)
        return [
            *found,
            *[
                each.result()
                for each in keyed.map(
                    folder=unmapped(folder), values=unmapped({"them": [one]}), scale=[7, 8]
                )
            ],
        ]

    run_id = interrupted(runs, folder)
    forget(folder)
    assert runs.resume(run_id) == [6, 7, 6, 6, 18, 7, 10, 2, 14, 16]
    assert noted(folder) == {"keyed 7": 1, "keyed 8": 1}


@task
def several(folder: str, n: int) -> list[int]:
    note(folder, f"several {n}")
    return list(range(n))


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_map_over_a_future(runner: str, folder: str) -> None:
    @flow(task_runner=runner)
    def runs(folder: str) -> list[int]:
        later = double.map(unmapped(folder), several.submit(folder, 3))
        more = double.map(unmapped(folder), several.submit(folder, 2))
        sums = [add.submit(folder, later), add.submit(folder, more, more=1)]
        found = [each.result() for each in sums]
        stop(folder)
        return found

    run_id = interrupted(runs, folder)
    forget(folder)
    assert runs.resume(run_id) == [6, 3]
    assert noted(folder) == {}


def test_lists_of_different_maps_over_futures_are_told_apart(folder: str) -> None:
    @flow
    def runs(folder: str, sizes: list[int]) -> list[int]:
        found = [
            add.submit(folder, double.map(unmapped(folder), several.submit(folder, size))).result()
            for size in sizes
        ]
        stop(folder)
        return found

    run_id = interrupted(runs, folder, [3, 4])
    assert runs.resume(run_id, parameters={"sizes": [4, 3]}) == [12, 6]


# -- nested ---------------------------------------------------------------------------------------


@task
def parent(folder: str, x: int) -> int:
    note(folder, f"parent {x}")
    child = double.submit(folder, x)
    found = double(folder, x + 100) + child.result()
    if x == 2:
        stop(folder, "go")
    return found


@pytest.mark.parametrize("runner", RUNNERS)
def test_nested_tasks_of_a_parent_that_did_not_complete_are_handed_back(
    runner: str, folder: str
) -> None:
    @flow(task_runner=runner)
    def runs(folder: str) -> list[int]:
        return parent.map(unmapped(folder), [1, 2]).result()

    run_id = interrupted(runs, folder)
    forget(folder)
    assert runs.resume(run_id) == [204, 208]
    assert noted(folder) == {"parent 2": 1}


@task
def counted(folder: str, n: int) -> Iterator[int]:
    note(folder, f"counted {n}")
    yield from range(n)


@task
async def counted_async(folder: str, n: int) -> AsyncIterator[int]:
    note(folder, f"counted async {n}")
    for each in range(n):
        yield each


@pytest.mark.parametrize("runner", RUNNERS)
def test_generator_tasks(runner: str, folder: str) -> None:
    """Submitted they are handed back as lists; called lazily they run again."""

    @flow(task_runner=runner)
    def runs(folder: str) -> list[Any]:
        submitted = [counted.submit(folder, 2).result(), counted_async.submit(folder, 3).result()]
        called = list(counted(folder, 4))
        stop(folder)
        return [*submitted, called]

    run_id = interrupted(runs, folder)
    forget(folder)
    assert runs.resume(run_id) == [[0, 1], [0, 1, 2], [0, 1, 2, 3]]
    assert noted(folder) == {"counted 4": 1}


def test_a_generator_task_that_was_submitted_and_is_now_called(folder: str) -> None:
    @flow
    def runs(folder: str) -> list[int]:
        if not is_marked(folder, "go"):
            counted.submit(folder, 3).wait()
            stop(folder)
        return list(counted(folder, 3))

    run_id = interrupted(runs, folder)
    assert runs.resume(run_id) == [0, 1, 2]


# -- inputs that nothing can tell apart -------------------------------------------------------------


class Client:
    """Nothing can tell two of these apart."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.lock = threading.Lock()


@task
def number_of(folder: str, client: Client) -> int:
    note(folder, f"number {client.number}")
    if not is_marked(folder, f"allowed {client.number}"):
        raise ValueError(client.number)
    return client.number


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("runner", ["inline", "threads", "asyncio"])
def test_inputs_that_cannot_be_encoded_are_matched_by_order(
    runner: str, folder: str, mapped: bool
) -> None:
    @flow(task_runner=runner)
    def runs(folder: str) -> list[int]:
        clients = [Client(0), Client(1), Client(2)]
        if mapped:
            futures = list(number_of.map(unmapped(folder), clients))
        else:
            futures = [number_of.submit(folder, each) for each in clients]
        for future in futures:
            future.wait()
        stop(folder, "first")
        return [future.result() for future in futures]

    mark(folder, "allowed 1")
    with pytest.raises(Stopped):
        runs(folder)
    run_id = newest_run()
    forget(folder)
    mark(folder, "first")
    mark(folder, "allowed 0")
    with pytest.raises(ValueError, match="2"):
        runs.resume(run_id)
    assert noted(folder) == {"number 0": 1, "number 2": 1}
    forget(folder)
    mark(folder, "allowed 2")
    assert runs.resume(run_id) == [0, 1, 2]
    assert noted(folder) == {"number 2": 1}
    assert "number_of cannot be told apart: 2 of its runs were matched by the order" in log_of(
        run_id
    )


def test_the_first_of_a_map_by_order_that_never_began_keeps_its_place(folder: str) -> None:
    """Of a map's items, those that have not settled have no row that holds their place."""

    @task
    def held(folder: str, client: Client) -> int:
        if client.number == 0 and not is_marked(folder, "go"):
            raise KeyboardInterrupt
        return client.number

    @flow(task_runner="inline")
    def runs(folder: str) -> list[int]:
        return held.map(unmapped(folder), [Client(0), Client(1)]).result()

    @flow(task_runner="threads")
    def first(folder: str) -> None:
        held.map(unmapped(folder), [Client(0), Client(1)]).wait()
        stop(folder)

    run_id = interrupted(first, folder)
    change("DELETE FROM task_run WHERE phase != 9")
    seen: list[list[int]] = []

    again = first.with_options()
    again.fn = lambda folder: seen.append(  # type: ignore[method-assign]
        held.map(unmapped(folder), [Client(0), Client(1)]).result()
    )
    again.resume(run_id)
    assert seen == [[0, 1]]


# -- results that were not kept ---------------------------------------------------------------------


@task
def big(folder: str, x: int) -> bytes:
    note(folder, f"big {x}")
    return bytes([x]) * 1000


@task
def bigger(folder: str, data: bytes) -> bytes:
    note(folder, f"bigger {data[0]}")
    return data * 2


@task
def length(folder: str, data: bytes) -> int:
    note(folder, f"length {data[0]}")
    return len(data)


@task
def unpicklable(folder: str, x: int) -> Client:
    note(folder, f"client {x}")
    return Client(x)


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANABRANCH_RESULT_INLINE_LIMIT", "200")


@pytest.mark.usefixtures("small_limit")
@pytest.mark.parametrize("runner", RUNNERS)
def test_results_that_were_not_kept_are_computed_where_they_are_needed(
    runner: str, folder: str
) -> None:
    @flow(task_runner=runner)
    def runs(folder: str) -> list[int]:
        data = [big.submit(folder, x) for x in range(3)]
        doubled = [bigger.submit(folder, each) for each in data]
        lengths = [length.submit(folder, each) for each in doubled]
        found = [each.result() for each in lengths]
        stop(folder)
        found.append(
            length.submit(folder, doubled[1]).result() + 1
        )  # recorded: equal to an earlier
        found.append(len(data[2].result()))
        return found

    run_id = interrupted(runs, folder)
    forget(folder)
    assert runs.resume(run_id) == [2000, 2000, 2000, 2001, 1000]
    assert noted(folder) == {"big 1": 1, "bigger 1": 1, "length 1": 1, "big 2": 1}
    log = log_of(run_id)
    assert "3 results of test_resume:big were not kept" in log
    assert "3 results of test_resume:bigger were not kept" in log


@pytest.mark.usefixtures("small_limit")
def test_what_needs_nothing_but_recorded_results_computes_none(folder: str) -> None:
    @flow
    def runs(folder: str) -> int:
        found = length.submit(folder, bigger.submit(folder, big.submit(folder, 1))).result()
        stop(folder)
        return found

    run_id = interrupted(runs, folder)
    forget(folder)
    assert runs.resume(run_id) == 2000
    assert noted(folder) == {}


@pytest.mark.usefixtures("small_limit")
def test_waiting_for_a_run_needs_no_value_of_it(folder: str) -> None:
    @flow
    def runs(folder: str) -> int:
        first = big.submit(folder, 1)
        first.wait()
        stop(folder)
        return double.submit(folder, 1, wait_for=[first]).result()

    run_id = interrupted(runs, folder)
    forget(folder)
    runs.resume(run_id)
    assert noted(folder) == {"double 1": 1, "big 1": 1}  # the flow waits for it itself


@pytest.mark.usefixtures("small_limit")
def test_what_only_has_to_come_later_needs_no_value(folder: str) -> None:
    @flow
    def runs(folder: str) -> int:
        first = big.submit(folder, 1)
        double.submit(folder, 1, wait_for=[first]).wait()
        stop(folder)
        return sum(double.map(unmapped(folder), [2, 3], wait_for=first).result())

    run_id = interrupted(runs, folder)
    forget(folder)
    assert runs.resume(run_id) == 10
    assert noted(folder) == {"double 2": 1, "double 3": 1}


@pytest.mark.usefixtures("small_limit")
def test_an_async_flow_awaits_what_was_not_kept(folder: str) -> None:
    @flow(task_runner="asyncio")
    async def runs(folder: str) -> int:
        data = big.submit(folder, 4)
        doubled = bigger.submit(folder, data)
        await doubled
        stop(folder)
        return len(await doubled)

    with pytest.raises(Stopped):
        asyncio.run(runs(folder))
    mark(folder, "go")
    forget(folder)

    async def resumes() -> int:
        return await runs.resume(newest_run())

    assert asyncio.run(resumes()) == 2000
    assert noted(folder) == {"big 4": 1, "bigger 4": 1}


@pytest.mark.parametrize("runner", ["inline", "threads", "asyncio"])
def test_a_result_that_cannot_be_pickled(runner: str, folder: str) -> None:
    @flow(task_runner=runner)
    def runs(folder: str) -> int:
        client = unpicklable.submit(folder, 5)
        client.wait()
        stop(folder)
        return client.result().number

    run_id = interrupted(runs, folder)
    forget(folder)
    assert runs.resume(run_id) == 5
    assert noted(folder) == {"client 5": 1}
    assert "1 results of test_resume:unpicklable were not kept" in log_of(run_id)


@pytest.mark.parametrize(
    "value", [2**70, -(2**63) - 1, float("inf"), "é" * 60, None, True, 1.5, b"a", (1, "a")]
)
@pytest.mark.usefixtures("small_limit")
def test_each_kind_of_plain_value_comes_back(value: Any, folder: str) -> None:
    @task
    def gives() -> Any:
        note(folder, "gives")
        return value

    @flow
    def runs(folder: str) -> Any:
        found = gives.submit().result()
        stop(folder)
        return [found]

    run_id = interrupted(runs, folder)
    assert runs.resume(run_id) == [value]
    assert noted(folder) == {"gives": 1}


# -- subflows -------------------------------------------------------------------------------------


@flow
def sub(folder: str, x: Any) -> int:
    note(folder, f"sub {x}")
    found = double.submit(folder, x).result()
    if x == 2:
        stop(folder)
    return found + double.submit(folder, x + 10).result()


@flow
async def sub_async(folder: str, x: Any) -> int:
    note(folder, f"sub {x}")
    found = await triple.submit(folder, x)
    if x == 2:
        stop(folder)
    return found + await triple.submit(folder, x + 10)


@pytest.mark.parametrize("how", ["called", "submitted", "submitted with futures"])
def test_a_subflow_that_completed_is_handed_back_and_another_goes_on(how: str, folder: str) -> None:
    @flow
    def runs(folder: str) -> int:
        one: Any = several.submit(folder, 1) if "futures" in how else 1
        if how == "called":
            return sub(folder, 1) + sub(folder, 2)
        first = sub.submit(folder, 1 if one == 1 else double.submit(folder, 0))
        first.wait()
        return first.result() + sub.submit(folder, 2).result()

    run_id = interrupted(runs, folder)
    subflows = rows("SELECT id, run_id, name FROM flow_run WHERE parent IS NOT NULL ORDER BY id")
    assert len(subflows) == 2
    forget(folder)
    first = 20 if "futures" in how else 24
    assert runs.resume(run_id) == first + 28
    assert noted(folder) == {"sub 2": 1, "double 12": 1}
    assert subflows == rows(
        "SELECT id, run_id, name FROM flow_run WHERE parent IS NOT NULL ORDER BY id"
    )
    states = rows("SELECT state_type, attempt FROM flow_run ORDER BY id")
    assert sorted(states) == [("COMPLETED", 1), ("COMPLETED", 2), ("COMPLETED", 2)]
    assert "1 completed calls are handed back" in log_of(run_id)


def test_async_subflows(folder: str) -> None:
    @flow
    async def runs(folder: str) -> int:
        return await sub_async(folder, 1) + await sub_async.submit(folder, 2)

    with pytest.raises(Stopped):
        asyncio.run(runs(folder))
    mark(folder, "go")
    forget(folder)

    async def resumes() -> int:
        return await runs.resume(newest_run())

    assert asyncio.run(resumes()) == 36 + 42
    assert noted(folder) == {"sub 2": 1, "triple 12": 1}


def test_a_subflow_whose_result_was_not_kept_goes_on_with_its_records(folder: str) -> None:
    @flow
    def gives(folder: str) -> Client:
        note(folder, "gives")
        return Client(double.submit(folder, 3).result())

    @flow
    def runs(folder: str) -> int:
        client = gives(folder)
        stop(folder)
        return client.number

    run_id = interrupted(runs, folder)
    forget(folder)
    assert runs.resume(run_id) == 6
    assert noted(folder) == {"gives": 1}
    assert "1 results of" in log_of(run_id)


@pytest.mark.usefixtures("small_limit")
def test_a_completed_subflow_needs_no_value_that_was_not_kept(folder: str) -> None:
    @flow
    def measures(folder: str, data: bytes) -> int:
        note(folder, "measures")
        return len(data)

    @flow
    def runs(folder: str) -> int:
        found = measures(folder, big.submit(folder, 1))  # pyright: ignore
        stop(folder)
        return found

    run_id = interrupted(runs, folder)
    forget(folder)
    assert runs.resume(run_id) == 1000
    assert noted(folder) == {}


# -- retries of flows -------------------------------------------------------------------------------


@pytest.mark.parametrize("runner", ["inline", "threads", "processes?max_workers=2"])
def test_a_flow_that_is_tried_again_does_not_repeat_what_completed(
    runner: str, folder: str
) -> None:
    attempts: list[int] = []

    @flow(task_runner=runner, retries=2)
    def runs(folder: str) -> int:
        attempts.append(1)
        found = sum(double.map(unmapped(folder), range(3)).result())
        if len(attempts) == 2:
            fails_at_first.submit(folder, 1).wait()
        if len(attempts) < 3:
            raise Stopped
        mark(folder, "go")
        return found + fails_at_first.submit(folder, 1).result()

    assert runs(folder) == 7
    assert len(attempts) == 3
    assert noted(folder) == {"double 0": 1, "double 1": 1, "double 2": 1, "fails 1": 2}
    assert "3 completed calls are handed back" in log_of(newest_run())


@pytest.mark.usefixtures("small_limit")
def test_a_subflow_that_is_tried_again(folder: str) -> None:
    attempts: list[int] = []

    @flow(retries=1)
    def tried(folder: str, client: Client) -> int:
        attempts.append(1)
        data = big.submit(folder, 1)
        found = length.submit(folder, data).result()
        number = number_of.submit(folder, client).result()
        if len(attempts) == 1:
            raise Stopped
        return found + len(data.result()) + number

    @flow
    def runs(folder: str) -> int:
        return tried(folder, Client(5))

    mark(folder, "allowed 5")
    assert runs(folder) == 2005
    assert noted(folder) == {"big 1": 2, "length 1": 1, "number 5": 1}


# -- what cannot be resumed, and what was meddled with ------------------------------------------------


def test_an_unknown_run(folder: str) -> None:
    run_id = interrupted(chain, folder)
    name = only("SELECT name FROM flow_run")
    wrong = name[:-1] + ("x" if name[-1] != "x" else "y")
    with pytest.raises(UnknownRunError, match=f"Did you mean {name}"):
        chain.resume(wrong)
    with pytest.raises(UnknownRunError, match="'nowhere-at-all'"):
        chain.resume("nowhere-at-all")
    assert chain.resume(run_id) == 27


def test_a_run_is_found_by_its_name_and_the_start_of_its_id(folder: str) -> None:
    run_id = interrupted(chain, folder)
    Path(folder, "go").unlink()
    with pytest.raises(Stopped):
        chain.resume(run_id[:8])
    mark(folder, "go")
    assert chain.resume(only("SELECT name FROM flow_run")) == 27


def test_a_run_that_completed(folder: str) -> None:
    mark(folder, "go")
    assert chain(folder) == 27
    with pytest.raises(AlreadyCompletedError):
        chain.resume(newest_run())


def test_a_run_that_completes_just_before_it_is_claimed(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Exception):  # noqa: B017  # whatever stops it the first time
        chain(folder)

    def meanwhile(*_: object) -> None:
        change("UPDATE flow_run SET state_type = 'COMPLETED' WHERE run_id = ?", newest_run())

    monkeypatch.setattr("anabranch.resuming._wait_for_owner", meanwhile)
    with pytest.raises(AlreadyCompletedError):
        chain.resume(newest_run())
    assert only("SELECT COUNT(*) FROM session WHERE closed IS NULL") == 0


def test_a_run_of_another_flow_and_that_of_a_subflow(folder: str) -> None:
    @flow
    def runs(folder: str) -> int:
        return sub(folder, 2)

    run_id = interrupted(runs, folder)
    with pytest.raises(OtherFlowError, match="chain"):
        chain.resume(run_id)
    subflow = only("SELECT run_id FROM flow_run WHERE parent IS NOT NULL")
    with pytest.raises(NotARootError, match=run_id):
        sub.resume(subflow)
    assert runs.resume(run_id) == 28  # what was refused has taken nothing


def test_parameters_that_cannot_be_pickled_are_told_at_the_start(folder: str) -> None:
    @flow
    def runs(folder: str, client: Client) -> None:
        double.submit(folder, 1).wait()
        stop(folder)

    run_id = interrupted(runs, folder, Client(1))
    with pytest.raises(NotResumableError, match=r"client.*lock"):
        runs.resume(run_id)
    first = rows("SELECT level, message FROM log WHERE level >= 30 ORDER BY id")[0]
    assert first[0] == logging.WARNING
    assert first[1].startswith("It cannot be resumed: its parameters cannot be pickled: ")
    assert "client" in first[1]


def test_secrets_are_left_out_and_have_to_be_given_again(folder: str) -> None:
    @flow
    def runs(folder: str, key: SecretStr, size: int = 2) -> str:
        stop(folder)
        return key.get_secret_value() * size

    run_id = interrupted(runs, folder, SecretStr("hush-hush"), size=3)
    store = Path(os.environ["ANABRANCH_HOME"])
    assert not any(b"hush-hush" in file.read_bytes() for file in store.iterdir() if file.is_file())
    with pytest.raises(MissingParameterError, match="key"):
        runs.resume(run_id)
    assert runs.resume(run_id, parameters={"key": SecretStr("ab")}) == "ababab"


class Trap:
    """What must never be loaded."""

    def __reduce__(self) -> Any:
        return note, (os.environ["TRAP_FOLDER"], "sprung")


@pytest.fixture
def trap(folder: str, monkeypatch: pytest.MonkeyPatch) -> bytes:
    monkeypatch.setenv("TRAP_FOLDER", folder)
    return bytes(32) + pickle.dumps(Trap())


def test_a_result_that_was_tampered_with_is_refused(folder: str, trap: bytes) -> None:
    @flow
    def runs(folder: str) -> list[int]:
        several.submit(folder, 2).wait()
        stop(folder)
        return several.submit(folder, 2).result()

    run_id = interrupted(runs, folder)
    kept = only("SELECT result FROM task_run")
    assert change("UPDATE task_run SET result = ?", trap) == 1
    with pytest.raises(TamperedResultError):
        runs.resume(run_id)
    assert noted(folder) == {"several 2": 1}
    change("UPDATE task_run SET result = ?", kept)
    assert runs.resume(run_id) == [0, 1]


def test_parameters_that_were_tampered_with_are_refused(folder: str, trap: bytes) -> None:
    run_id = interrupted(chain, folder)
    kept = only("SELECT parameters FROM flow_run")
    change("UPDATE flow_run SET parameters = ?", trap)
    with pytest.raises(TamperedResultError):
        chain.resume(run_id)
    assert "sprung" not in noted(folder)
    change("UPDATE flow_run SET parameters = ?", kept)
    assert chain.resume(run_id) == 27


def test_a_secret_that_was_replaced(folder: str, home: Path) -> None:
    run_id = interrupted(chain, folder)
    (home / "secret").write_bytes(bytes(range(32)))
    with pytest.raises(TamperedResultError):
        chain.resume(run_id)


def test_task_runs_that_vanished_run_again(folder: str) -> None:
    run_id = interrupted(chain, folder)
    forget(folder)
    for table in ("task_run", "task", "dependency", "submission"):
        change(f"DELETE FROM {table}")
    assert chain.resume(run_id) == 27
    assert noted(folder) == {**{f"double {n}": 1 for n in range(5)}, "add": 1, "fails 7": 1}


def test_tags_of_the_run_come_back(folder: str) -> None:
    seen: list[set[str]] = []

    @flow
    def runs(folder: str) -> None:
        seen.append(set(runtime.flow_run.tags))
        stop(folder)

    with tags("a", "b"):
        run_id = interrupted(runs, folder)
    runs.resume(run_id)
    assert seen == [{"a", "b"}] * 2


def test_a_resume_that_nobody_awaits_takes_nothing(folder: str) -> None:
    @flow
    async def runs(folder: str) -> int:
        stop(folder)
        return 1

    with pytest.raises(Stopped):
        asyncio.run(runs(folder))
    mark(folder, "go")
    runs.resume(newest_run()).close()

    async def resumes() -> int:
        return await runs.resume(newest_run())

    assert asyncio.run(resumes()) == 1


def test_generator_flows_give_all_items_at_once(folder: str) -> None:
    @flow
    def runs(folder: str) -> Iterator[int]:
        yield double.submit(folder, 1).result()
        stop(folder)
        yield double.submit(folder, 2).result()

    @flow
    async def runs_async(folder: str) -> AsyncIterator[int]:
        yield await triple.submit(folder, 1)
        stop(folder, "later")
        yield await triple.submit(folder, 2)

    with pytest.raises(Stopped):
        list(runs(folder))
    mark(folder, "go")
    assert runs.resume(newest_run()) == [2, 4]

    async def all_items() -> list[int]:
        return [each async for each in runs_async(folder)]

    with pytest.raises(Stopped):
        asyncio.run(all_items())
    mark(folder, "later")

    async def resumes() -> list[int]:
        return await runs_async.resume(newest_run())

    assert asyncio.run(resumes()) == [3, 6]
    assert noted(folder) == {"double 1": 1, "double 2": 1, "triple 1": 1, "triple 2": 1}


@pytest.mark.usefixtures("small_limit")
@pytest.mark.parametrize("ask", ["done", "state", "list"])
def test_who_asks_again_and_again_for_what_was_not_kept_comes_to_an_end(
    ask: str, folder: str
) -> None:
    @flow
    def runs(folder: str) -> int:
        data = big.submit(folder, 1)
        many = big.map(unmapped(folder), [2, 3])
        if not is_marked(folder, "go"):
            data.wait()
            many.wait()
        stop(folder)
        asks: dict[str, Any] = {
            "done": data.done,
            "state": data.state.is_completed,
            "list": lambda: data.done() and many.done(),
        }
        while not asks[ask]():
            time.sleep(0.001)
            asks["state"] = data.state.is_completed
        return len(data.state.result())

    run_id = interrupted(runs, folder)
    assert runs.resume(run_id) == 1000


def test_parameters_that_a_resume_was_given_hold_for_the_next(folder: str) -> None:
    @flow
    def runs(folder: str, size: int) -> int:
        double.submit(folder, size).wait()
        stop(folder)
        return size

    with pytest.raises(Stopped):
        runs(folder, 1)
    run_id = newest_run()
    with pytest.raises(Stopped):
        runs.resume(run_id, parameters={"size": 2})
    assert only("SELECT parameters_preview FROM flow_run").endswith('"size": "2"}')
    mark(folder, "go")
    assert runs.resume(run_id) == 2


def test_a_subflow_whose_body_has_changed_runs_again_once(folder: str) -> None:
    @flow
    def before(folder: str) -> int:
        note(folder, "before")
        return double.submit(folder, 1).result()

    @flow
    def after(folder: str) -> int:
        note(folder, "after")
        return double.submit(folder, 1).result() + 1

    after.key = before.key

    @flow
    def runs(folder: str) -> int:
        found = after(folder) if is_marked(folder, "changed") else before(folder)
        stop(folder)
        return found

    with pytest.raises(Stopped):
        runs(folder)
    run_id = newest_run()
    mark(folder, "changed")
    with pytest.raises(Stopped):
        runs.resume(run_id)
    mark(folder, "go")
    assert runs.resume(run_id) == 3
    assert noted(folder) == {"before": 1, "double 1": 1, "after": 1}
