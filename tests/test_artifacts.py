"""Artifacts: what a run keeps beside its result, on each runner, as the store has it."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import polars as pl
import pytest

from anabranch import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    flow,
    task,
    update_progress_artifact,
)
from anabranch.artifact_tables import LIMIT, table_json
from anabranch.errors import MissingContextError, OptionError

RUNNERS = ["threads", "asyncio", "inline", "processes?max_workers=2"]


class Row(NamedTuple):
    id: str
    key: str | None
    type: str
    description: str | None
    data: Any
    flow_run: int | None
    task_run: int | None
    created: float
    updated: float


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("ANABRANCH_HOME", str(tmp_path))
    yield tmp_path


def rows(home: Path) -> dict[str, Row]:
    database = sqlite3.connect(home / "anabranch.db")
    try:
        found = database.execute(f"SELECT {', '.join(Row._fields)} FROM artifact").fetchall()
    finally:
        database.close()
    return {row[0]: Row(*row)._replace(data=json.loads(row[4])) for row in found}


def kept_as(artifact: str, home: Path) -> Row:
    return rows(home)[artifact]


@task
def make_all(name: str) -> list[str]:
    return [
        create_table_artifact([{"a": 1, "b": name}], key="a-table", description="**bold**"),
        create_markdown_artifact(f"# {name}"),
        create_link_artifact("https://example.org", link_text="here"),
        create_image_artifact("https://example.org/a.png"),
        create_progress_artifact(12.5, key="so-far", description="first"),
    ]


@task
async def make_one() -> str:
    return str(await create_markdown_artifact("from a loop"))


@pytest.mark.parametrize("runner", RUNNERS)
def test_each_kind_is_kept_with_its_run(home: Path, runner: str) -> None:
    @flow(task_runner=runner)
    def making() -> tuple[str, list[str], str]:
        of_flow = create_markdown_artifact("of the flow")
        return str(of_flow), make_all.submit("x").result(), make_one.submit().result()

    of_flow, made, of_async = making()
    kept = rows(home)
    assert len(kept) == 7
    assert kept[of_flow].flow_run is not None and kept[of_flow].task_run is None
    assert kept[of_async].data == "from a loop" and kept[of_async].task_run is not None
    table, text, link, image, progress = (kept[each] for each in made)
    assert table.data == {"columns": ["a", "b"], "rows": [[1, "x"]], "note": None}
    assert (table.key, table.description, table.type) == ("a-table", "**bold**", "table")
    assert text.data == "# x" and image.data == "https://example.org/a.png"
    assert link.data == {"link": "https://example.org", "link_text": "here"}
    assert progress.data == 12.5
    assert len({row.task_run for row in (table, text, link, image, progress)}) == 1
    assert table.task_run is not None and table.flow_run == kept[of_flow].flow_run


@task
def step_on(artifact: str) -> None:
    for percent in range(0, 101, 10):
        update_progress_artifact(artifact, percent)


@pytest.mark.parametrize("runner", RUNNERS)
def test_progress_that_another_task_updates(home: Path, runner: str) -> None:
    @flow(task_runner=runner)
    def stepping() -> str:
        artifact = create_progress_artifact(0, description="first")
        step_on.submit(str(artifact)).result()
        return str(artifact)

    row = kept_as(stepping(), home)
    assert row.data == 100 and row.description == "first" and row.updated > row.created


def test_a_new_description_stays_when_later_updates_have_none(home: Path) -> None:
    @flow
    def stepping() -> str:
        artifact = create_progress_artifact(0, description="first")
        update_progress_artifact(artifact, 50, description="second")
        update_progress_artifact(artifact, 60)
        return str(artifact)

    row = kept_as(stepping(), home)
    assert (row.data, row.description) == (60, "second")


def test_an_update_never_changes_what_is_no_progress(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    @flow
    def mistaken() -> str:
        artifact = create_markdown_artifact("text")
        update_progress_artifact(artifact, 50)
        return str(artifact)

    assert kept_as(mistaken(), home).data == "text"
    assert "no progress artifact" in caplog.text


def test_an_async_flow_may_await_or_not(home: Path) -> None:
    @flow
    async def making() -> list[str]:
        return [create_markdown_artifact("a"), await create_markdown_artifact("b")]

    first, second = asyncio.run(making())
    kept = rows(home)
    assert kept[first].data == "a" and kept[second].data == "b"


def test_outside_of_a_run_it_is_refused() -> None:
    with pytest.raises(MissingContextError, match=r"create_markdown_artifact\(\)"):
        create_markdown_artifact("text")
    with pytest.raises(MissingContextError, match="update_progress_artifact"):
        update_progress_artifact("id", 1)


@pytest.mark.parametrize("key", ["", "Upper", "under_score", "a b", "a\n", "é", 5])
def test_keys_that_will_not_do(key: Any) -> None:
    with pytest.raises(OptionError, match="lower-case letters, digits and dashes"):
        create_markdown_artifact("text", key=key)


@pytest.mark.parametrize("progress", [-1, 100.5, float("nan"), float("inf"), "50", True, None])
def test_progress_that_will_not_do(progress: Any) -> None:
    with pytest.raises(OptionError, match="a number from 0 to 100"):
        create_progress_artifact(progress)


@pytest.mark.parametrize("table", ["text", 5, None, [1, 2], [{"a": 1}, [2]], {"a": "text"}])
def test_tables_that_are_none(table: Any) -> None:
    with pytest.raises(OptionError, match="create_table_artifact"):
        create_table_artifact(table)


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError("not for you")


FRAME = {"x": [1, 2], "y": ["a", "b"]}


@pytest.mark.parametrize(
    "table, columns, cells",
    [
        ([], [], []),
        ([{"a": 1}, {"b": 2}], ["a", "b"], [[1, None], [None, 2]]),
        ({"a": [1, 2], "b": (3,)}, ["a", "b"], [[1, 3], [2, None]]),
        ([[1, 2], [3]], None, [[1, 2], [3]]),
        (pd.DataFrame(FRAME), ["x", "y"], [[1, "a"], [2, "b"]]),
        (pd.DataFrame(FRAME, index=["r", "s"]), ["", "x", "y"], [["r", 1, "a"], ["s", 2, "b"]]),
        (pl.DataFrame(FRAME), ["x", "y"], [[1, "a"], [2, "b"]]),
        ([[np.int64(5), np.float32("nan"), np.bool_(True)]], None, [[5, "nan", True]]),
        ([[float("inf"), b"x", {1: (2, 3)}]], None, [["inf", "b'x'", {"1": [2, 3]}]]),
        ([["\ud800\0"]], None, [["\ud800\0"]]),
    ],
)
def test_what_tables_become(table: Any, columns: Any, cells: Any) -> None:
    assert json.loads(table_json(table)) == {"columns": columns, "rows": cells, "note": None}


def test_cells_that_contain_themselves_or_refuse_to_be_text() -> None:
    circle: list[Any] = []
    circle.append(circle)
    found = json.loads(table_json([[circle, Hostile()]]))["rows"][0]
    assert "..." in json.dumps(found[0])
    assert found[1] == "<Hostile: RuntimeError from its str()>"


def test_a_large_table_is_cut_with_a_note() -> None:
    text = table_json([["x" * 1_000]] * 3_000)
    assert len(text) < LIMIT + 1_000
    table = json.loads(text)
    assert 900 < len(table["rows"]) < 1_000
    assert table["note"] == f"Cut at 1 MB: the first {len(table['rows'])} of 3,000 rows."
