"""Bad input: each error names what was wrong, where, and loses nothing else."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from anabranch import flow, quote, task, unmapped
from anabranch.errors import (
    AnabranchError,
    ForeignFutureError,
    FutureCycleError,
    MappingLengthMismatch,
    MappingMissingIterable,
    MissingContextError,
    MissingFlowError,
    NameTemplateError,
    NestingTooDeepError,
    OptionError,
    ParameterBindError,
    ParameterTypeError,
    SettingError,
    TaskRunnerOptionError,
    UnknownTaskRunnerError,
    WouldDeadlockError,
)
from anabranch.futures import TaskFuture
from anabranch.logging import get_run_logger
from anabranch.task_runners import AsyncioTaskRunner, ThreadPoolTaskRunner


@task
def inc(x: int) -> int:
    return x + 1


@task
def add(x: Any, y: Any = 1) -> Any:
    return x + y


@task
def same(value: Any) -> Any:
    return value


@task
async def inc_async(x: int) -> int:
    return x + 1


def in_flow(body: Any, runner: str = "threads") -> Any:
    return flow(task_runner=runner, name="census")(body)()


# -- maps -----------------------------------------------------------------------------------------


def test_lengths_that_differ() -> None:
    ran: list[int] = []

    @task
    def noted(x: int, y: int) -> None:
        ran.append(x)

    def body() -> None:
        with pytest.raises(MappingLengthMismatch) as caught:
            noted.map([1, 2, 3], y=[1, 2])
        text = str(caught.value)
        assert "noted.map()" in text
        assert "x has 3" in text and "y has 2" in text
        assert "unmapped" in text

    in_flow(body)
    assert ran == []


def test_nothing_to_map_over() -> None:
    def body() -> None:
        with pytest.raises(MappingMissingIterable) as caught:
            add.map(1, y="text")
        text = str(caught.value)
        assert "add.map()" in text
        assert "x: int" in text and "y: str" in text
        assert "add.submit(...)" in text
        with pytest.raises(MappingMissingIterable, match="x: unmapped"):
            add.map(unmapped([1, 2]))

    in_flow(body)


def test_no_arguments_to_map() -> None:
    @task
    def nothing() -> None: ...

    def body() -> None:
        with pytest.raises(MappingMissingIterable, match=r"nothing\.map\(\).*no arguments"):
            nothing.map()

    in_flow(body)


# -- calls ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["submit", "map"])
def test_submit_and_map_outside_of_a_flow(method: str) -> None:
    with pytest.raises(MissingFlowError) as caught:
        getattr(inc, method)([1])
    text = str(caught.value)
    assert f"inc.{method}()" in text
    assert "@flow" in text
    assert "inc(...)" in text


def test_flow_submit_outside_of_a_flow() -> None:
    @flow
    def census() -> None: ...

    with pytest.raises(MissingFlowError, match=r"census\.submit\(\)"):
        census.submit()


def test_submit_inside_of_a_task_called_on_its_own() -> None:
    @task
    def outer() -> Any:
        return inc.submit(1)

    with pytest.raises(MissingFlowError, match=r"inc\.submit\(\)"):
        outer()


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda: inc.submit(), "missing a required argument: 'x'"),
        (lambda: inc.submit(1, 2), "too many positional arguments"),
        (lambda: inc.submit(1, z=2), "unexpected keyword argument 'z'"),
        (lambda: inc.map([1], z=2), "unexpected keyword argument 'z'"),
        (lambda: inc(), "missing a required argument: 'x'"),
    ],
)
def test_arguments_that_do_not_fit_a_task(call: Any, problem: str) -> None:
    def body() -> None:
        with pytest.raises(ParameterBindError, match=re.escape(problem)) as caught:
            call()
        assert "inc(x: 'int') -> 'int'" in str(caught.value)
        assert isinstance(caught.value, TypeError)

    in_flow(body)


def test_arguments_that_do_not_fit_a_flow() -> None:
    @flow
    def census(count: int) -> None: ...

    with pytest.raises(ParameterBindError, match=r"census\(count.*missing a required argument"):
        census()  # type: ignore[call-arg]


def test_a_parameter_of_the_wrong_type() -> None:
    @flow
    def census(count: int, sizes: list[int]) -> None: ...

    with pytest.raises(ParameterTypeError) as caught:
        census("many", [1, "x"])  # type: ignore[arg-type, list-item]
    text = str(caught.value)
    assert "Flow 'census'" in text
    assert "count: " in text and "'many'" in text
    assert "sizes[1]: " in text and "'x'" in text
    assert "validate_parameters=False" in text


def test_logger_outside_of_any_run() -> None:
    with pytest.raises(MissingContextError, match=r"get_run_logger\(\).*@flow or @task"):
        get_run_logger()


# -- runners --------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["thread", "", "threads://somewhere", "nonsense?x=1", "Threads"])
def test_an_unknown_runner_names_the_known_ones(text: str) -> None:
    with pytest.raises(UnknownTaskRunnerError) as caught:
        flow(task_runner=text)(lambda: None)
    told = str(caught.value)
    assert repr(text) in told
    for known in ("asyncio", "inline", "threads"):
        assert known in told


def test_a_runner_that_is_none_at_all() -> None:
    with pytest.raises(UnknownTaskRunnerError, match="42"):
        flow(task_runner=42)(lambda: None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("threads?max_workers=0", ["threads: max_workers=", "0"]),
        ("threads?max_workers=-2", ["threads: max_workers=", "-2"]),
        ("threads?max_workers=many", ["threads: max_workers=", "many"]),
        ("threads?max_workers=", ["threads: max_workers="]),
        ("threads?max_worker=2", ["threads: max_worker=", "max_workers"]),
        ("asyncio?max_concurrency=0", ["asyncio: max_concurrency=", "0"]),
        ("asyncio?max_workers=1", ["asyncio: max_workers=", "max_concurrency"]),
        ("inline?max_workers=1", ["inline: max_workers=", "no options"]),
    ],
)
def test_a_runner_option_out_of_its_range(text: str, told: list[str]) -> None:
    with pytest.raises(TaskRunnerOptionError) as caught:
        flow(task_runner=text)(lambda: None)
    for part in told:
        assert part in str(caught.value)


def test_runner_classes_check_their_options_too() -> None:
    with pytest.raises(TaskRunnerOptionError, match="threads: max_workers=0"):
        ThreadPoolTaskRunner(max_workers=0)
    with pytest.raises(TaskRunnerOptionError, match=r"threads: max_workers=1\.5"):
        ThreadPoolTaskRunner(max_workers=1.5)  # type: ignore[arg-type]
    with pytest.raises(TaskRunnerOptionError, match="asyncio: max_concurrency=True"):
        AsyncioTaskRunner(max_concurrency=True)
    with pytest.raises(TaskRunnerOptionError, match=r"resources\['gpu'\]=-1"):
        ThreadPoolTaskRunner(resources={"gpu": -1})


def test_a_runner_setting_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANABRANCH_TASK_RUNNER", "nonsense")

    @flow
    def census() -> None: ...

    with pytest.raises(UnknownTaskRunnerError, match=r"'nonsense'.*threads"):
        census()


def test_a_setting_that_is_wrong_says_where_it_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANABRANCH_LOGGING_LEVEL", "chatty")

    @flow
    def census() -> None: ...

    with pytest.raises(SettingError) as caught:
        census()
    for part in ("logging_level", "CHATTY", "ANABRANCH_LOGGING_LEVEL"):
        assert part in str(caught.value)


# -- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"retries": -1}, ["retries=-1"]),
        ({"retries": 1.5}, ["retries=1.5"]),
        ({"retries": True}, ["retries=True"]),
        (
            {"retries": 1, "retry_delay_seconds": [1, 2]},
            ["retry_delay_seconds=[1, 2]", "1 retries"],
        ),
        ({"retries": 2, "retry_delay_seconds": -1}, ["retry_delay_seconds=-1", "0 or more"]),
        ({"retries": 2, "retry_delay_seconds": [1, -1]}, ["retry_delay_seconds=[1, -1]"]),
        ({"retries": 2, "retry_delay_seconds": "soon"}, ["retry_delay_seconds='soon'"]),
        ({"retries": 1, "retry_delay_seconds": float("nan")}, ["retry_delay_seconds=nan"]),
        ({"retries": 1, "retry_jitter_factor": -1}, ["retry_jitter_factor=-1"]),
        ({"retries": 1, "retry_condition_fn": 5}, ["retry_condition_fn=5"]),
        ({"timeout_seconds": 0}, ["timeout_seconds=0"]),
        ({"timeout_seconds": -1}, ["timeout_seconds=-1"]),
        ({"timeout_seconds": "1"}, ["timeout_seconds='1'"]),
    ],
)
@pytest.mark.parametrize("kind", ["Task", "Flow"])
def test_options_out_of_their_range(kind: str, options: dict[str, Any], told: list[str]) -> None:
    def census() -> None: ...

    make: Any = task if kind == "Task" else flow
    with pytest.raises(OptionError) as caught:
        make(**options)(census)
    for part in [f"{kind} 'census'", *told]:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"priority": 1.5}, "priority=1.5"),
        ({"priority": True}, "priority=True"),
        ({"resources": {"gpu": 0}}, "resources['gpu']=0"),
        ({"resources": {"gpu": "one"}}, "resources['gpu']='one'"),
    ],
)
def test_task_options_out_of_their_range(options: dict[str, Any], told: str) -> None:
    with pytest.raises(OptionError, match=re.escape(told)):
        inc.with_options(**options)


def test_name_templates_that_use_what_is_not_there() -> None:
    named = inc.with_options(task_run_name="inc-{y}")

    def body() -> None:
        with pytest.raises(NameTemplateError, match=r"'inc-\{y\}'.*It can use: x"):
            named.submit(1).result()

    in_flow(body)

    @flow(flow_run_name="run-{root}")
    def census(depth: int) -> None: ...

    with pytest.raises(NameTemplateError, match=r"'run-\{root\}'.*depth"):
        census(1)


# -- futures --------------------------------------------------------------------------------------


def kept_future() -> TaskFuture[int]:
    kept: list[TaskFuture[int]] = []

    def body() -> None:
        kept.append(inc.submit(1))

    in_flow(body)
    return kept[0]


@pytest.mark.parametrize(
    "give",
    [
        lambda future: inc.submit(future),
        lambda future: inc.submit(x=[future]),
        lambda future: inc.map([future, future]),
        lambda future: inc.submit(1, wait_for=[future]),
        lambda future: inc(future),
    ],
)
def test_a_future_of_another_run(give: Any) -> None:
    foreign = kept_future()

    def body() -> int:
        with pytest.raises(ForeignFutureError) as caught:
            give(foreign)
        assert "'inc-0'" in str(caught.value)
        assert "inc was given" in str(caught.value)
        assert "future.result()" in str(caught.value)
        return inc.submit(foreign.result()).result()

    assert in_flow(body) == 3


def test_blocking_on_the_loop_that_must_run_it() -> None:
    @flow(task_runner="asyncio")
    async def census() -> int:
        future = inc_async.submit(1)
        for block in (future.result, future.wait, future.exception):
            with pytest.raises(WouldDeadlockError) as caught:
                block()
            assert "'inc_async-0'" in str(caught.value)
            assert "await future" in str(caught.value)
        with pytest.raises(WouldDeadlockError):
            inc_async.map([1, 2]).result()
        return await future

    assert asyncio.run(census()) == 2


def test_blocking_on_what_waits_for_the_loop() -> None:
    @flow(task_runner="inline")
    async def census() -> Any:
        return inc_async.submit(1).result()

    # Inline has run it before `result` could block.
    assert asyncio.run(census()) == 2


def test_blocking_in_an_async_flow_elsewhere_warns() -> None:
    import threading

    gate = threading.Event()

    @task
    def holds() -> int:
        gate.wait(30)
        return 1

    @flow(task_runner="threads")
    async def census() -> int:
        future = holds.submit()
        threading.Timer(0.05, gate.set).start()
        return future.result()

    with pytest.warns(RuntimeWarning, match="'holds-0' is waited for by blocking"):
        assert asyncio.run(census()) == 1


def test_a_future_cannot_be_pickled() -> None:
    import pickle

    with pytest.raises(TypeError, match="The future of 'inc-0' cannot be pickled"):
        pickle.dumps(kept_future())


# -- nesting --------------------------------------------------------------------------------------


def test_an_argument_that_contains_itself_passes_through() -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    table: dict[str, Any] = {}
    table["self"] = {"inner": table}

    def body() -> None:
        got = same.submit(loop).result()
        assert got is loop
        assert same.submit(table).result() is table
        assert same(loop) is loop

    in_flow(body)


def test_a_future_inside_such_a_cycle_fails_that_run() -> None:
    def body() -> Any:
        loop: list[Any] = [inc.submit(1)]
        loop.append(loop)
        future = same.submit(loop)
        with pytest.raises(FutureCycleError) as caught:
            future.result()
        assert str(caught.value).startswith("same: a future stands inside an object")
        assert "quote(...)" in str(caught.value)
        assert future.state.name == "Failed"
        quoted = same.submit(quote(loop)).result()
        assert quoted is loop
        return None

    in_flow(body)


def test_a_cycle_with_a_future_fails_only_its_own_child_of_a_map() -> None:
    def body() -> list[str]:
        loop: list[Any] = [inc.submit(1)]
        loop.append(loop)
        futures = same.map([1, loop, [inc.submit(2)], 4])
        futures.wait()
        assert isinstance(futures[1].exception(), FutureCycleError)
        assert futures[2].result() == [3]
        return [state.name for state in futures.states()]

    assert in_flow(body) == ["Completed", "Failed", "Completed", "Completed"]


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def test_nested_too_deep_fails_that_run() -> None:
    def body() -> list[str]:
        futures = same.map([[1], deep(5_000), [2]])
        futures.wait()
        error = futures[1].exception()
        assert isinstance(error, NestingTooDeepError)
        assert isinstance(error, RecursionError)
        assert "same is nested more than" in str(error)
        assert "quote(...)" in str(error)
        return [state.name for state in futures.states()]

    assert in_flow(body) == ["Completed", "Failed", "Completed"]


def test_quoted_it_may_be_as_deep_as_it_likes() -> None:
    value = deep(5_000)

    def body() -> bool:
        return same.submit(quote(value)).result() is value

    assert in_flow(body)


def test_all_errors_have_one_base() -> None:
    import anabranch.errors as errors

    own = [
        each
        for each in vars(errors).values()
        if isinstance(each, type)
        and issubclass(each, BaseException)
        and each.__module__ == errors.__name__
    ]
    others = {each.__name__ for each in own if not issubclass(each, AnabranchError)}
    assert others == {"Interrupted", "Terminated"}
