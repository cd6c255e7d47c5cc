"""What is known of a run: its state, names, ids, tags and place in a map."""

from __future__ import annotations

from typing import Any

import pytest

from anabranch import FailedRun, runtime, tags
from anabranch.testing.contract.base import ContractTests
from anabranch.testing.contract.tasks import (
    about_parameters,
    about_run,
    broken_if,
    inc,
    returns_state,
    waited,
)


class Records(ContractTests):
    def test_task_returning_a_state(self) -> None:
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

        assert self.in_flow(body) == [
            ("Completed", "as asked", 7),
            (8, "Cached"),
            ("Failed", "not today"),
        ]

    def test_return_state_of_submit_and_map(self) -> None:
        def body() -> list[str]:
            states = broken_if.map(range(2), bad=1, return_state=True)
            return [inc.submit(1, return_state=True).name, *[state.name for state in states]]

        assert self.in_flow(body) == ["Completed", "Completed", "Failed"]

    def test_names(self) -> None:
        renamed = inc.with_options(name="more", task_run_name="inc-of-{x}")

        def body() -> list[str]:
            return [
                inc.submit(1).name,
                inc.submit(1).name,
                *[future.name for future in waited(renamed.map([5, 6]))],
                about_run.with_options(task_run_name="told").submit().result()["name"],
            ]

        assert self.in_flow(body) == ["inc-0", "inc-1", "inc-of-5", "inc-of-6", "told"]

    def test_ids_are_unique_and_the_same_inside(self) -> None:
        def body() -> bool:
            futures = [about_run.submit() for _ in range(10)]
            inside = [future.result()["id"] for future in futures]
            assert inside == [future.task_run_id for future in futures]
            return len(set(inside)) == 10

        assert self.in_flow(body)

    def test_runtime_inside_tasks(self) -> None:
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

        assert self.in_flow(body) == ["about_run-0", "about_run", 1, "body", {"x": 1, "y": 5}]

    def test_tags(self) -> None:
        tagged = about_run.with_options(tags=["own"])

        def body() -> list[Any]:
            with tags("outer", "more"):
                inside = tagged.submit()
            outside = tagged.submit()
            return [inside.result()["tags"], outside.result()["tags"], sorted(inside.task_run.tags)]

        assert self.in_flow(body) == [["more", "outer", "own"], ["own"], ["more", "outer", "own"]]

    def test_map_children_know_their_map(self) -> None:
        def body() -> list[Any]:
            runs = [future.task_run for future in inc.map(range(3))]
            single = inc.submit(1).task_run
            assert len({run.map_id for run in runs}) == 1 and runs[0].map_id
            return [[run.map_index for run in runs], single.map_id, single.map_index]

        assert self.in_flow(body) == [[0, 1, 2], None, None]
