"""What runners of clusters make of what an engine says, where no real one can be had to say it."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from waits import until

from anabranch.clock import SystemClock
from anabranch.execution import messages
from anabranch.execution.calls import Call, Scope, TaskSpec
from anabranch.execution.cluster_calls import Sent
from anabranch.execution.messages import framed
from anabranch.execution.portable import packed
from anabranch.execution.remote_logs import packed_record
from anabranch.outcomes import CANCELLED, COMPLETED, CRASHED, Outcome
from anabranch.task_runners import RayTaskRunner
from anabranch.task_runners.cluster_port import Flying, Group, Problem
from anabranch.task_runners.cluster_runner import RESTARTS, ClusterRunner, Heard, cluster_at_work
from anabranch.task_runners.reminders import Reminders


def nothing() -> None:
    """What the task does."""


AT = SimpleNamespace(clock=SystemClock())  # what a scope's engine has to be here
SCOPE = Scope(AT, None, None, None, frozenset(), False, 0, 1, 0)
CALL = Call(1, 1, TaskSpec("t", "t", nothing), SCOPE, (), {})


class Engine:
    """An engine that does nothing by itself."""

    reply_to = "here"
    counts_frames = True

    def __init__(self) -> None:
        self.groups: list[Group] = []
        self.cancelled: list[int] = []
        self.problems: deque[Problem] = deque()
        self.killed: list[int] = []
        self.gone: list[str] = []
        self.told: list[Any] = []

    def slots(self) -> int | None:
        return 2

    def start(self, groups: Sequence[tuple[Group, Sequence[Sent]]]) -> Iterator[Any]:
        self.groups += [group for group, _ in groups]
        yield from ("handle" for _ in groups)

    def cancel(self, flying: Sequence[Flying]) -> None:
        self.cancelled += [each.call.key for each in flying]

    def kill(self, flying: Flying) -> None:
        self.killed.append(flying.call.key)

    def tell(self, worker: str, frame: bytes) -> None:
        self.told += [(worker, message[0]) for message in messages.unframed(frame)]

    def fetch(self, handle: Any) -> Any:
        return handle

    def waits(self, flying: Flying) -> None: ...

    def ended(self, flying: Flying) -> None: ...

    def is_gone(self, worker: str) -> None:
        self.gone.append(worker)

    def look(self, flying: Iterable[Flying]) -> list[Problem]:
        return [self.problems.popleft() for _ in range(len(self.problems))]

    def close(self) -> None: ...


class Outcomes:
    """An inbox that keeps what it is told."""

    def __init__(self) -> None:
        self.all: list[Outcome] = []

    def desk(self, tell: Any) -> Any: ...

    def future(self, prefix: int, key: int) -> Any: ...

    def started(self, key: int, attempt: int) -> None: ...

    def finished(self, outcomes: Sequence[Outcome]) -> None:
        self.all += outcomes


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def inbox() -> Outcomes:
    return Outcomes()


@pytest.fixture
def runner(engine: Engine, inbox: Outcomes) -> Iterator[ClusterRunner]:
    with cluster_at_work(inbox, RayTaskRunner().capabilities(), lambda runner: engine) as runner:
        runner.launch([CALL])
        yield runner


def started(runner: ClusterRunner, worker: str) -> None:
    runner.heard(Heard(worker, framed([(messages.STARTED, 1, 1)]), 1))


def begun(runner: ClusterRunner) -> None:
    """Its call has begun on "worker", and the runner knows."""
    started(runner, "worker")
    until(lambda: list(runner.running()), "its beginning")


def test_a_call_whose_workers_die_without_end_is_given_up(
    runner: ClusterRunner, engine: Engine, inbox: Outcomes
) -> None:
    for number in range(RESTARTS + 1):
        started(runner, f"worker {number}")
    until(lambda: len(engine.gone) == RESTARTS, "the deaths")
    assert inbox.all == []
    started(runner, "the last one")
    (outcome,) = until(lambda: inbox.all, "its end")
    assert outcome.phase == CRASHED and "6 workers died under it" in str(outcome.value)
    assert engine.cancelled == [1]


def test_an_end_waits_for_what_was_told_before(
    runner: ClusterRunner, inbox: Outcomes, caplog: pytest.LogCaptureFixture
) -> None:
    record = logging.makeLogRecord({"name": "anabranch", "levelno": 40, "msg": "late", "args": ()})
    ended = packed(Outcome(1, 1, COMPLETED, 7, 0.0, 0.0), lambda: "t")
    runner.heard(Heard("worker", framed([(messages.ENDED, ended, None, 2)])))
    started(runner, "worker")
    until(lambda: list(runner.running()), "its beginning")
    assert inbox.all == []
    runner.heard(Heard("worker", framed([(messages.LOG, packed_record(record))]), 1))
    (outcome,) = until(lambda: inbox.all, "its end")
    assert outcome.value == 7 and "late" in caplog.text


def test_a_cancelled_call_that_says_nothing_has_not_begun(
    runner: ClusterRunner, engine: Engine, inbox: Outcomes
) -> None:
    runner.cancel([1])
    (outcome,) = until(lambda: inbox.all, "its end")
    assert outcome.phase == CANCELLED and engine.cancelled == [1] and engine.killed == []


def test_a_call_that_does_not_stop_is_killed_once(
    runner: ClusterRunner, engine: Engine, inbox: Outcomes
) -> None:
    begun(runner)
    runner.cancel([1])
    until(lambda: engine.killed, "the kill")
    until(lambda: ("worker", messages.ABANDON) in engine.told, "the last word")
    assert engine.told[0] == ("worker", messages.INTERRUPT)
    assert engine.killed == [1] and inbox.all == []


def test_an_attempt_that_the_next_has_overtaken_is_ended(
    runner: ClusterRunner, engine: Engine, inbox: Outcomes
) -> None:
    begun(runner)
    runner.cancel([1])
    runner.launch([CALL._replace(attempt=2)])
    runner.heard(Heard("other", framed([(messages.STARTED, 1, 2)]), 1))
    runner.heard(
        Heard("worker", framed([(messages.WAITS, 1, 1)]), 1)
    )  # the first has not heard of it
    until(lambda: ("worker", messages.ABANDON) in engine.told, "the last word")
    assert engine.told[0] == ("worker", messages.INTERRUPT) and engine.gone == []
    assert runner.abandoned() == ["t-0 on other", "t-0 on worker"]
    for worker, attempt in (("worker", 1), ("other", 2)):
        ended = packed(Outcome(1, attempt, COMPLETED, attempt, 0.0, 0.0), lambda: "t")
        runner.heard(Heard(worker, framed([(messages.ENDED, ended, None, 0)])))
    (outcome,) = until(lambda: inbox.all, "its end")
    assert outcome.value == 2 and runner.abandoned() == []


def test_a_value_that_comes_beside_its_end_is_that_of_the_call(
    runner: ClusterRunner, inbox: Outcomes
) -> None:
    ended = packed(Outcome(1, 1, COMPLETED, None, 0.0, 0.0), lambda: "t")
    runner.heard(Heard("worker", framed([(messages.ENDED, ended, 100_000, 0)]), 1, "beside"))
    (outcome,) = until(lambda: inbox.all, "its end")
    assert outcome.value.load() == "beside"


GROUP = [
    CALL._replace(key=key, scope=replace(SCOPE, batch_size=3), args=(key,)) for key in (2, 3, 4)
]
"""What goes together."""


def ends(runner: ClusterRunner, key: int) -> None:
    ended = packed(Outcome(key, 1, COMPLETED, key, 0.0, 0.0), lambda: "t")
    runner.heard(Heard("worker", framed([(messages.ENDED, ended, None, 0)])))


def gone_together(runner: ClusterRunner, engine: Engine) -> Group:
    runner.launch(GROUP)
    until(lambda: len(engine.groups) == 2, "the group")
    assert engine.groups[1].size == 3
    return engine.groups[1]


def test_calls_that_a_worker_gives_back_go_once_more(
    runner: ClusterRunner, engine: Engine, inbox: Outcomes
) -> None:
    group = gone_together(runner, engine)
    ends(runner, 2)
    back = (messages.RETURNED, [(2, 1), (3, 1), (4, 1)], True, group.number)
    for _ in range(2):  # an engine that starts it anew has it given back again
        runner.heard(Heard("worker", framed([back])))
    until(lambda: len(engine.groups) == 4, "those that go alone")
    assert [each.left for each in engine.groups[2:]] == [{3}, {4}]
    for key in (3, 4):
        ends(runner, key)
    until(lambda: len(inbox.all) == 3, "their ends")
    assert [outcome.value for outcome in inbox.all] == [2, 3, 4] and len(engine.groups) == 4


def test_a_problem_of_a_group_is_one_of_none_of_its_calls(
    runner: ClusterRunner, engine: Engine, inbox: Outcomes
) -> None:
    group = gone_together(runner, engine)
    for _ in range(2):  # the second is old news
        engine.problems += [Problem(key, 1, OSError(), True, group) for key in (2, 3, 4)]
        until(lambda: len(engine.groups) == 5 and not engine.problems, "those that go alone")
    assert inbox.all == []
    engine.problems.append(Problem(3, 1, OSError("it again"), True, engine.groups[3]))
    (outcome,) = until(lambda: inbox.all, "its end")
    assert (outcome.key, outcome.phase) == (3, CRASHED) and "it again" in str(outcome.value)


def test_a_filter_that_raises_costs_no_call_its_end(
    runner: ClusterRunner, engine: Engine, inbox: Outcomes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(data: bytes) -> None:
        raise ValueError("a filter of the user's")

    monkeypatch.setattr("anabranch.task_runners.cluster_runner.handle_remote", fails)
    gone_together(runner, engine)
    ended = [packed(Outcome(key, 1, COMPLETED, key, 0.0, 0.0), lambda: "t") for key in (2, 3, 4)]
    words = [(messages.ENDED, each, None, 0) for each in ended]
    runner.heard(Heard("worker", framed([words[0], (messages.LOG, b""), *words[1:]])))
    until(lambda: len(inbox.all) == 3, "their ends")


def test_calls_that_are_cancelled_as_they_go_leave_their_place(
    runner: ClusterRunner, engine: Engine, inbox: Outcomes
) -> None:
    """Between being taken and being on their way: as if the cancellation came just then."""
    taken = runner._grouping.take  # pyright: ignore[reportPrivateUsage]  # the moment is inside

    def take(*args: Any) -> Any:
        groups = taken(*args)
        if any(sent.call.key == 2 for group in groups for sent in group):
            runner.cancel([2, 3, 4])
        return groups

    runner._grouping.take = take  # pyright: ignore[reportPrivateUsage]  # as above
    runner.launch(GROUP)
    until(lambda: len(inbox.all) == 3, "their ends")
    kinds = runner._grouping._kinds.values()  # pyright: ignore[reportPrivateUsage]  # nothing else shows it
    assert sum(kind.out for kind in kinds) == 1  # the fixture's call


def test_a_call_of_a_group_that_was_cancelled_is_not_given_back(
    runner: ClusterRunner, engine: Engine, inbox: Outcomes
) -> None:
    group = gone_together(runner, engine)
    runner.cancel([3])
    runner.heard(Heard("worker", framed([(messages.RETURNED, [(3, 1)], False, group.number)])))
    (outcome,) = until(lambda: inbox.all, "its end")
    assert (outcome.key, outcome.phase) == (3, CANCELLED)
    assert engine.cancelled == [3] and len(engine.groups) == 2


def test_reminders_wait_a_while_and_do_not_repeat_themselves(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = [0.0]
    monkeypatch.setattr("anabranch.task_runners.reminders.monotonic", lambda: clock[0])
    reminders, said = Reminders(), list[int]()
    for clock[0] in (100.0, 101.9, 102.0, 103.0, 131.9, 132.0):
        reminders.say("it", "it waits")
        said.append(len(caplog.records))
    assert said == [0, 0, 1, 1, 1, 2]
    reminders.settle("it")
    reminders.say("it", "it waits")
    assert len(caplog.records) == 2
