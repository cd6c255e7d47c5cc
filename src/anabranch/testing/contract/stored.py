"""What the store is asked and told: results that are found again, resumed runs, limits, artifacts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from anabranch import flow, runtime
from anabranch.cache_policies import INPUTS
from anabranch.settings import load_settings
from anabranch.store.limits import set_limit
from anabranch.store.opening import open_store
from anabranch.testing.contract.base import ContractTests
from anabranch.testing.contract.tasks import (
    LIMIT,
    Broken,
    add,
    broken_if_missing,
    large,
    length_of,
    limited,
    noted,
    notes,
    shown,
)


@contextmanager
def stored() -> Generator[Any]:
    """The settings' store."""
    settings = load_settings()
    database = open_store(settings.database_url, settings.home)
    try:
        yield database
    finally:
        database.close()


class Stored(ContractTests):
    @pytest.fixture(autouse=True)
    def store(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A store of its own for each test."""
        monkeypatch.setenv("ANABRANCH_HOME", str(tmp_path / "home"))

    def test_a_cached_result_is_computed_once(self, tmp_path: Path) -> None:
        cached = noted.with_options(cache_policy=INPUTS - "path")

        def body() -> list[Any]:
            first = cached.submit(tmp_path / "calls", "one").result()
            again = cached.map(tmp_path / "calls", ["one", "two", "one"]).result()
            return [first, *again]

        assert self.in_flow(body) == ["one", "one", "two", "one"]
        assert self.in_flow(body) == ["one", "one", "two", "one"]
        assert sorted(notes(tmp_path / "calls")) == ["one", "two"]

    def test_a_resumed_run_repeats_nothing_that_is_recorded(self, tmp_path: Path) -> None:
        @flow(task_runner=self.runner)
        def stops() -> int:
            (tmp_path / "run").write_text(str(runtime.flow_run.id))
            texts = noted.map(tmp_path / "calls", [f"{n}" for n in range(20)])
            lengths = length_of.map(texts).result()
            broken_if_missing.submit(tmp_path / "go").result()
            return sum(add.map(lengths, 1).result())

        with pytest.raises(Broken):
            stops()
        assert Counter(notes(tmp_path / "calls")) == {f"{n}": 1 for n in range(20)}
        (tmp_path / "go").touch()
        assert stops.resume((tmp_path / "run").read_text()) == 50
        assert Counter(notes(tmp_path / "calls")) == {f"{n}": 1 for n in range(20)}

    def test_large_results_go_from_task_to_task(self) -> None:
        def body() -> list[Any]:
            made = large.map([100_000, 200_000, 3])
            nested = length_of.submit([made[0], {"more": made[1]}])
            return [length_of.map(made).result(), nested.result(), len(made[1].result())]

        assert self.in_flow(body) == [[100_000, 200_000, 3], 2, 200_000]

    def test_limits_hold_inside_tasks(self, tmp_path: Path) -> None:
        with stored() as database:
            set_limit(database, LIMIT, 1)

        def body() -> list[int]:
            return limited.map([tmp_path / "inside"] * 6).result()

        assert self.in_flow(body) == [1] * 6

    def test_artifacts_of_tasks(self) -> None:
        @flow(task_runner=self.runner)
        def showing() -> None:
            shown.map(["one", "two"]).result()

        showing()
        with stored() as database:
            kept = database.read("SELECT key FROM artifact ORDER BY key")
        assert [row[0] for row in kept] == ["artifact-one", "artifact-two"]
