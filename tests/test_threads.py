"""How many threads work at once, where calls come by the hundred."""

from __future__ import annotations

import gc
import threading
import time
import weakref

from anabranch import flow, task
from anabranch.task_runners.thread_pool import MANY

WORKERS = 6


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


def test_quick_calls_leave_the_interpreter_to_few_threads() -> None:
    names: set[str] = set()

    @task
    def quick(n: int) -> None:
        names.add(threading.current_thread().name)

    @flow(task_runner=f"threads?max_workers={WORKERS}")
    def body() -> None:
        quick.map(range(100 * MANY)).wait()

    body()
    assert len(names) < WORKERS


def test_a_worker_that_rests_keeps_no_arguments() -> None:
    class Thing:
        pass

    things: list[weakref.ref[Thing]] = []

    @task
    def takes(thing: Thing) -> None:
        things.append(weakref.ref(thing))

    @flow
    def body() -> int:
        takes.map([Thing() for _ in range(30 * MANY)]).wait()
        until = time.monotonic() + 10
        while any(each() is not None for each in things) and time.monotonic() < until:
            gc.collect()
            time.sleep(0.01)
        return sum(each() is not None for each in things)

    assert body() == 0
