"""How many threads work at once, where calls come by the hundred."""

from __future__ import annotations

import threading
import weakref

from anabranch import flow, task
from anabranch.task_runners.pace import LOOKS, MANY, QUICK, Pace

WORKERS = 6


def test_a_look_tells_quick_calls_by_what_each_worker_has_ended() -> None:
    pace = Pace()
    ended = 0
    for at_work in (1, 3, 0):
        ended += QUICK * max(1, at_work)
        pace.look(ended, at_work)
        assert pace.is_quick
        ended += QUICK * max(1, at_work) - 1
        pace.look(ended, at_work)
        assert not pace.is_quick


def test_workers_follow_once_calls_are_not_quick_for_some_looks() -> None:
    pace = Pace()
    pace.hold_back(LOOKS)
    looks = [pace.look(0, 1) for _ in range(LOOKS + 2)]
    assert looks == [False] * (LOOKS - 1) + [True, False, False]
    assert not pace.holds_back


def test_workers_do_not_follow_while_calls_are_quick() -> None:
    pace = Pace()
    pace.hold_back(1)
    for look in range(1, 20):
        assert not pace.look(look * QUICK, 1) and pace.holds_back
    slow = [pace.look(19 * QUICK, 1) for _ in range(LOOKS)]
    assert slow[-1] and not any(slow[:-1])


def test_more_calls_put_off_no_worker_that_calls_before_them_wait_for() -> None:
    pace = Pace()
    pace.hold_back(LOOKS)
    for _ in range(LOOKS - 1):
        assert not pace.look(0, 1)
        pace.hold_back(LOOKS)  # a chunk of the same map, as often as somebody looks
    assert pace.look(0, 1)


def test_who_looks_no_more_holds_nobody_back() -> None:
    pace = Pace()
    pace.hold_back(LOOKS)
    pace.look(QUICK, 1)
    pace.rest()
    assert not (pace.is_quick or pace.holds_back or pace.look(0, 1))


def test_calls_that_need_each_other_get_all_workers() -> None:
    together = threading.Barrier(WORKERS)

    @task
    def meets(n: int) -> int:
        if n < WORKERS:
            together.wait(20)
        return n

    @flow(task_runner=f"threads?max_workers={WORKERS}")
    def body() -> int:
        return sum(meets.map(range(MANY)).result())

    assert body() == sum(range(MANY))


def test_slow_calls_behind_quick_ones_get_all_workers() -> None:
    together = threading.Barrier(WORKERS)
    quick = 20 * MANY

    @task
    def meets(n: int) -> int:
        if n >= quick:
            together.wait(20)
        return n

    @flow(task_runner=f"threads?max_workers={WORKERS}")
    def body() -> int:
        return sum(meets.map(range(quick + WORKERS)).result())

    assert body() == sum(range(quick + WORKERS))


class Thing:
    """An argument whose end can be heard of."""


def test_workers_keep_no_arguments_of_calls_that_have_ended() -> None:
    count = 30 * MANY
    gone = threading.Semaphore(0)

    @task
    def takes(thing: Thing) -> None:
        weakref.finalize(thing, gone.release)

    @flow
    def body() -> bool:
        takes.map([Thing() for _ in range(count)]).wait()
        return all(gone.acquire(timeout=10) for _ in range(count))

    assert body()
