"""Submits in a loop go on with what the one before has shared: each call is still its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import ContextVar, copy_context

from anabranch import FutureList, flow, runtime, tags, task
from anabranch.identities import inputs_digest

seen: ContextVar[object] = ContextVar("seen", default=None)


@task
def one(n: int) -> tuple[int, object]:
    return n, seen.get()


@task
def two(n: int, twice: bool = False) -> int:
    return 2 * n if twice else n


@task
def own_tags() -> frozenset[str]:
    return frozenset(runtime.task_run.tags)


@task
def own_name() -> str:
    return runtime.task_run.name


def in_four_threads(work: Callable[[], None]) -> None:
    """At once, each in a copy of this context."""
    context = copy_context()
    threads = [threading.Thread(target=context.copy().run, args=(work,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Equal:
    """Equal to each other of its kind, and to nothing at all as an array is."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


def test_each_call_has_the_variables_of_its_own_submit() -> None:
    values: list[object] = [Equal(), Equal(), [], [], 1, True]

    @flow
    def body() -> list[object]:
        futures = [one.submit(-1), one.submit(-2)]
        for number, value in enumerate(values):
            seen.set(value)
            futures += [one.submit(number), one.submit(number)]
        return [future.result()[1] for future in futures]

    found = copy_context().run(body)
    wanted = [None, None, *(each for value in values for each in (value, value))]
    assert len(found) == len(wanted)
    assert all(a is b for a, b in zip(found, wanted, strict=True))


def test_a_variable_that_is_set_back_is_that_of_its_submit() -> None:
    @flow
    def body() -> list[object]:
        futures = [one.submit(0)]
        token = seen.set("inside")
        futures.append(one.submit(1))
        seen.reset(token)
        futures.append(one.submit(2))
        return [future.result()[1] for future in futures]

    assert copy_context().run(body) == [None, "inside", None]


def test_names_count_on_however_submits_alternate() -> None:
    @flow
    def body() -> list[str]:
        futures = [
            *(one.submit(0), one.submit(1)),
            *(two.submit(0), one.submit(2), two.submit(1), two.submit(2, twice=True)),
            *two.map([3, 4]),
            *(two.submit(5), one.submit(3), *two.map([6]), one.submit(4)),
        ]
        assert [f.result() for f in futures[2:8] if f.name.startswith("two")] == [0, 1, 4, 3, 4]
        return [future.name for future in futures]

    assert body() == [
        *("one-0", "one-1", "two-0", "one-2", "two-1", "two-2"),
        *("two-3", "two-4", "two-5", "one-3", "two-6", "one-4"),
    ]


def test_tags_are_those_of_the_block_around_the_submit() -> None:
    @flow
    def body() -> list[frozenset[str]]:
        futures = [own_tags.submit()]
        with tags("a"):
            futures += [own_tags.submit(), own_tags.submit()]
        futures.append(own_tags.submit())
        with tags("a"), tags("b"):
            futures.append(own_tags.submit())
        return [future.result() for future in futures]

    a, both = frozenset({"a"}), frozenset({"a", "b"})
    assert body() == [frozenset(), a, a, frozenset(), both]


def test_threads_of_one_flow_submit_at_once() -> None:
    @flow
    def body() -> list[str]:
        names: list[str] = []

        def submit() -> None:
            futures = [one.submit(n) for n in range(200)]
            assert [future.result()[0] for future in futures] == list(range(200))
            names.extend(future.name for future in futures)

        in_four_threads(submit)
        return names

    names = body()
    assert sorted(names) == sorted(f"one-{n}" for n in range(800))


def test_each_direct_call_has_the_variables_of_its_own_moment() -> None:
    @flow
    def body() -> list[object]:
        found = [one(0)[1], one(1)[1]]
        for value in ("a", "b"):
            seen.set(value)
            found += [one(2)[1], one(3)[1]]
        return found

    assert copy_context().run(body) == [None, None, "a", "a", "b", "b"]


def test_a_direct_call_that_is_tried_again_has_its_own_variables_too() -> None:
    tries: list[tuple[int, object]] = []

    @task(retries=1)
    def second_time(n: int) -> object:
        tries.append((n, seen.get()))
        if tries.count((n, seen.get())) == 1:
            raise ValueError("not yet")
        return seen.get()

    @flow
    def body() -> list[object]:
        found = [second_time(0)]
        seen.set("later")
        return [*found, second_time(1)]

    assert copy_context().run(body) == [None, "later"]
    assert tries == [(0, None), (0, None), (1, "later"), (1, "later")]


def test_direct_calls_and_submits_of_many_threads_count_on() -> None:
    @flow
    def body() -> list[str]:
        names: list[str] = []

        def call() -> None:
            for _ in range(100):
                names.append(own_name())
                names.append(own_name.submit().result())

        in_four_threads(call)
        return names

    assert sorted(body()) == sorted(f"own_name-{n}" for n in range(800))


def test_calls_are_the_same_inputs_whatever_is_submitted_between_them() -> None:
    @flow
    def body(between: bool) -> bytes:
        first = two.submit(1)
        if between:
            one.submit(0)
        return inputs_digest((FutureList([first, two.submit(2)]),), {})

    assert body(True) == body(False)
