"""Flows: what their return values come to, subflows, retries, parameters, hooks and names."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from typing import Any

import pytest
from pydantic import BaseModel

from anabranch import CancelledRun, FailedRun, Flow, UpstreamTaskError, flow, runtime, task
from anabranch.errors import FinishedFlowError, ParameterTypeError, RunTimedOut
from anabranch.futures import TaskFuture
from anabranch.states import Cancelled, Completed, Failed, State


class Broken(Exception):
    pass


@task
def inc(x: int) -> int:
    return x + 1


@task
def broken(text: str = "no good") -> None:
    raise Broken(text)


# -- return values --------------------------------------------------------------------------------


def test_a_value_completes() -> None:
    @flow
    def census() -> int:
        return 5

    assert census() == 5
    state = census(return_state=True)
    assert (state.type.value, state.name, state.message, state.result()) == (
        "COMPLETED",
        "Completed",
        None,
        5,
    )


def test_a_state_is_the_final_state() -> None:
    @flow
    def census(what: str) -> Any:
        if what == "failed":
            return Failed(message="not today")
        if what == "cancelled":
            return Cancelled(message="called off")
        return Completed(message="fine", data=3)

    assert census("completed") == 3
    assert census("completed", return_state=True).message == "fine"
    with pytest.raises(FailedRun, match="not today"):
        census("failed")
    assert census("failed", return_state=True).is_failed()
    with pytest.raises(CancelledRun, match="called off"):
        census("cancelled")


def test_a_returned_future_gives_its_result() -> None:
    @flow
    def census() -> Any:
        return inc.submit(1)

    assert census() == 2


def test_futures_and_states_anywhere_in_the_value_are_resolved() -> None:
    @flow
    def census() -> Any:
        one = inc.submit(0)
        return {"a": one, "b": [one, (one, {"c": one})], "d": inc.map([1, 2]), "e": "plain"}

    assert census() == {"a": 1, "b": [1, (1, {"c": 1})], "d": [2, 3], "e": "plain"}


def test_a_returned_map_gives_its_results() -> None:
    @flow
    def census() -> Any:
        return inc.map(range(3))

    assert census() == [1, 2, 3]


@pytest.mark.parametrize("shape", ["future", "list", "tuple", "dict", "deep", "map"])
def test_a_failed_child_in_the_value_fails_the_flow(shape: str) -> None:
    @flow
    def census() -> Any:
        good, bad = inc.submit(1), broken.submit()
        return {
            "future": bad,
            "list": [good, bad],
            "tuple": (good, bad),
            "dict": {"a": good, "b": bad},
            "deep": {"a": [good, {"b": (bad,)}]},
            "map": broken.map(["no good", "no good"]),
        }[shape]

    with pytest.raises(Broken, match="no good"):
        census()
    state = census(return_state=True)
    assert state.is_failed()
    assert "did not complete" in str(state.message)


def test_a_dependent_of_a_failure_in_the_value_fails_the_flow() -> None:
    @flow
    def census() -> Any:
        return inc.submit(broken.submit())  # type: ignore[arg-type]

    with pytest.raises(UpstreamTaskError, match="broken-0"):
        census()


def test_a_failed_state_in_the_value_fails_the_flow() -> None:
    @flow
    def census() -> Any:
        return [inc.submit(1, return_state=True), broken.submit(return_state=True)]

    with pytest.raises(Broken):
        census()
    assert census(return_state=True).message == "1 of 2 returned runs did not complete."


def test_a_failure_that_nobody_looked_at_is_named_in_the_message() -> None:
    @flow
    def census() -> str:
        broken.submit()
        inc.submit(1)
        return "fine"

    state = census(return_state=True)
    assert state.is_completed()
    assert state.result() == "fine"
    assert state.message == "1 task run did not complete: broken-0 (Failed)"


def test_many_failures_are_counted() -> None:
    @flow
    def census() -> str:
        broken.map(["x"] * 12)
        return "fine"

    message = census(return_state=True).message
    assert message is not None
    assert message.startswith("12 task runs did not complete: ")
    assert message.endswith(" and 7 more")


def test_an_exception_fails_the_flow() -> None:
    @flow
    def census() -> None:
        raise Broken("in the flow")

    with pytest.raises(Broken, match="in the flow"):
        census()
    state = census(return_state=True)
    assert state.is_failed()
    assert state.message == "Broken: in the flow"


def test_an_exception_cancels_the_children() -> None:
    gate = threading.Event()
    began = threading.Event()
    ran: list[int] = []
    kept: list[TaskFuture[Any]] = []

    @task
    def holds() -> None:
        began.set()
        gate.wait(30)

    @task
    def later(n: int) -> None:
        ran.append(n)

    @flow(task_runner="threads?max_workers=1")
    def census() -> None:
        kept.append(holds.submit())
        kept.extend(later.map(range(5)))
        assert began.wait(30)
        kept[0].add_done_callback(lambda _: None)
        threading.Timer(0.05, gate.set).start()
        raise Broken("give up")

    with pytest.raises(Broken):
        census()
    assert ran == []
    assert {future.state.name for future in kept} == {"Cancelled"}


def test_children_are_joined() -> None:
    done: list[int] = []
    gate = threading.Barrier(2)

    @task
    def work(n: int) -> None:
        gate.wait(30)
        done.append(n)

    @flow
    def census() -> str:
        work.submit(1)
        work.submit(2)
        return "over"

    assert census() == "over"
    assert sorted(done) == [1, 2]


def test_submitting_to_a_flow_that_ended_is_refused() -> None:
    kept: list[Any] = []

    @flow
    def census() -> None:
        from contextvars import copy_context

        kept.append(copy_context())

    census()
    with pytest.raises(FinishedFlowError, match="inc cannot be submitted"):
        kept[0].run(inc.submit, 1)


# -- subflows -------------------------------------------------------------------------------------


@flow
def square(x: int) -> int:
    return inc.submit(x * x - 1).result()


@flow
async def square_async(x: int) -> int:
    return await inc.submit(x * x - 1)


@flow
def fails() -> None:
    raise Broken("below")


def test_subflow_called() -> None:
    @flow
    def census() -> list[int]:
        return [square(2), square(3)]

    assert census() == [4, 9]


def test_subflow_submitted() -> None:
    @flow
    def census() -> list[int]:
        futures = [square.submit(n) for n in range(4)]
        return [future.result() for future in futures]

    assert census() == [0, 1, 4, 9]


def test_subflows_run_side_by_side() -> None:
    meet = threading.Barrier(3)

    @flow
    def one(n: int) -> int:
        meet.wait(30)
        return n

    @flow
    def census() -> list[int]:
        return [future.result() for future in [one.submit(n) for n in range(3)]]

    assert census() == [0, 1, 2]


def test_async_subflow_submitted_from_a_sync_flow() -> None:
    @flow
    def census() -> int:
        return square_async.submit(3).result()

    assert census() == 9


def test_subflow_takes_futures() -> None:
    @flow
    def census() -> list[int]:
        return [square(inc.submit(1)), square.submit(inc.submit(2)).result()]  # type: ignore[arg-type]

    assert census() == [4, 9]


def test_subflow_that_fails() -> None:
    @flow
    def census() -> list[str]:
        with pytest.raises(Broken, match="below"):
            fails()
        future = fails.submit()
        with pytest.raises(Broken, match="below"):
            future.result()
        return [fails(return_state=True).name, future.state.name]

    assert census() == ["Failed", "Failed"]


def test_subflow_with_a_runner_of_its_own() -> None:
    @task
    def where() -> str:
        return threading.current_thread().name

    @flow(task_runner="inline")
    def inner() -> str:
        return where.submit().result()

    @flow(task_runner="threads")
    def census() -> list[str]:
        return [inner(), where.submit().result()]

    inside, outside = census()
    assert inside == threading.current_thread().name
    assert outside != inside


def test_subflow_knows_its_parent() -> None:
    @flow
    def inner() -> Any:
        return runtime.flow_run.parent_flow_run_id

    @flow
    def census() -> list[Any]:
        return [runtime.flow_run.id, inner(), inner.submit().result(), runtime.flow_run.flow_name]

    own, called, submitted, name = census()
    assert own == called == submitted
    assert name == "census"


def test_subflow_submitted_with_wait_for() -> None:
    order: list[str] = []

    @task
    def first() -> None:
        order.append("first")

    @flow
    def second() -> None:
        order.append("second")

    @flow
    def census() -> None:
        second.submit(wait_for=[first.submit()]).result()

    census()
    assert order == ["first", "second"]


def test_flow_called_inside_of_a_task() -> None:
    @task
    def outer(x: int) -> int:
        return square(x)

    @flow(task_runner="threads?max_workers=2")
    def census() -> list[int]:
        return outer.map(range(6)).result()

    assert census() == [0, 1, 4, 9, 16, 25]


def test_subflows_nested_deep() -> None:
    @flow
    def down(n: int) -> int:
        return 0 if n == 0 else down(n - 1) + 1

    assert down(20) == 20


# -- async flows ----------------------------------------------------------------------------------


def test_async_flow() -> None:
    @flow
    async def census() -> list[Any]:
        future = inc.submit(1)
        return [await future, await inc.map([1, 2]), await square_async(2)]

    assert asyncio.run(census()) == [2, [2, 3], 4]


def test_async_flow_returning_futures() -> None:
    @flow
    async def census() -> Any:
        return [inc.submit(1), {"a": inc.submit(2)}]

    assert asyncio.run(census()) == [2, {"a": 3}]


def test_async_flow_that_fails() -> None:
    @flow
    async def census() -> None:
        raise Broken("async")

    with pytest.raises(Broken, match="async"):
        asyncio.run(census())
    assert asyncio.run(census(return_state=True)).message == "Broken: async"  # type: ignore[call-arg, attr-defined]


def test_async_flows_gathered() -> None:
    async def main() -> list[int]:
        return await asyncio.gather(*(square_async(n) for n in range(5)))

    assert asyncio.run(main()) == [0, 1, 4, 9, 16]


def test_async_flow_cancelled_from_outside() -> None:
    told: list[str] = []

    async def main() -> None:
        began = asyncio.Event()

        @flow(on_cancellation=[lambda its, run, state: told.append(state.name)])
        async def census() -> None:
            began.set()
            await asyncio.Event().wait()

        running = asyncio.create_task(census())
        await began.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(main())
    assert told == ["Cancelled"]


def test_sync_flow_called_from_an_async_one() -> None:
    @flow
    async def census() -> int:
        return await asyncio.to_thread(square, 3)

    assert asyncio.run(census()) == 9


# -- retries and timeouts -------------------------------------------------------------------------


def test_flow_retries() -> None:
    counts: list[int] = []

    @flow(retries=3, retry_delay_seconds=0.01)
    def census() -> str:
        counts.append(runtime.flow_run.run_count)
        inc.submit(1).result()
        if len(counts) < 3:
            raise Broken("again")
        return "done"

    assert census() == "done"
    assert counts == [1, 2, 3]


def test_flow_retries_used_up() -> None:
    counts: list[int] = []

    @flow(retries=2)
    def census() -> None:
        counts.append(1)
        raise Broken(f"attempt {len(counts)}")

    with pytest.raises(Broken, match="attempt 3"):
        census()
    assert len(counts) == 3


def test_flow_retry_condition() -> None:
    counts: list[int] = []

    def condition(its_flow: Any, run: Any, state: State[Any]) -> bool:
        assert its_flow.name == "census"
        return "attempt 1" in str(state.message)

    @flow(retries=9, retry_condition_fn=condition)
    def census() -> None:
        counts.append(1)
        raise Broken(f"attempt {len(counts)}")

    with pytest.raises(Broken, match="attempt 2"):
        census()


def test_async_flow_retries() -> None:
    counts: list[int] = []

    @flow(retries=2, retry_delay_seconds=0.01)
    async def census() -> int:
        counts.append(1)
        if len(counts) < 3:
            raise Broken("again")
        return await inc.submit(len(counts))

    assert asyncio.run(census()) == 4


def test_flow_timeout() -> None:
    never = threading.Event()

    @flow(timeout_seconds=0.1)
    def census() -> None:
        never.wait(30)

    began = time.monotonic()
    with pytest.raises(RunTimedOut, match=r"passed its timeout of 0\.1 seconds"):
        census()
    assert time.monotonic() - began < 10
    state = census(return_state=True)
    assert (state.type.value, state.name) == ("FAILED", "TimedOut")


def test_flow_timeout_while_it_waits_for_a_task() -> None:
    gate = threading.Event()

    @task
    def holds() -> None:
        gate.wait(30)

    @flow(timeout_seconds=0.1)
    def census() -> None:
        future = holds.submit()
        future.add_done_callback(lambda _: None)
        try:
            future.result()
        finally:
            gate.set()

    with pytest.raises(RunTimedOut):
        census()


def test_async_flow_timeout() -> None:
    @flow(timeout_seconds=0.1)
    async def census() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RunTimedOut):
        asyncio.run(census())


def test_a_timeout_error_of_the_users_own_is_no_timeout() -> None:
    @flow(timeout_seconds=30)
    async def census() -> None:
        raise TimeoutError("my own")

    state: Any = asyncio.run(census(return_state=True))  # type: ignore[call-arg]
    assert (state.name, state.message) == ("Failed", "TimeoutError: my own")


# -- parameters -----------------------------------------------------------------------------------


class Odd:
    pass


class Place(BaseModel):
    name: str
    size: int = 1


def test_parameters_are_read_by_pydantic() -> None:
    @flow
    def census(count: int, place: Place, many: list[float] | None = None) -> list[Any]:
        return [count, place, many]

    assert census("3", {"name": "here"}, many=["1.5"]) == [3, Place(name="here"), [1.5]]  # type: ignore[arg-type, list-item]


def test_parameters_are_checked_before_anything_runs() -> None:
    ran: list[int] = []

    @flow
    def census(count: int) -> None:
        ran.append(count)

    with pytest.raises(ParameterTypeError, match=r"(?s)'census'.*count.*integer.*'many'"):
        census("many")  # type: ignore[arg-type]
    assert ran == []


def test_validation_can_be_switched_off() -> None:
    @flow(validate_parameters=False)
    def census(count: int) -> Any:
        return count

    assert census("many") == "many"  # type: ignore[arg-type]


def test_plain_annotations_and_arbitrary_types() -> None:
    @flow
    def census(odd: Odd, *rest: int, flag: bool = False, **more: str) -> list[Any]:
        return [type(odd).__name__, rest, flag, more]

    assert census(Odd(), 1, 2, flag=True, a="b") == ["Odd", (1, 2), True, {"a": "b"}]


def test_validate_parameters_gives_them_back() -> None:
    @flow
    def census(count: int, name: str = "x") -> None: ...

    assert census.validate_parameters({"count": "3"}) == {"count": 3, "name": "x"}


def test_flow_parameters_in_the_runtime() -> None:
    @flow
    def census(count: int, name: str = "x") -> dict[str, Any]:
        return dict(runtime.flow_run.parameters)

    assert census(3) == {"count": 3, "name": "x"}


# -- hooks and names ------------------------------------------------------------------------------


def test_flow_hooks() -> None:
    told: list[tuple[str, str, str]] = []

    def hook(what: str) -> Any:
        return lambda its, run, state: told.append((what, run.name, state.name))

    @flow(
        flow_run_name="run-of-{what}",
        on_running=[hook("running")],
        on_completion=[hook("completion")],
        on_failure=[hook("failure")],
        on_cancellation=[hook("cancellation")],
        on_crashed=[hook("crashed")],
    )
    def census(what: str) -> Any:
        if what == "bad":
            raise Broken("x")
        return Cancelled() if what == "off" else 1

    census("good")
    census("bad", return_state=True)
    census("off", return_state=True)
    assert told == [
        ("running", "run-of-good", "Running"),
        ("completion", "run-of-good", "Completed"),
        ("running", "run-of-bad", "Running"),
        ("failure", "run-of-bad", "Failed"),
        ("running", "run-of-off", "Running"),
        ("cancellation", "run-of-off", "Cancelled"),
    ]


def test_hooks_as_decorators_and_async(caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []

    @flow
    def census() -> int:
        return 1

    @census.on_completion
    async def later(its: Any, run: Any, state: Any) -> None:
        await asyncio.sleep(0)
        told.append("async")

    @census.on_completion
    def bad(its: Any, run: Any, state: Any) -> None:
        raise ValueError("a bad hook")

    assert census() == 1
    assert told == ["async"]
    assert "a bad hook" in caplog.text


def test_flow_run_names() -> None:
    @flow(flow_run_name="census-{root}-{depth:02d}")
    def by_template(root: str, depth: int = 3) -> str:
        return runtime.flow_run.name

    @flow(flow_run_name=lambda: "from a function")
    def by_function() -> str:
        return runtime.flow_run.name

    def named(parameters: dict[str, Any]) -> str:
        return f"of {parameters['root']}"

    @flow(flow_run_name=named)
    def by_parameters(root: str) -> str:
        return runtime.flow_run.name

    assert by_template("a") == "census-a-03"
    assert by_function() == "from a function"
    assert by_parameters("b") == "of b"


def test_with_options() -> None:
    @flow(name="first", retries=1)
    def census() -> str:
        return runtime.flow_run.flow_name

    other = census.with_options(name="second")
    assert isinstance(other, Flow)
    assert (census(), other()) == ("first", "second")
    assert other.fn is census.fn


# -- methods --------------------------------------------------------------------------------------


class Survey:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    @task
    def times(self, x: int) -> int:
        return x * self.factor

    @task
    async def times_async(self, x: int) -> int:
        return x * self.factor

    @flow
    def run(self, x: int) -> int:
        return self.times.submit(x).result() + sum(self.times.map([1, 2]).result())

    @flow
    async def run_async(self, x: int) -> int:
        return await self.times_async.submit(x) + self.times(1)

    @flow
    @classmethod
    def of_class(cls, x: int) -> str:
        return f"{cls.__name__} {x}"

    @flow
    @staticmethod
    def of_none(x: int) -> int:
        return x + 1

    @task
    @classmethod
    def task_of_class(cls, x: int) -> str:
        return f"{cls.__name__} {x}"

    @task
    @staticmethod
    def task_of_none(x: int) -> int:
        return x + 1

    @classmethod
    @flow
    def below_classmethod(cls, x: int) -> str:
        return f"{cls.__name__} {x}"

    @staticmethod
    @flow
    def below_staticmethod(x: int) -> int:
        return x + 1


def test_methods() -> None:
    survey = Survey(10)
    assert survey.run(1) == 10 + 30
    assert survey.run(x=2) == 20 + 30
    assert asyncio.run(survey.run_async(2)) == 30


@pytest.mark.parametrize("of", [Survey, Survey(1)], ids=["class", "instance"])
def test_class_and_static_methods(of: Any) -> None:
    assert of.of_class(1) == "Survey 1"
    assert of.of_none(1) == 2
    assert of.below_classmethod(2) == "Survey 2"
    assert of.below_staticmethod(2) == 3
    assert of.task_of_class(3) == "Survey 3"
    assert of.task_of_none(3) == 4

    @flow
    def census() -> list[Any]:
        return [of.task_of_class.submit(1), of.task_of_none.map([1, 2])]

    assert census() == ["Survey 1", [2, 3]]


# -- generators -----------------------------------------------------------------------------------


def test_a_generator_task_called_directly_is_lazy() -> None:
    steps: list[int] = []

    @task
    def numbers(count: int):
        for n in range(count):
            steps.append(n)
            yield n

    @flow
    def census() -> list[int]:
        items = numbers(5)
        first = next(iter(items))
        assert steps == [0]
        return [first, *items]

    assert census() == [0, 1, 2, 3, 4]


def test_a_generator_task_submitted_gives_a_list() -> None:
    @task
    def numbers(count: int):
        yield from range(count)

    @task
    async def numbers_async(count: int):
        for n in range(count):
            yield n

    @flow
    def census() -> list[Any]:
        return [numbers.submit(3).result(), numbers_async.submit(3).result()]

    assert census() == [[0, 1, 2], [0, 1, 2]]


def test_an_async_generator_task_called_directly_is_lazy() -> None:
    steps: list[int] = []

    @task
    async def numbers(count: int):
        for n in range(count):
            steps.append(n)
            yield n

    @flow
    async def census() -> list[int]:
        got = []
        async for n in numbers(3):
            got.append(n)
            assert steps == got
        return got

    assert asyncio.run(census()) == [0, 1, 2]


def test_a_generator_task_given_up_early() -> None:
    closed: list[str] = []

    @task
    def numbers():
        try:
            yield 1
            yield 2
        finally:
            closed.append("closed")

    @flow
    def census() -> int:
        items = numbers()
        first = next(iter(items))
        items.close()
        return first

    assert census() == 1
    gc.collect()
    assert closed == ["closed"]


def test_a_generator_task_is_tried_again_before_its_first_item_only() -> None:
    begun: list[int] = []

    @task(retries=2)
    def early():
        begun.append(1)
        if len(begun) < 3:
            raise Broken("early")
        yield len(begun)

    @task(retries=2)
    def late():
        begun.append(1)
        yield 1
        raise Broken("late")

    @flow
    def census() -> Any:
        assert list(early()) == [3]
        begun.clear()
        items = late()
        assert next(iter(items)) == 1
        with pytest.raises(Broken, match="late"):
            next(items)
        return len(begun)

    assert census() == 1


# -- tasks on their own ---------------------------------------------------------------------------


def test_a_task_called_outside_of_a_flow() -> None:
    tries: list[int] = []

    @task(retries=2, retry_delay_seconds=0.01)
    def patient() -> int:
        tries.append(1)
        if len(tries) < 3:
            raise Broken("again")
        return runtime.task_run.run_count

    assert inc(1) == 2
    assert patient() == 3
    assert broken(return_state=True).is_failed()
    with pytest.raises(Broken):
        broken()
