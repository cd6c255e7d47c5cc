"""What every task runner does alike: one behaviour a test, once for each runner.

Tasks stand at module level, so that a child process can import them, and leave their traces in
files, so that it does not matter where they ran.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pydantic import BaseModel

from anabranch import (
    CancelledRun,
    CrashedRun,
    FailedRun,
    UpstreamTaskError,
    allow_failure,
    as_completed,
    flow,
    get_run_logger,
    quote,
    runtime,
    tags,
    task,
    unmapped,
    wait,
)
from anabranch.errors import RunTimedOut, UnsupportedOptionError
from anabranch.futures import FutureList, TaskFuture
from anabranch.states import Completed, Failed
from anabranch.task_runners import AsyncioTaskRunner, ThreadPoolTaskRunner

RUNNERS = ["inline", "threads", "asyncio", "processes"]
PRIORITIES = {"threads", "asyncio", "processes"}

FOREVER = 3600.0


@pytest.fixture(params=RUNNERS)
def runner(request: pytest.FixtureRequest) -> str:
    return request.param


def in_flow(runner: Any, body: Any, **options: Any) -> Any:
    """Run `body` as a flow on this runner."""
    return flow(task_runner=runner, name=body.__name__, **options)(body)()


def note(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text + "\n")


def notes(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


# -- the tasks ------------------------------------------------------------------------------------


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


@pytest.fixture(autouse=True)
def gates():
    GATE.clear()
    ENDLESS.clear()
    yield
    open_gates()


def open_gates() -> None:
    """Let go what still waits, so that no thread is left behind."""
    GATE.set()
    for loop, event in ENDLESS:
        if not loop.is_closed():
            loop.call_soon_threadsafe(event.set)


# -- results --------------------------------------------------------------------------------------


def test_submit_gives_a_future_with_the_result(runner: str) -> None:
    def body() -> list[Any]:
        future = inc.submit(1)
        assert isinstance(future, TaskFuture)
        return [future.result(), future.done(), future.state.name, future.exception()]

    assert in_flow(runner, body) == [2, True, "Completed", None]


def test_submit_takes_keywords_and_defaults(runner: str) -> None:
    def body() -> list[int]:
        return [add.submit(1).result(), add.submit(1, y=2).result(), add.submit(x=3, y=4).result()]

    assert in_flow(runner, body) == [11, 3, 7]


def test_direct_call_gives_the_value(runner: str) -> None:
    def body() -> list[Any]:
        state = inc(2, return_state=True)
        return [inc(1), state.name, state.result()]

    assert in_flow(runner, body) == [2, "Completed", 3]


def test_map_keeps_the_order(runner: str) -> None:
    def body() -> list[int]:
        futures = inc.map(range(20))
        assert isinstance(futures, FutureList)
        assert len(futures) == 20
        assert futures[3].result() == 4
        assert futures[1:3].result() == [2, 3]
        return futures.result()

    assert in_flow(runner, body) == list(range(1, 21))


def test_map_of_several_arguments(runner: str) -> None:
    def body() -> list[Any]:
        return [
            add.map([1, 2], [10, 20]).result(),
            add.map([1, 2], 5).result(),
            add.map([1, 2], y=[7, 8]).result(),
            add.map([1, 2]).result(),
            add.map(x=(n for n in (1, 2)), y=1).result(),
            add.map({3}, y=1).result(),
        ]

    assert in_flow(runner, body) == [[11, 22], [6, 7], [8, 10], [11, 12], [2, 3], [4]]


def test_text_and_mappings_are_not_mapped_over(runner: str) -> None:
    def body() -> list[Any]:
        return add.map(["a", "b"], "xyz").result() + kind_of.map([{"k": 1}, {"k": 2}]).result()

    assert in_flow(runner, body) == ["axyz", "bxyz", "dict", "dict"]


def test_async_tasks(runner: str) -> None:
    def body() -> list[Any]:
        return [inc_async.submit(1).result(), inc_async.map([1, 2, 3]).result()]

    assert in_flow(runner, body) == [2, [2, 3, 4]]


def test_generators_submitted_give_lists(runner: str) -> None:
    def body() -> list[Any]:
        return [
            three.submit(1).result(),
            three_async.submit(1).result(),
            three.map([0, 10]).result(),
        ]

    assert in_flow(runner, body) == [[1, 2, 3], [1, 2, 3], [[0, 1, 2], [10, 11, 12]]]


def test_tasks_from_an_async_flow(runner: str) -> None:
    @flow(task_runner=runner)
    async def census() -> list[Any]:
        first = inc_async.submit(1)
        second = inc.submit(first)
        mapped = inc_async.map([1, 2])
        return [await first, await second, await mapped, await inc_async(5)]

    assert asyncio.run(census()) == [2, 3, [2, 3], 6]


# -- futures in arguments -------------------------------------------------------------------------


def test_futures_nested_in_arguments(runner: str) -> None:
    def body() -> list[Any]:
        one = inc.submit(0)
        return [
            same.submit([one, [one, (one,)]]).result(),
            same.submit({"a": one, "b": {"c": [one]}}).result(),
            same.submit({one: 1}).result(),
            same.submit({one}).result(),
            same.submit(value=[one]).result(),
            same.submit(Pair(one, 2)).result(),
            same.submit(Box([one])).result(),
            same.submit(Model(item=one)).result(),
            same.submit(Model(item={"deep": Box(Pair(one, one))})).result(),
        ]

    assert in_flow(runner, body) == [
        [1, [1, (1,)]],
        {"a": 1, "b": {"c": [1]}},
        {1: 1},
        {1},
        [1],
        Pair(1, 2),
        Box([1]),
        Model(item=1),
        Model(item={"deep": Box(Pair(1, 1))}),
    ]


def test_chain_of_futures(runner: str) -> None:
    def body() -> int:
        return inc.submit(inc.submit(inc.submit(0))).result()

    assert in_flow(runner, body) == 3


def test_list_of_a_map_as_an_argument(runner: str) -> None:
    def body() -> int:
        return total.submit(inc.map(range(5))).result()

    assert in_flow(runner, body) == 15


def test_futures_given_to_a_direct_call(runner: str) -> None:
    def body() -> list[int]:
        return [inc(inc.submit(0)), total([inc.submit(0), inc.submit(1)])]

    assert in_flow(runner, body) == [2, 3]


def test_wait_for_orders_runs(runner: str, tmp_path: Path) -> None:
    path = tmp_path / "order"

    def body() -> None:
        first = noted.submit(path, "first")
        second = noted.submit(path, "second", wait_for=[first])
        noted.submit(path, "third", wait_for=[first, second]).result()

    in_flow(runner, body)
    assert notes(path) == ["first", "second", "third"]


def test_wait_for_of_a_map(runner: str, tmp_path: Path) -> None:
    path = tmp_path / "order"

    def body() -> None:
        first = noted.submit(path, "first")
        noted.map(unmapped(path), ["a", "b"], wait_for=[first]).wait()

    in_flow(runner, body)
    assert notes(path)[0] == "first"
    assert sorted(notes(path)[1:]) == ["a", "b"]


def test_wait_for_a_failure_stops_the_dependent(runner: str, tmp_path: Path) -> None:
    path = tmp_path / "ran"

    def body() -> str:
        return noted.submit(path, "ran", wait_for=[broken.submit()], return_state=True).name

    assert in_flow(runner, body) == "NotReady"
    assert notes(path) == []


def test_unmapped(runner: str) -> None:
    def body() -> list[Any]:
        return total.map(unmapped([1, 2])).result() if False else same_pairs()

    def same_pairs() -> list[Any]:
        return pair.map([1, 2], unmapped([8, 9])).result()

    assert in_flow(runner, body) == [(1, [8, 9]), (2, [8, 9])]


@task
def pair(left: Any, right: Any) -> tuple[Any, Any]:
    return left, right


def test_unmapped_future(runner: str) -> None:
    def body() -> list[Any]:
        return pair.map([1, 2], unmapped(numbers.submit(2))).result()

    assert in_flow(runner, body) == [(1, [0, 1]), (2, [0, 1])]


def test_allow_failure_hands_the_exception_over(runner: str) -> None:
    def body() -> list[str]:
        failed = broken.submit()
        fine = inc.submit(1)
        return [
            kind_of.submit(allow_failure(failed)).result(),
            kind_of.submit(allow_failure(fine)).result(),
            kind_of.map(allow_failure([failed, fine])).result(),
            noted_kind.submit(wait_for=[allow_failure(failed)]).result(),
        ]

    assert in_flow(runner, body) == ["Broken", "int", ["Broken", "int"], "ran"]


@task
def noted_kind() -> str:
    return "ran"


def test_quote_is_not_searched(runner: str) -> None:
    plain = [1, [2, {"three": 3}]]

    def body() -> Any:
        return same.submit(quote(plain)).result()

    assert in_flow(runner, body) == plain


def test_quoted_future_stays_a_future() -> None:
    def body() -> str:
        return kind_of.submit(quote(inc.submit(1))).result()

    assert in_flow("threads", body) == "TaskFuture"


# -- maps over futures ----------------------------------------------------------------------------


def test_map_over_futures_links_child_by_child(runner: str) -> None:
    def body() -> list[Any]:
        first = broken_if.map(range(4), bad=2)
        second = inc.map(first)
        return [state.name for state in _settled(second)]

    assert in_flow(runner, body) == ["Completed", "Completed", "NotReady", "Completed"]


def _settled(futures: FutureList[Any]) -> list[Any]:
    futures.wait()
    return futures.states()


def test_map_over_a_single_future_is_deferred(runner: str) -> None:
    def body() -> list[Any]:
        futures = inc.map(numbers.submit(4))
        return [futures.result(), len(futures), [f.result() for f in futures]]

    assert in_flow(runner, body) == [[1, 2, 3, 4], 4, [1, 2, 3, 4]]


def test_map_over_a_future_does_not_block() -> None:
    def body() -> list[int]:
        gated = waits_at_gate.submit()
        futures = inc.map(numbers.submit(3, wait_for=[gated]))
        assert not futures.is_known()
        assert not futures.done()
        open_gates()
        return futures.result()

    assert in_flow("threads", body) == [1, 2, 3]


def test_map_over_a_map_over_a_future(runner: str) -> None:
    def body() -> list[Any]:
        first = inc.map(numbers.submit(3))
        second = inc.map(first)
        return [second.result(), total.submit(second).result()]

    assert in_flow(runner, body) == [[2, 3, 4], 9]


def test_map_over_a_failed_future(runner: str) -> None:
    def body() -> str:
        futures = inc.map(broken.submit())
        with pytest.raises((Broken, UpstreamTaskError)) as caught:
            futures.result()
        return type(caught.value).__name__

    assert in_flow(runner, body) in ("UpstreamTaskError", "Broken")


def test_map_over_a_future_of_something_else_names_the_trouble(runner: str) -> None:
    def body() -> None:
        with pytest.raises(ValueError, match=r"inc\.map\(\) found nothing to map over \(x: int\)"):
            inc.map(inc.submit(1)).result()

    in_flow(runner, body)


def test_empty_map(runner: str) -> None:
    def body() -> list[Any]:
        futures = inc.map([])
        assert futures.done()
        return [
            len(futures),
            futures.result(),
            futures.states(),
            inc.map(numbers.submit(0)).result(),
        ]

    assert in_flow(runner, body) == [0, [], [], []]


# -- failures -------------------------------------------------------------------------------------


def test_failure_raises_the_tasks_own_exception(runner: str) -> None:
    def body() -> list[Any]:
        future = broken.submit("what went wrong")
        with pytest.raises(Broken, match="what went wrong"):
            future.result()
        error = future.result(raise_on_failure=False)
        assert isinstance(error, Broken)
        assert isinstance(future.exception(), Broken)
        state = future.state
        assert state.is_failed() and "what went wrong" in str(state.message)
        with pytest.raises(Broken):
            state.result()
        return [state.type.value, state.name, state.is_final()]

    assert in_flow(runner, body) == ["FAILED", "Failed", True]


def test_traceback_starts_in_the_users_function(runner: str) -> None:
    def body() -> str:
        error = broken.submit().exception()
        assert error is not None
        told = error.__traceback__
        names = []
        while told is not None:
            names.append(told.tb_frame.f_code.co_name)
            told = told.tb_next
        return names[0]

    assert in_flow(runner, body) == "broken"


def test_dependents_of_a_failure_are_not_ready(runner: str, tmp_path: Path) -> None:
    path = tmp_path / "ran"

    def body() -> list[Any]:
        failed = broken.submit()
        dependent = noted.submit(path, "ran", after=failed)
        further = noted.submit(path, "ran", after=[dependent])
        with pytest.raises(UpstreamTaskError, match="'broken-0', which ended as Failed") as caught:
            dependent.result()
        assert isinstance(caught.value.__cause__, Broken)
        with pytest.raises(UpstreamTaskError, match="NotReady"):
            further.result()
        state = dependent.state
        return [dependent.done(), state.type.value, state.name, state.is_final(), further.done()]

    assert in_flow(runner, body) == [True, "PENDING", "NotReady", False, True]
    assert notes(path) == []


def test_map_with_failures_says_which(runner: str) -> None:
    def body() -> list[Any]:
        futures = broken_if.map(range(4), bad=1)
        results = futures.result(raise_on_failure=False)
        with pytest.raises(Broken, match="1 is bad"):
            futures.result()
        return [type(each).__name__ for each in results]

    assert in_flow(runner, body) == ["int", "Broken", "int", "int"]


def test_system_exit_in_a_task_is_a_crash(runner: str) -> None:
    def body() -> list[Any]:
        future = exits.submit()
        future.wait()
        assert isinstance(future.exception(), SystemExit | CrashedRun)
        assert inc.submit(1).result() == 2  # the worker lives on
        return [future.state.type.value, "SystemExit" in str(future.state.message)]

    assert in_flow(runner, body) == ["CRASHED", True]


def test_bare_base_exception_in_a_task(runner: str) -> None:
    def body() -> str:
        future = interrupts.submit()
        future.wait()
        assert inc.submit(1).result() == 2
        return future.state.type.value

    assert in_flow(runner, body) in ("CRASHED", "FAILED")


def test_unbounded_recursion_in_a_task(runner: str) -> None:
    def body() -> str:
        future = recurses.submit()
        assert isinstance(future.exception(), RecursionError)
        return future.state.name

    assert in_flow(runner, body) == "Failed"


# -- retries --------------------------------------------------------------------------------------


def test_retries_until_it_works(runner: str, tmp_path: Path) -> None:
    path = tmp_path / "attempts"
    patient = fails_until.with_options(retries=3)

    def body() -> list[Any]:
        future = patient.submit(path, 3)
        return [future.result(), future.state.name, future.task_run.run_count]

    assert in_flow(runner, body) == [3, "Completed", 3]
    assert len(notes(path)) == 3


def test_retries_used_up(runner: str, tmp_path: Path) -> None:
    path = tmp_path / "attempts"
    patient = fails_until.with_options(retries=2, retry_delay_seconds=[0, 0.01])

    def body() -> None:
        with pytest.raises(Broken, match="attempt 3"):
            patient.submit(path, 99).result()

    in_flow(runner, body)
    assert len(notes(path)) == 3


def test_retries_of_async_tasks(runner: str, tmp_path: Path) -> None:
    path = tmp_path / "attempts"
    patient = fails_until_async.with_options(retries=3, retry_delay_seconds=0.01)

    def body() -> int:
        return patient.submit(path, 3).result()

    assert in_flow(runner, body) == 3


def test_retries_of_a_direct_call(runner: str, tmp_path: Path) -> None:
    path = tmp_path / "attempts"
    patient = fails_until.with_options(retries=3, retry_delay_seconds=0.01)

    def body() -> int:
        return patient(path, 3)

    assert in_flow(runner, body) == 3


def test_retry_delay_is_kept(runner: str, tmp_path: Path) -> None:
    patient = fails_until.with_options(retries=1, retry_delay_seconds=0.15)

    def body() -> float:
        began = time.monotonic()
        patient.submit(tmp_path / "attempts", 2).result()
        return time.monotonic() - began

    assert in_flow(runner, body) >= 0.15


def test_waiting_retry_holds_no_worker(tmp_path: Path) -> None:
    impatient = fails_until.with_options(retries=1, retry_delay_seconds=FOREVER)

    def body() -> int:
        future = impatient.submit(tmp_path / "attempts", 99)
        result = inc.submit(1).result(timeout=30)
        future.cancel()
        return result

    assert in_flow("threads?max_workers=1", body) == 2


def test_retry_condition_says_no(runner: str, tmp_path: Path) -> None:
    path = tmp_path / "attempts"
    asked: list[tuple[str, str, str]] = []

    def condition(its_task: Any, run: Any, state: Any) -> bool:
        asked.append((its_task.name, run.task_name, state.name))
        return "attempt 1" in state.message

    choosy = fails_until.with_options(retries=5, retry_condition_fn=condition)

    def body() -> None:
        with pytest.raises(Broken, match="attempt 2"):
            choosy.submit(path, 99).result()

    in_flow(runner, body)
    assert len(notes(path)) == 2
    assert asked == [("fails_until", "fails_until", "Failed")] * 2


def test_retry_condition_that_raises_means_no(runner: str, tmp_path: Path) -> None:
    path = tmp_path / "attempts"

    def condition(its_task: Any, run: Any, state: Any) -> bool:
        raise ValueError("I cannot say")

    choosy = fails_until.with_options(retries=5, retry_condition_fn=condition)

    def body() -> None:
        with pytest.raises(Broken, match="attempt 1"):
            choosy.submit(path, 99).result()

    in_flow(runner, body)
    assert len(notes(path)) == 1


# -- timeouts and cancellation --------------------------------------------------------------------


def test_timeout_of_an_async_task(runner: str) -> None:
    hasty = endless.with_options(timeout_seconds=0.1)

    def body() -> list[Any]:
        future = hasty.submit()
        with pytest.raises(RunTimedOut, match=r"'endless-0' passed its timeout of 0\.1 seconds"):
            future.result(timeout=30)
        open_gates()
        return [future.state.type.value, future.state.name]

    assert in_flow(runner, body) == ["FAILED", "TimedOut"]


def test_timeout_of_a_sync_task(runner: str) -> None:
    hasty = waits_at_gate.with_options(timeout_seconds=0.1)

    def body() -> list[Any]:
        future = hasty.submit()
        assert isinstance(future.exception(timeout=30), RunTimedOut)
        told = [future.state.type.value, future.state.name]
        open_gates()
        return [*told, inc.submit(1).result()]

    assert in_flow(runner, body) == ["FAILED", "TimedOut", 2]


def test_timeout_is_tried_again(runner: str) -> None:
    hasty = waits_at_gate.with_options(timeout_seconds=0.05, retries=1)

    def body() -> list[Any]:
        future = hasty.submit()
        assert isinstance(future.exception(timeout=30), RunTimedOut)
        open_gates()
        return [future.task_run.run_count]

    assert in_flow(runner, body) == [2]


def test_result_of_what_goes_on_times_out(runner: str, tmp_path: Path) -> None:
    impatient = fails_until.with_options(retries=1, retry_delay_seconds=FOREVER)

    def body() -> list[Any]:
        future = impatient.submit(tmp_path / "attempts", 99)
        with pytest.raises(
            TimeoutError, match=r"'fails_until-0' has not ended after 0\.05 seconds"
        ):
            future.result(timeout=0.05)
        told = [future.wait(0.01), future.done()]
        done, not_done = wait([future, inc.submit(1)], return_when="FIRST_COMPLETED")
        told += [len(done), len(not_done)]
        future.cancel()
        return told

    assert in_flow(runner, body) == [False, False, 1, 1]


def test_cancel_of_a_waiting_retry(runner: str, tmp_path: Path) -> None:
    impatient = fails_until.with_options(retries=1, retry_delay_seconds=FOREVER)

    def body() -> list[Any]:
        future = impatient.submit(tmp_path / "attempts", 99)
        dependent = inc.submit(future)
        assert future.cancel()
        with pytest.raises(CancelledRun, match="fails_until-0"):
            future.result(timeout=30)
        with pytest.raises(UpstreamTaskError, match="Cancelled"):
            dependent.result(timeout=30)
        return [future.state.name, future.cancelled(), dependent.state.name, future.cancel()]

    assert in_flow(runner, body) == ["Cancelled", True, "NotReady", False]


def test_cancel_of_a_running_async_task() -> None:
    def body() -> list[Any]:
        future = endless.submit()
        assert future.cancel()
        future.wait(30)
        return [future.state.name, future.cancelled()]

    assert in_flow("asyncio", body) == ["Cancelled", True]


def test_cancel_of_a_running_thread() -> None:
    began = threading.Event()
    gate = threading.Event()

    @task
    def work() -> str:
        began.set()
        gate.wait(30)
        return "dropped"

    def body() -> list[Any]:
        future = work.submit()
        assert began.wait(30)
        assert future.state.name == "Running"
        assert future.cancel()
        told = [future.state.name]
        gate.set()
        with pytest.raises(CancelledRun):
            future.result(timeout=30)
        return [*told, future.state.name]

    assert in_flow("threads", body) == ["Cancelling", "Cancelled"]


def test_cancel_of_a_queued_call() -> None:
    def body() -> list[Any]:
        first = waits_at_gate.submit()
        queued = inc.map(range(5))
        count = queued.cancel()
        states = [state.name for state in _settled(queued)]
        open_gates()
        return [count, set(states), first.result()]

    assert in_flow("threads?max_workers=1", body) == [5, {"Cancelled"}, "through"]


# -- states, names, tags, records -----------------------------------------------------------------


def test_task_returning_a_state(runner: str) -> None:
    def body() -> list[Any]:
        completed = returns_state.submit("completed", return_state=True)
        named = returns_state.submit("named")
        failed = returns_state.submit("failed")
        with pytest.raises(FailedRun, match="not today"):
            failed.result()
        return [
            (completed.name, completed.message, completed.result()),
            (named.result(), named.state.name),
            (failed.state.name, failed.state.message),
        ]

    assert in_flow(runner, body) == [
        ("Completed", "as asked", 7),
        (8, "Cached"),
        ("Failed", "not today"),
    ]


def test_return_state_of_submit_and_map(runner: str) -> None:
    def body() -> list[str]:
        states = broken_if.map(range(2), bad=1, return_state=True)
        return [inc.submit(1, return_state=True).name, *[state.name for state in states]]

    assert in_flow(runner, body) == ["Completed", "Completed", "Failed"]


def test_names(runner: str) -> None:
    renamed = inc.with_options(name="more", task_run_name="inc-of-{x}")

    def body() -> list[str]:
        return [
            inc.submit(1).name,
            inc.submit(1).name,
            *[future.name for future in _waited(renamed.map([5, 6]))],
            about_run.with_options(task_run_name="told").submit().result()["name"],
        ]

    assert in_flow(runner, body) == ["inc-0", "inc-1", "inc-of-5", "inc-of-6", "told"]


def _waited(futures: Any) -> Any:
    futures.wait()
    return futures


def test_ids_are_unique_and_the_same_inside(runner: str) -> None:
    def body() -> bool:
        futures = [about_run.submit() for _ in range(10)]
        inside = [future.result()["id"] for future in futures]
        assert inside == [future.task_run_id for future in futures]
        return len(set(inside)) == 10

    assert in_flow(runner, body)


def test_runtime_inside_tasks(runner: str) -> None:
    def body() -> list[Any]:
        told = about_run.submit().result()
        assert told["flow_run_id"] == runtime.flow_run.id
        return [
            told["name"],
            told["task_name"],
            told["run_count"],
            told["flow_name"],
            about_parameters.submit(1).result(),
        ]

    assert in_flow(runner, body) == ["about_run-0", "about_run", 1, "body", {"x": 1, "y": 5}]


def test_tags(runner: str) -> None:
    tagged = about_run.with_options(tags=["own"])

    def body() -> list[Any]:
        with tags("outer", "more"):
            inside = tagged.submit()
            mapped = tagged.map([]) if False else None
        outside = tagged.submit()
        assert mapped is None
        return [inside.result()["tags"], outside.result()["tags"], sorted(inside.task_run.tags)]

    assert in_flow(runner, body) == [["more", "outer", "own"], ["own"], ["more", "outer", "own"]]


def test_map_children_know_their_map(runner: str) -> None:
    def body() -> list[Any]:
        runs = [future.task_run for future in inc.map(range(3))]
        single = inc.submit(1).task_run
        assert len({run.map_id for run in runs}) == 1 and runs[0].map_id
        return [[run.map_index for run in runs], single.map_id, single.map_index]

    assert in_flow(runner, body) == [[0, 1, 2], None, None]


# -- logs and hooks -------------------------------------------------------------------------------


def test_logger_lines_name_their_run(runner: str, caplog: pytest.LogCaptureFixture) -> None:
    def body() -> None:
        get_run_logger().info("the flow speaks")
        logs.submit(7).result()

    with caplog.at_level(logging.INFO, "anabranch"):
        in_flow(runner, body, flow_run_name="tuesday")
    lines = {record.getMessage() for record in caplog.records}
    assert "tuesday | the flow speaks" in lines
    assert "tuesday/logs-0 | working on 7" in lines
    record = next(each for each in caplog.records if "working on" in each.getMessage())
    assert record.task_run_name == "logs-0"  # type: ignore[attr-defined]
    assert record.flow_run_name == "tuesday"  # type: ignore[attr-defined]


def test_log_prints(
    runner: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet = prints.with_options(log_prints=False)

    def body() -> None:
        prints.submit(1).result()
        quiet.submit(2).result()

    with caplog.at_level(logging.INFO, "anabranch"):
        in_flow(runner, body, flow_run_name="tuesday")
    lines = [record.getMessage() for record in caplog.records]
    assert "tuesday/prints-0 | printed:1" in lines
    assert not any("printed:2" in line for line in lines)
    printed = capsys.readouterr().out
    assert "printed:1" not in printed


def test_log_prints_of_the_flow_goes_for_its_tasks(
    runner: str, caplog: pytest.LogCaptureFixture
) -> None:
    plain = prints.with_options(log_prints=None)

    def body() -> None:
        print("from the flow")
        plain.submit(1).result()

    with caplog.at_level(logging.INFO, "anabranch"):
        in_flow(runner, body, flow_run_name="tuesday", log_prints=True)
    lines = [record.getMessage() for record in caplog.records]
    assert "tuesday | from the flow" in lines
    assert "tuesday/prints-0 | printed:1" in lines


def test_hooks_are_called(runner: str) -> None:
    told: list[tuple[str, str, str, str]] = []

    def hook(what: str) -> Any:
        return lambda its_task, run, state: told.append((what, its_task.name, run.name, state.name))

    hooked = broken_if.with_options(
        on_running=[hook("running")],
        on_completion=[hook("completion"), hook("again")],
        on_failure=[hook("failure")],
    )

    def body() -> None:
        hooked.submit(1, 1).wait()
        hooked.submit(0, 1).wait()

    in_flow(runner, body)
    name = "broken_if"
    assert sorted(told) == sorted(
        [
            ("running", name, "broken_if-0", "Running"),
            ("failure", name, "broken_if-0", "Failed"),
            ("running", name, "broken_if-1", "Running"),
            ("completion", name, "broken_if-1", "Completed"),
            ("again", name, "broken_if-1", "Completed"),
        ]
    )


def test_hook_that_raises_changes_nothing(runner: str, caplog: pytest.LogCaptureFixture) -> None:
    def bad_hook(its_task: Any, run: Any, state: Any) -> None:
        raise ValueError("a bad hook")

    hooked = inc.with_options(on_completion=[bad_hook])

    def body() -> int:
        return hooked.submit(1).result()

    assert in_flow(runner, body) == 2
    assert "a bad hook" in caplog.text
    assert "on_completion hook of task 'inc'" in caplog.text


def test_done_callbacks(runner: str, caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []

    def raising(future: TaskFuture[Any]) -> None:
        raise ValueError("a bad callback")

    def body() -> None:
        future = inc.submit(1)
        future.add_done_callback(raising)
        future.add_done_callback(lambda its: told.append(f"{its.name} {its.state.name}"))
        future.wait()

    in_flow(runner, body)
    assert told == ["inc-0 Completed"]
    assert "a bad callback" in caplog.text


# -- priority and resources -----------------------------------------------------------------------


def test_priority_is_taken_or_refused(runner: str) -> None:
    urgent = inc.with_options(priority=5)

    def body() -> Any:
        if runner.split("?")[0] in PRIORITIES:
            return urgent.submit(1).result()
        with pytest.raises(UnsupportedOptionError, match=f"'inc' asks for priority=5.*{runner}"):
            urgent.submit(1)
        with pytest.raises(UnsupportedOptionError):
            urgent.map([1, 2])
        return 2

    assert in_flow(runner, body) == 2


def test_resources_that_the_runner_does_not_have(runner: str) -> None:
    heavy = inc.with_options(resources={"gpu": 1})

    def body() -> None:
        with pytest.raises(UnsupportedOptionError, match="1 of resource 'gpu'.*" + runner):
            heavy.submit(1)

    in_flow(runner, body)


@pytest.mark.parametrize(
    "made",
    [
        ThreadPoolTaskRunner(max_workers=8, resources={"gpu": 2}),
        AsyncioTaskRunner(max_concurrency=8, resources={"gpu": 2}),
    ],
    ids=["threads", "asyncio"],
)
def test_counted_resources_are_a_limit(made: Any) -> None:
    at_once, most = [0], [0]
    lock = threading.Lock()
    # Two meet at the barrier, so two do run side by side; a third would be counted.
    barrier = threading.Barrier(2)

    @task(resources={"gpu": 1})
    def on_gpu(n: int) -> int:
        with lock:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
        barrier.wait(30)
        with lock:
            at_once[0] -= 1
        return n

    def body() -> list[int]:
        return on_gpu.map(range(10)).result()

    assert in_flow(made, body) == list(range(10))
    assert most[0] == 2


def test_higher_priority_goes_first() -> None:
    order: list[str] = []
    began = threading.Event()
    gate = threading.Event()

    @task
    def holds() -> None:
        began.set()
        gate.wait(30)

    @task
    def step(name: str) -> None:
        order.append(name)

    urgent = step.with_options(priority=3)

    def body() -> None:
        holds.submit()
        assert began.wait(30)
        step.submit("first plain")
        step.submit("second plain")
        urgent.submit("urgent")
        gate.set()

    in_flow("threads?max_workers=1", body)
    assert order == ["urgent", "first plain", "second plain"]


# -- many, and deep -------------------------------------------------------------------------------


def test_map_of_a_thousand(runner: str) -> None:
    def body() -> int:
        return sum(inc.map(range(1_000)).result())

    assert in_flow(runner, body) == sum(range(1, 1_001))


def test_async_map_of_a_thousand(runner: str) -> None:
    def body() -> int:
        return sum(inc_async.map(range(1_000)).result())

    assert in_flow(runner, body) == sum(range(1, 1_001))


def test_chain_of_two_thousand(runner: str) -> None:
    def body() -> int:
        future: Any = 0
        for _ in range(2_000):
            future = inc.submit(future)
        return future.result()

    assert in_flow(runner, body) == 2_000


def test_failure_at_the_head_of_a_long_chain() -> None:
    def body() -> str:
        future: Any = waits_then_breaks.submit()
        for _ in range(2_000):
            future = inc.submit(future)
        open_gates()
        future.wait()
        return future.state.name

    assert in_flow("threads", body) == "NotReady"


@task
def waits_then_breaks() -> None:
    GATE.wait(30)
    raise Broken("after all")


def test_fan_in_of_two_hundred(runner: str, tmp_path: Path) -> None:
    path = tmp_path / "ran"

    def body() -> list[Any]:
        many = [noted.submit(path, str(n)) for n in range(200)]
        return [
            after.submit(path, wait_for=many).result(),
            total.submit(inc.map(range(200))).result(),
        ]

    assert in_flow(runner, body) == [200, sum(range(1, 201))]


@task
def after(path: Path) -> int:
    return len(notes(path))


@pytest.mark.parametrize("where", [*RUNNERS, "threads?max_workers=2"])
def test_nested_submits_thirty_deep(where: str) -> None:
    def body() -> int:
        return nested.submit(30).result()

    assert in_flow(where, body) == 30


@pytest.mark.parametrize("where", [*RUNNERS, "threads?max_workers=2"])
def test_maps_inside_of_mapped_tasks(where: str) -> None:
    def body() -> list[int]:
        return maps_inside.map([3] * 8).result()

    assert in_flow(where, body) == [6] * 8


def test_as_completed_gives_all(runner: str) -> None:
    def body() -> list[int]:
        return sorted(future.result() for future in as_completed(inc.map(range(10))))

    assert in_flow(runner, body) == list(range(1, 11))


def test_async_as_completed_gives_all(runner: str) -> None:
    @flow(task_runner=runner)
    async def census() -> list[int]:
        return sorted([await future async for future in as_completed(inc_async.map(range(10)))])

    assert asyncio.run(census()) == list(range(1, 11))


def test_children_are_joined_before_the_flow_ends(runner: str, tmp_path: Path) -> None:
    path = tmp_path / "ran"

    def body() -> str:
        noted.map(unmapped(path), [str(n) for n in range(20)])
        return "done"

    assert in_flow(runner, body) == "done"
    assert len(notes(path)) == 20
