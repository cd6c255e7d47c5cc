"""What tasks do that start others: submit, map, call, wait, cancel, and hand futures on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anabranch import (
    allow_failure,
    as_completed,
    quote,
    runtime,
    tags,
    task,
)
from anabranch.futures import FutureList, TaskFuture
from anabranch.testing.contract.base import ContractTests
from anabranch.testing.contract.tasks import Broken, broken, endless, inc, inc_async, numbers, same

# -- tasks that start others ----------------------------------------------------------------------


@task
def asks_a_future(held: Any) -> tuple[Any, ...]:
    [future] = held
    return future.result(), future.done(), future.state.name, future.name, future.task_run.task_name


@task
def starts_and_returns(count: int) -> list[TaskFuture[int]]:
    return [inc.submit(n) for n in range(count)]


@task
def starts_and_returns_a_map(count: int) -> FutureList[int]:
    return inc.map(range(count))


@task
def maps_over_a_future(count: int) -> list[int]:
    return inc.map(numbers.submit(count)).result()


@task
def takes_them_as_they_come(count: int) -> list[int]:
    return sorted(future.result() for future in as_completed(starts_and_returns.fn(count)))


@task
async def awaits_others(x: int) -> tuple[Any, ...]:
    return await inc.submit(x), await inc_async(x), await inc.map(range(3))


@task
def sees_failures() -> list[str]:
    failed = broken.submit()
    dependent = inc.submit(failed)
    follower = inc.submit(1, wait_for=[failed])
    allowed = same.submit(allow_failure(failed))
    return [
        type(failed.exception()).__name__,
        type(dependent.exception()).__name__,
        dependent.state.name,
        type(follower.exception()).__name__,
        type(allowed.result()).__name__,
    ]


@task
def its_tags() -> list[str]:
    return runtime.task_run.tags


@task
def tags_another() -> list[str]:
    with tags("inner"):
        return its_tags.submit().result()


@task(task_run_name="item {x}")
def its_name(x: int) -> str | None:
    return runtime.task_run.name


@task
def names_others() -> list[str | None]:
    future = its_name.submit(3)
    return [future.result(), future.name, its_name(4)]


@task(retries=2)
def works_at_last(path: Path) -> int:
    with path.open("a") as file:
        file.write("tried\n")
    if runtime.task_run.run_count < 3:
        raise Broken("not yet")
    return runtime.task_run.run_count


@task
def calls_another(path: Path) -> int:
    return works_at_last(path)


@task
def calls_with_what_cannot_travel() -> bool:
    import threading

    lock = threading.Lock()
    return same(lock) is lock


@task
def calls_with_futures() -> int:
    return inc(inc.submit(inc.submit(1)))


@task
def its_flow() -> tuple[str | None, Any]:
    return runtime.flow_run.name, dict(runtime.flow_run.parameters)


@task
def asks_for_its_flow() -> tuple[Any, ...]:
    return its_flow(), its_flow.submit().result()


@task
def cancels_another() -> str:
    future = endless.submit()
    future.cancel()
    future.wait()
    return future.state.name


@task
def submits_wrongly() -> list[str]:
    told: list[str] = []
    for call in (lambda: inc.submit(1, 2, 3), lambda: inc.map(1), lambda: inc.submit(y=1)):
        try:
            call()
        except Exception as error:
            told.append(type(error).__name__)
    return told


def add_result(future: TaskFuture[Any]) -> None:
    with Path(future.result()).open("a") as file:
        file.write("called back\n")


@task
def adds_a_callback(path: Path) -> None:
    future = same.submit(str(path))
    future.add_done_callback(add_result)
    future.wait()


# -- the tests ------------------------------------------------------------------------------------


class Nesting(ContractTests):
    def test_a_quoted_future_is_one_on_the_worker_too(self) -> None:
        def body() -> Any:
            return asks_a_future.submit(quote([inc.submit(5)])).result()

        assert self.in_flow(body) == (6, True, "Completed", "inc-0", "inc")

    def test_a_quoted_future_that_failed(self) -> None:
        def body() -> Any:
            return same.submit(quote([broken.submit()])).result()[0].exception()

        assert isinstance(self.in_flow(body), Broken)

    def test_futures_come_back_out_of_a_task(self) -> None:
        def body() -> list[int]:
            return [future.result() for future in starts_and_returns.submit(3).result()]

        assert self.in_flow(body) == [1, 2, 3]

    def test_a_returned_map_is_waited_for(self) -> None:
        def body() -> Any:
            return starts_and_returns_a_map.submit(3).result()

        assert self.in_flow(body) == [1, 2, 3]

    def test_a_task_maps_over_a_future(self) -> None:
        def body() -> list[int]:
            return maps_over_a_future.submit(4).result()

        assert self.in_flow(body) == [1, 2, 3, 4]

    def test_a_task_takes_others_as_they_come(self) -> None:
        def body() -> list[int]:
            return takes_them_as_they_come.submit(5).result()

        assert self.in_flow(body) == [1, 2, 3, 4, 5]

    def test_an_async_task_awaits_others(self) -> None:
        def body() -> Any:
            return awaits_others.submit(5).result()

        assert self.in_flow(body) == (6, 6, [1, 2, 3])

    def test_a_task_sees_failures_of_others(self) -> None:
        def body() -> list[str]:
            return sees_failures.submit().result()

        assert self.in_flow(body) == [
            "Broken",
            "UpstreamTaskError",
            "NotReady",
            "UpstreamTaskError",
            "Broken",
        ]

    def test_tags_inside_a_task_reach_what_it_submits(self) -> None:
        def body() -> list[str]:
            return tags_another.submit().result()

        assert self.in_flow(body) == ["inner"]

    def test_names_of_what_a_task_starts(self) -> None:
        def body() -> list[str | None]:
            return names_others.submit().result()

        assert self.in_flow(body) == ["item 3", "item 3", "item 4"]

    def test_a_task_called_inside_another_is_retried(self, tmp_path: Path) -> None:
        def body() -> int:
            return calls_another.submit(tmp_path / "tries").result()

        assert self.in_flow(body) == 3
        assert (tmp_path / "tries").read_text() == "tried\n" * 3

    def test_a_direct_call_leaves_its_arguments_where_they_are(self) -> None:
        def body() -> bool:
            return calls_with_what_cannot_travel.submit().result()

        assert self.in_flow(body)

    def test_a_direct_call_waits_for_its_arguments(self) -> None:
        def body() -> int:
            return calls_with_futures.submit().result()

        assert self.in_flow(body) == 4

    def test_a_task_knows_its_flow_however_it_was_started(self) -> None:
        def body(size: int = 3) -> Any:
            return runtime.flow_run.name, asks_for_its_flow.submit().result()

        name, (called, submitted) = self.in_flow(body)
        assert called == submitted == (name, {"size": 3})

    def test_a_task_cancels_another(self) -> None:
        self.needs_work_beside_the_flow()

        def body() -> str:
            return cancels_another.submit().result()

        assert self.in_flow(body) == "Cancelled"

    def test_wrong_calls_inside_a_task_raise_there(self) -> None:
        def body() -> list[str]:
            return submits_wrongly.submit().result()

        assert self.in_flow(body) == [
            "ParameterBindError",
            "MappingMissingIterable",
            "ParameterBindError",
        ]

    def test_a_callback_added_inside_a_task_is_called(self, tmp_path: Path) -> None:
        def body() -> None:
            adds_a_callback.submit(tmp_path / "calls").result()

        self.in_flow(body)
        assert (tmp_path / "calls").read_text() == "called back\n"
