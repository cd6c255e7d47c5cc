"""A world with one thread: what runs, what arrives, and when, is drawn from a seed.

Whoever waits turns the world until what is waited for has come. Each turn does one thing that can
be done: run a call, deliver an outcome, call a user's function, say something again that was said
before; time moves to the next timer when nothing else is left.
"""

# pyright: reportPrivateUsage=false
# The world looks at the engine's records, which are private to users.

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from random import Random

from anabranch.engine.callbacks import Callbacks
from anabranch.engine.engine import Engine
from anabranch.engine.publisher import Publisher
from anabranch.errors import CancelledRun, CrashedRun
from anabranch.events import Event, Subscriber
from anabranch.execution.calls import Call
from anabranch.execution.run import run_call
from anabranch.outcomes import CANCELLED, COMPLETED, CRASHED, FAILED, PHASE_STATES, Outcome
from anabranch.task_runners.base import Inbox
from anabranch.testing.clock import MovableClock
from anabranch.waiting import Waiter

Place = tuple[int, int]
"""A run's key, and the number of the attempt."""

LATE = "late: nobody should see this value"
MOST_TURNS = 50_000
CROWDED = 10
"""Calls inside each other from which on the newest go first, so that the stack stays shallow."""
DEATHS_WITHOUT_STORM = 2
"""Workers that may die under one run, since the tracker allows as many."""


class StuckError(Exception):
    """Nothing is left that could happen, and someone waits."""


class World:
    """Calls on their way, outcomes on theirs, and the clock between them."""

    def __init__(self, seed: int, stormy: bool) -> None:
        self.rng = Random(f"world {seed}")
        self.stormy = stormy
        self.clock = MovableClock(start=0.0)
        self.queue: list[tuple[Inbox, Call]] = []
        self.launched: set[Place] = set()
        self.on_stack: set[Place] = set()
        self.delayed: dict[Place, tuple[Inbox, Outcome]] = {}
        self.ready: dict[Place, tuple[Inbox, Outcome]] = {}
        self.hung: dict[Place, tuple[Inbox, Outcome]] = {}
        self.past: list[tuple[Inbox, Outcome]] = []
        self.callbacks: list[Callable[[], object]] = []
        self.deaths: dict[int, int] = {}
        self.deadliness = self.rng.choice((0.0, 0.05, 0.05, 0.4))
        self.turns = 0
        self.interrupts_at = self.rng.randint(1, 40) if stormy and self.rng.random() < 0.2 else 0
        self.interrupted = False
        self.stuck: str | None = None
        self.wrong: list[str] = []
        self.engine: Engine | None = None

    def new_engine(self, subscribers: Sequence[Subscriber]) -> Engine:
        """An engine of this world, with neither a thread nor a clock of its own."""
        engine = self.engine = Engine(self.clock, subscribers, grace=5.0)
        engine.broadcast.publisher = DirectPublisher(subscribers)
        engine.callbacks = WorldCallbacks(self)
        return engine

    # -- what runners and callbacks bring -----------------------------------------------------------

    def launch(self, inbox: Inbox, calls: Sequence[Call]) -> None:
        for call in calls:
            place = (call.key, call.attempt)
            if place in self.launched:
                self.wrong.append(f"{call.run_name} was launched twice as attempt {call.attempt}")
            self.launched.add(place)
            self.queue.append((inbox, call))

    def cancel(self, keys: Iterable[int]) -> None:
        """Some stop when asked, now or later; some do not hear it."""
        keys = set(keys)
        for entry in [entry for entry in self.queue if entry[1].key in keys]:
            self.queue.remove(entry)
            self._arrives(entry[0], self._cancelled((entry[1].key, entry[1].attempt)))
        for waiting in (self.delayed, self.ready):
            for place in [place for place in waiting if place[0] in keys]:
                draw = self.rng.random()
                if draw < 0.5:
                    inbox, _ = waiting.pop(place)
                    self._arrives(inbox, self._cancelled(place))
                elif draw < 0.7:
                    self.hung[place] = waiting.pop(place)  # only the grace period ends it

    def _cancelled(self, place: Place) -> Outcome:
        return Outcome(*place, CANCELLED, None, self.clock.time(), 0.0, "Stopped.")

    # -- waiting ------------------------------------------------------------------------------------

    def wait(self, waiter: Waiter, timeout: float | None) -> bool:
        """Turn the world until the waiter is done, or so many of its seconds have passed."""
        deadline = None
        if timeout is not None:
            deadline = self.clock.time() + timeout
            self.clock.call_later(timeout, _nothing)
        while not waiter.done:
            if deadline is not None and self.clock.time() >= deadline:
                return False
            self.turn()
        return True

    def turn(self) -> None:
        """Let one thing happen. Raises `StuckError` where nothing can.

        In a storm it may raise `CancelledRun` once, in whoever waits, as Ctrl-C would.
        """
        self.turns += 1
        rng = self.rng
        choices: list[Callable[[], None]] = []
        if self.queue:
            choices += (self._run_one, self._run_one)
        if self.ready:
            choices.append(self._deliver)
        if self.callbacks:
            choices.append(self._call_back)
        draw = rng.random()
        if self.turns > MOST_TURNS:
            raise self._is_stuck(f"no end after {MOST_TURNS} turns")
        if self.turns == self.interrupts_at:
            self.interrupted = True
            raise CancelledRun("Interrupted from outside.")
        if self.past and draw < 0.05:
            self._say_again()
        elif not choices or (self.stormy and draw > 0.97 and self.clock.timers):
            if not self.clock.timers:
                raise self._is_stuck("nothing is queued, on its way or due")
            self.clock.move_to_next()
        else:
            rng.choice(choices)()

    def _is_stuck(self, why: str) -> StuckError:
        assert self.engine is not None  # who waits has one
        self.stuck = self.stuck or f"{why}; {waiting_for(self.engine)}"
        return StuckError(self.stuck)

    # -- what can happen ----------------------------------------------------------------------------

    def _run_one(self) -> None:
        crowded = len(self.on_stack) >= CROWDED
        inbox, call = self.queue.pop(-1 if crowded else self.rng.randrange(len(self.queue)))
        place = (call.key, call.attempt)
        if call.spec.announces:
            inbox.started(*place)
        dies = self._worker_dies(call.key)
        if dies and not (self.stormy and self.rng.random() < 0.5):
            outcome = self._lost(place)  # before the function ran
        else:
            self.on_stack.add(place)
            outcome = run_call(call)
            self.on_stack.discard(place)
            outcome = outcome._replace(started=self.clock.time(), seconds=0.0)
            if dies:
                outcome = self._lost(place)
        self._sets_out(inbox, outcome, call.spec.timeout)

    def _worker_dies(self, key: int) -> bool:
        if self.rng.random() >= self.deadliness:
            return False
        deaths = self.deaths.get(key, 0)
        if deaths >= DEATHS_WITHOUT_STORM and not self.stormy:
            return False
        self.deaths[key] = deaths + 1
        return True

    def _lost(self, place: Place) -> Outcome:
        error = CrashedRun("The worker died.")
        return Outcome(*place, CRASHED, error, self.clock.time(), 0.0, "Lost.", lost=True)

    def _sets_out(self, inbox: Inbox, outcome: Outcome, timeout: float | None) -> None:
        """An outcome arrives at once, with others, or after a while: in a storm, too late."""
        draw = self.rng.random()
        place = (outcome.key, outcome.attempt)
        if draw < 0.5:
            self._finished(inbox, [outcome])
        elif draw < 0.75 and (self.stormy or timeout is None):
            self.ready[place] = inbox, outcome
        else:
            longest = 20.0 if self.stormy else min(timeout or 5.0, 5.0) * 0.9
            self.delayed[place] = inbox, outcome
            self.clock.call_later(self.rng.uniform(0.0, longest), lambda: self._is_here(place))

    def _is_here(self, place: Place) -> None:
        if place not in self.delayed:
            return
        inbox, outcome = self.delayed.pop(place)
        if self.stormy:
            self.ready[place] = inbox, outcome
        else:
            self._finished(inbox, [outcome])  # before its timeout is due

    def _arrives(self, inbox: Inbox, outcome: Outcome) -> None:
        if self.rng.random() < 0.5:
            self._finished(inbox, [outcome])
        else:
            self.ready[outcome.key, outcome.attempt] = inbox, outcome

    def _deliver(self) -> None:
        """Some of the outcomes that are here, in any order."""
        places = self.rng.sample(list(self.ready), self.rng.randint(1, len(self.ready)))
        inbox = self.ready[places[0]][0]
        self._finished(inbox, [self.ready.pop(place)[1] for place in places])

    def _finished(self, inbox: Inbox, outcomes: list[Outcome]) -> None:
        self.past += [(inbox, outcome) for outcome in outcomes]
        inbox.finished(outcomes)

    def _call_back(self) -> None:
        self.callbacks.pop(0)()

    def _say_again(self) -> None:
        """Tell something of an attempt that is over: the engine must not listen."""
        inbox, outcome = self.rng.choice(self.past)
        if not self.is_over(outcome):
            return
        kind = self.rng.randrange(5)
        if kind == 0:
            inbox.started(outcome.key, outcome.attempt)
        elif kind == 1:
            inbox.finished([outcome])
        elif kind == 2:
            inbox.finished([self._lost((outcome.key, outcome.attempt))])
        elif kind == 3:
            inbox.finished([outcome._replace(phase=COMPLETED, value=LATE, lost=False)])
        else:
            error = ValueError(LATE)
            inbox.finished([outcome._replace(phase=FAILED, value=error, lost=False)])

    def is_over(self, outcome: Outcome) -> bool:
        """Whether the engine has taken notice of this attempt's end."""
        assert self.engine is not None  # it sent the call
        run = self.engine._tracker.live.get(outcome.key)
        return run is None or run._attempt > outcome.attempt

    def let_all_arrive(self) -> None:
        """All that is still on its way, and all that was said before, once more."""
        for waiting in (self.delayed, self.ready, self.hung):
            for inbox, outcome in list(waiting.values()):
                inbox.finished([outcome])
        for inbox, outcome in self.past:
            inbox.started(outcome.key, outcome.attempt)
            inbox.finished([outcome])
            inbox.finished([outcome._replace(phase=COMPLETED, value=LATE, lost=False)])
        while self.clock.timers:
            self.clock.move_to_next()


class WorldCallbacks(Callbacks):
    """Users' functions, called in a turn of the world instead of on a thread."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def put(self, work: Callable[[], object]) -> None:
        self._world.callbacks.append(work)

    def idle(self) -> bool:
        return not self._world.callbacks

    def drain(self, seconds: float) -> bool:
        while self._world.callbacks:
            self._world.callbacks.pop(0)()
        return True


class DirectPublisher(Publisher):
    """Hands events on at once."""

    def emit(self, events: Iterable[Event], weight: int = 0) -> None:
        batch = list(events)
        for listener in self._listeners:
            listener.receive(batch)


def waiting_for(engine: Engine) -> str:
    """What has not settled, and what each of it waits for."""
    told: list[str] = []
    for run in list(engine._tracker.live.values())[:10]:
        links = run._links
        blockers = [] if links is None else [each.name for each in links.blockers]
        behind = f", behind {', '.join(blockers)}" if blockers else ""
        told.append(f"{run.name} (attempt {run._attempt}) is {PHASE_STATES[run._phase][1]}{behind}")
    return "; ".join(told) or "no run is left unsettled"


def _nothing() -> None:
    """For the end of a wait: time has something to move to."""
