"""Which calls travel to a worker together, and which groups have begun."""

from __future__ import annotations

from typing import Any

import pytest

from anabranch.execution.calls import Call, Scope, TaskSpec
from anabranch.execution.claims import Claims, Granted
from anabranch.execution.cluster_calls import Constants, Sent, Template
from anabranch.task_runners import grouping
from anabranch.task_runners.grouping import Grouping

SLOTS = 2
TINY, MIDDLING, LONG = 1e-6, 0.01, 0.2  # seconds


def nothing() -> None:
    """What the task does."""


TEMPLATE = Template("kind", ("", "", ""), 1, "here", {}, b"", b"")
SPEC = TaskSpec("t", "t", nothing)


def scope(batch_size: int | None = None, parent: int | None = None) -> Scope:
    return Scope(None, None, None, parent, frozenset(), False, 0, 1, 0, batch_size=batch_size)


PLAIN = scope()


def sent(key: int, its: Scope = PLAIN, **parts: Any) -> Sent:
    whole = Sent(Call(key, 1, SPEC, its, (), {}), b"arguments", [], TEMPLATE, None)
    return whole._replace(**parts)


@pytest.fixture
def calls() -> Grouping:
    return Grouping()


def take(calls: Grouping, slots: int | None = SLOTS, most: int = 100_000) -> list[list[int]]:
    """The keys of each group that goes."""
    groups = calls.take(slots, lambda sent: True, most)
    return [[sent.call.key for sent in group] for group in groups]


def measured(calls: Grouping, seconds: float) -> None:
    """Have a task's first call gone and come back."""
    calls.put([sent(0)])
    assert take(calls) == [[0]]
    calls.ended("kind", seconds)
    calls.came_back("kind")


def sizes(groups: list[list[int]]) -> list[int]:
    return [len(group) for group in groups]


def test_the_first_go_alone_and_others_wait_for_what_they_tell(calls: Grouping) -> None:
    calls.put([sent(key) for key in range(100)])
    assert sizes(take(calls)) == [1] * (grouping.PROBES * SLOTS)
    assert take(calls) == [] and calls.holds() and calls.unmeasured("kind")
    calls.ended("kind", TINY)
    assert len(take(calls)[0]) > 1 and not calls.unmeasured("kind")


def test_one_that_runs_long_is_no_reason_to_wait(calls: Grouping) -> None:
    calls.put([sent(key) for key in range(10)])
    take(calls)
    calls.is_long("kind")
    assert sizes(take(calls)) == [1] * (10 - grouping.PROBES * SLOTS)


def test_long_calls_go_alone_and_at_once(calls: Grouping) -> None:
    measured(calls, LONG)
    calls.put([sent(key) for key in range(50)])
    assert sizes(take(calls)) == [1] * 50


def test_groups_are_worth_their_trip_and_no_more(calls: Grouping) -> None:
    measured(calls, MIDDLING)
    calls.put([sent(key) for key in range(1_000)])
    assert set(sizes(take(calls))) == {int(grouping.MOST_SECONDS / MIDDLING)}


def test_groups_shrink_toward_the_end(calls: Grouping) -> None:
    measured(calls, TINY)
    calls.put([sent(key) for key in range(5_000)])
    gone: list[list[int]] = []
    while groups := take(calls):
        gone += groups
        for _ in groups:
            calls.came_back("kind")
    assert [key for group in gone for key in group] == list(range(5_000))
    assert sizes(gone) == sorted(sizes(gone), reverse=True)
    least = int(grouping.LEAST_SECONDS / grouping.CALL_SECONDS)
    assert sizes(gone)[0] == grouping.MOST_CALLS and all(size >= least for size in sizes(gone)[:-1])


def test_few_groups_are_out_at_first_and_more_as_they_come_back(calls: Grouping) -> None:
    measured(calls, TINY)
    calls.put([sent(key) for key in range(1_000_000)])
    first = len(take(calls))
    assert first == grouping.FIRST_WINDOW * SLOTS and take(calls) == []
    for _ in range(first):
        calls.came_back("kind")
    assert len(take(calls)) > first


def test_only_so_many_are_taken_at_once(calls: Grouping) -> None:
    measured(calls, LONG)
    calls.put([sent(key) for key in range(10)])
    assert take(calls, most=4) == [[0], [1], [2], [3]]
    assert take(calls, most=4) == [[4], [5], [6], [7]]


def test_a_size_that_was_asked_for(calls: Grouping) -> None:
    calls.put([sent(key, scope(batch_size=4)) for key in range(10)])
    assert sizes(take(calls)) == [4, 4, 2]
    calls.put([sent(key, scope(batch_size=1)) for key in range(3)])
    assert sizes(take(calls)) == [1, 1, 1]


def test_calls_of_tasks_and_those_with_values_elsewhere_go_alone(calls: Grouping) -> None:
    measured(calls, TINY)
    elsewhere: Any = object()
    calls.put([sent(key, scope(parent=9)) for key in (1, 2)])
    calls.put([sent(key, values=[elsewhere]) for key in (3, 4)])
    calls.put([sent(key) for key in (5, 6)])
    assert take(calls) == [[1], [2], [3], [4], [5, 6]]


def test_a_group_shares_its_constants_and_has_a_limit_in_bytes(calls: Grouping) -> None:
    measured(calls, TINY)
    one, other = Constants("one", b""), Constants("other", b"")
    calls.put([sent(1, constants=one), sent(2, constants=one), sent(3, constants=other)])
    assert take(calls) == [[1, 2], [3]]
    large = bytes(grouping.MOST_BYTES // 2 + 1)
    calls.put([sent(key, data=large) for key in (4, 5)])
    assert take(calls) == [[4], [5]]


def test_what_has_large_results_goes_alone(calls: Grouping) -> None:
    measured(calls, TINY)
    calls.is_large("kind")
    calls.put([sent(1), sent(2)])
    assert take(calls) == [[1], [2]]


def test_workers_that_take_no_groups(calls: Grouping) -> None:
    measured(calls, TINY)
    calls.put([sent(key) for key in range(100)])
    assert sizes(take(calls, slots=None)) == [1] * 100


def test_what_comes_again_comes_first(calls: Grouping) -> None:
    measured(calls, TINY)
    calls.put([sent(1), sent(2)])
    calls.put([sent(3), sent(4)], again=True)
    assert take(calls) == [[3, 4, 1, 2]]
    calls.put([sent(5), sent(6)], again=True, alone=True)
    assert take(calls) == [[5], [6]]


def test_calls_that_nobody_wants_are_dropped(calls: Grouping) -> None:
    measured(calls, TINY)
    calls.put([sent(key) for key in range(4)])
    (group,) = calls.take(SLOTS, lambda sent: sent.call.key % 2 == 0, 100)
    assert [each.call.key for each in group] == [0, 2] and not calls.holds()


def test_kinds_that_are_over_are_forgotten(calls: Grouping) -> None:
    for number in range(grouping.KINDS + 10):
        calls.ended(f"kind {number}", TINY)
    assert len(calls._kinds) == grouping.KINDS  # pyright: ignore[reportPrivateUsage]  # nothing else shows it


def test_a_group_begins_once() -> None:
    claims = Claims()
    assert claims.claim(1, "first") == Granted()
    assert claims.claim(1, "second") is None
    assert claims.claim(2, "second") == Granted()


def test_struck_calls_do_not_begin() -> None:
    claims = Claims()
    assert claims.strike(1, [10]) == (None, 1)
    assert claims.strike(1, [10, 11]) == (None, 2)
    assert claims.claim(1, "worker") == Granted(struck=frozenset({10, 11}))
    assert claims.strike(1, [12]) == ("worker", 0)


def test_a_value_that_stayed_is_made_again_alone() -> None:
    claims = Claims()
    claims.claim(1, "first")
    claims.settle(1, 3)
    assert claims.claim(1, "second") == Granted(only=3)
