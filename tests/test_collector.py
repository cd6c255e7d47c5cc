"""The garbage collector during large maps: patient, and afterwards as the user had it."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from anabranch import flow, task
from anabranch.engine.collector import NEW_OBJECTS, fewer_collections


@pytest.fixture(autouse=True)
def thresholds() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    yield
    gc.set_threshold(*before)


def test_blocks_may_overlap() -> None:
    first, second = fewer_collections(), fewer_collections()
    first.__enter__()
    assert gc.get_threshold() == (NEW_OBJECTS, 10, 10)
    second.__enter__()
    first.__exit__(None, None, None)
    assert gc.get_threshold() == (NEW_OBJECTS, 10, 10)
    second.__exit__(None, None, None)
    assert gc.get_threshold() == (700, 10, 10)


@pytest.mark.parametrize("own", [0, NEW_OBJECTS * 2])
def test_what_the_user_has_set_stays(own: int) -> None:
    gc.set_threshold(own, 10, 10)
    with fewer_collections():
        assert gc.get_threshold() == (own, 10, 10)
    assert gc.get_threshold() == (own, 10, 10)


def test_a_flow_leaves_it_as_it_was() -> None:
    @task
    def same(x: int) -> int:
        return x

    @flow(task_runner="threads")
    def many() -> int:
        return sum(same.map(range(3_000)).result())

    assert many() == sum(range(3_000)) and gc.get_threshold() == (700, 10, 10)
