"""Rows go into the store in few statements, whatever their number and whatever is in them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resumable import rows

from anabranch import flow, task
from anabranch.store.database import SIZES, parts


@given(st.integers(0, 5_000), st.booleans())
def test_all_rows_have_a_place_in_few_statements(count: int, repeatable: bool) -> None:
    lengths = parts(count, repeatable)
    assert set(lengths) <= set(SIZES)
    whole = count // SIZES[0]
    assert lengths[:whole] == [SIZES[0]] * whole
    if not repeatable:
        assert sum(lengths) == count
    elif count:
        assert count <= sum(lengths) <= count + 2 * (count % SIZES[0])
        assert sum(lengths[:-1]) < count  # none is there for nothing
        assert len(lengths) <= whole + 4


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANABRANCH_HOME", str(tmp_path / "home"))


@task
def echo(value: object) -> object:
    return value


@pytest.mark.parametrize("count", [1, 2, 4, 7, 31, 101, 299, 1_234])
def test_as_many_rows_as_runs(count: int) -> None:
    @flow
    def body() -> None:
        echo.map(range(count)).wait()

    body()
    found = rows("SELECT number, CAST(result AS TEXT) FROM task_run ORDER BY id")
    assert found == [(n, str(n)) for n in range(count)]


def test_inputs_and_results_are_binary_whatever_they_are_made_of() -> None:
    values = [
        "plain",
        "umlaut \u00e4",
        "nul \0",
        "snow \u2603",
        "",
        None,
        1.5,
        True,
        2**80,
        b"\xff",
    ]

    @flow
    def body() -> list[object]:
        return echo.map(values).result()

    assert body() == values
    assert set(rows("SELECT typeof(inputs), typeof(result) FROM task_run")) == {("blob", "blob")}
    with_umlaut = rows("SELECT result FROM task_run WHERE number = 1")
    assert with_umlaut[0][0].decode() == '"umlaut \u00e4"' or b"\\u00e4" in with_umlaut[0][0]


def test_a_run_is_on_record_before_its_function_begins() -> None:
    @flow
    def body() -> list[tuple[str, str]]:
        return rows("SELECT flow_name, state_name FROM flow_run")

    assert body() == [("body", "Running")]
