"""Which call that a task submits goes to which seat on Ray; no Ray is needed for that."""

from __future__ import annotations

from typing import Any

from anabranch.execution.calls import Call, Scope, TaskSpec
from anabranch.execution.cluster_calls import Sent
from anabranch.runs import run_id
from anabranch.task_runners.ray_seats import Seat, Seats, asks_of, covers, options_of


def nothing() -> None:
    """What the tasks here do."""


def sent(key: int, parent: int, **resources: float) -> Sent:
    spec = TaskSpec("t", "t", nothing, resources=resources)
    scope = Scope(None, None, None, parent, frozenset(), False, 0, 0, 0)
    template: Any = None
    return Sent(Call(key, 1, spec, scope, (), {}), b"", [], template, None)


def matched(seats: Seats) -> list[tuple[int, str]]:
    return [(sent.call.key, seat.worker) for sent, seat in seats.matched()]


def test_a_seat_takes_a_child_of_the_call_that_waits_there_first() -> None:
    seats = Seats()
    for key, parent in ((1, 7), (2, 8), (3, 8)):
        seats.hold(sent(key, parent))
    seats.offer(("call", 10), Seat("worker", asks_of({}), run_id=run_id(0, 8)))
    assert matched(seats) == [(2, "worker")]
    assert matched(seats) == []  # it is taken
    seats.drop(2)
    assert matched(seats) == [(3, "worker")]
    seats.drop(3)
    assert matched(seats) == [(1, "worker")]


def test_a_call_goes_only_where_its_resources_are() -> None:
    seats = Seats()
    seats.hold(sent(1, 7, gpu=1))
    seats.offer(("call", 10), Seat("plain", asks_of({}), run_id=run_id(0, 7)))
    assert matched(seats) == []
    seats.offer(("sitter", 1), Seat("with a gpu", asks_of({"gpu": 1})))
    assert matched(seats) == [(1, "with a gpu")]
    assert seats.empty_sitters() == []
    seats.drop(1)
    assert seats.empty_sitters() == [1]
    assert seats.empty_sitters() == []


def test_what_is_dropped_is_given_to_nobody() -> None:
    seats = Seats()
    seats.hold(sent(1, 7))
    seats.drop(1)
    seats.offer(("call", 10), Seat("worker", asks_of({}), run_id=run_id(0, 7)))
    assert matched(seats) == []


def test_who_sits_on_a_worker_is_known_until_it_ends() -> None:
    seats = Seats()
    seats.hold(sent(1, 7))
    seats.offer(("call", 10), Seat("worker", asks_of({}), run_id=run_id(0, 7)))
    assert matched(seats) == [(1, "worker")]
    seats.withdraw(("call", 10))
    assert [call.key for call in seats.on("worker")] == [1] and seats.worker_of(1) == "worker"
    seats.drop(1)
    assert seats.on("worker") == [] and seats.worker_of(1) is None


def test_resources_by_rays_names() -> None:
    asks = asks_of({"gpu": 0.5, "special": 2})
    assert asks == {("CPU", 1.0), ("GPU", 0.5), ("special", 2)}
    assert options_of(asks) == {"num_cpus": 1.0, "num_gpus": 0.5, "resources": {"special": 2}}
    assert asks_of({"num_cpus": 3}) == {("CPU", 3)}
    assert covers(asks, asks_of({})) and not covers(asks_of({}), asks)
