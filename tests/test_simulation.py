"""Whole flows in the simulated world: ten thousand programs, and proof that faults are seen there."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from anabranch.engine.admission import Admission
from anabranch.engine.tracker import Commands, Tracker
from anabranch.outcomes import NOT_READY, TIMED_OUT, Outcome
from anabranch.testing.simulation import SimulationError, simulate, sweep

PROGRAMS = 10_000
CHUNK = 1_000


@pytest.mark.parametrize("first", range(1, PROGRAMS + 1, CHUNK))
def test_programs_from_seed(first: int) -> None:
    assert sum(1 for _ in sweep(first, CHUNK)) == CHUNK


def test_a_seed_gives_the_same_world_each_time() -> None:
    for seed in range(1, 40):
        assert simulate(seed) == simulate(seed)


def listens_to_old_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    completed = Tracker.completed

    def mutated(self: Tracker, outcomes: Sequence[Outcome], commands: Commands) -> None:
        live = [(self.live.get(outcome.key), outcome) for outcome in outcomes]
        meant = [
            outcome if run is None else outcome._replace(attempt=run._attempt)
            for run, outcome in live
        ]
        completed(self, meant, commands)

    monkeypatch.setattr(Tracker, "completed", mutated)


def leaves_dependents_of_what_never_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    close = Tracker._close

    def mutated(self: Tracker, run: Any, outcome: Outcome, commands: Commands) -> None:
        close(self, run, outcome, commands)
        if outcome.phase == NOT_READY and run._links is not None:
            run._links.dependents = []

    monkeypatch.setattr(Tracker, "_close", mutated)


def forgets_to_wake(monkeypatch: pytest.MonkeyPatch) -> None:
    release = Tracker._release

    def mutated(self: Tracker, run: Any, at: float, commands: Commands) -> None:
        release(self, run, at, commands)
        if run._key % 5 == 0:
            commands.wakes.clear()

    monkeypatch.setattr(Tracker, "_release", mutated)


def lets_late_outcomes_overwrite_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    timed_out: dict[int, Any] = {}
    close, completed = Tracker._close, Tracker.completed

    def noting(self: Tracker, run: Any, outcome: Outcome, commands: Commands) -> None:
        close(self, run, outcome, commands)
        if outcome.phase == TIMED_OUT:
            timed_out[run._key] = run

    def mutated(self: Tracker, outcomes: Sequence[Outcome], commands: Commands) -> None:
        completed(self, outcomes, commands)
        for outcome in outcomes:
            run = timed_out.get(outcome.key)
            if run is not None and run._attempt == outcome.attempt:
                run._outcome, run._phase = outcome, outcome.phase

    monkeypatch.setattr(Tracker, "_close", noting)
    monkeypatch.setattr(Tracker, "completed", mutated)


def keeps_resources(monkeypatch: pytest.MonkeyPatch) -> None:
    leave = Admission.leave
    monkeypatch.setattr(Admission, "leave", lambda self, run: leave(self, run)[:0])


def runs_dependents_of_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    wait_for = Tracker._wait_for

    def mutated(self: Tracker, run: Any, blockers: Any, at: float, commands: Commands) -> None:
        wait_for(self, run, dict.fromkeys(blockers, True), at, commands)

    monkeypatch.setattr(Tracker, "_wait_for", mutated)


def counts_lost_workers_as_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tracker, "_may_lose_another_worker", lambda self, run: False)


@pytest.mark.parametrize(
    "mutate",
    [
        listens_to_old_attempts,
        leaves_dependents_of_what_never_ran,
        forgets_to_wake,
        lets_late_outcomes_overwrite_a_timeout,
        keeps_resources,
        runs_dependents_of_failures,
        counts_lost_workers_as_failures,
    ],
)
def test_a_fault_is_seen(
    monkeypatch: pytest.MonkeyPatch, mutate: Callable[[pytest.MonkeyPatch], None]
) -> None:
    mutate(monkeypatch)
    with pytest.raises(SimulationError, match=r"The program of seed \d+ went wrong"):
        for _ in sweep(1, 2_000):
            pass


def test_the_command_prints_its_seeds() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "anabranch.testing.simulation", "--programs", "50", "--seed", "7"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "seeds 7 to 56"
    assert lines[-1].startswith("all 50 programs held")
