"""Who hears of what: subscribers of what they ask for, the recorder of everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from anabranch.engine.publisher import Publisher
from anabranch.events import Event, Recorder, Subscriber, TaskRunChanged, TaskRunsSubmitted
from anabranch.futures import TaskFuture
from anabranch.outcomes import RETRY_WAIT, SETTLED

GATHER_SECONDS = 0.01
"""How long events for the recorder are gathered, so that many go into one transaction."""

_UNUSUAL = frozenset({RETRY_WAIT})
Run = TaskFuture[Any]


class Broadcast:
    """The events of one engine, on their way to a thread for subscribers and one for the recorder.

    Without a `recorder` nothing is kept. `phases` are those that someone wants to hear of. Of a
    single run that waits for nothing only subscribers are told when it is submitted: most are over
    before anybody could look.
    """

    def __init__(self, subscribers: Sequence[Subscriber], recorder: Recorder | None) -> None:
        self.recorder = recorder
        self.phases = frozenset(phase for each in subscribers for phase in each.phases)
        self._told_of = self.phases
        self.tells_submissions = any(each.submissions for each in subscribers)
        self.publisher = Publisher(subscribers)
        self._recording: Publisher | None = None
        if recorder is not None:
            self.phases |= _UNUSUAL
            gather = 0.0 if recorder.strict else GATHER_SECONDS
            self._recording = Publisher([recorder], gather, recorder.beat, recorder.beat_seconds)
        self.hears_submissions = self.tells_submissions or recorder is not None

    def submitted(
        self,
        runs: Sequence[Run],
        at: float,
        linked: Sequence[tuple[Run, Mapping[Run, bool]]] = (),
        replaced: Sequence[tuple[Run, int]] = (),
    ) -> None:
        """New runs; called with the engine's lock held."""
        event = TaskRunsSubmitted(runs, at, linked, replaced)
        if self.tells_submissions:
            self.publisher.emit((event,), len(runs))
        if self._recording is not None:
            self._recording.emit((event,))

    def settled(self, runs: Sequence[Run]) -> None:
        """Runs that came to an outcome; called with the engine's lock held."""
        if self._recording is not None and self.recorder is not None:
            if self.recorder.settled(runs):
                self._recording.emit((None,), len(runs))
            else:
                self._recording.weigh(len(runs))

    def changed(self, changes: Sequence[TaskRunChanged]) -> None:
        """What became of runs; called with the engine's lock held."""
        told = [each for each in changes if each.phase in self._told_of]
        if told:
            self.publisher.emit(told, len(told))
        if self._recording is not None:
            unusual = [each for each in changes if each.phase < SETTLED]
            if unusual:
                self._recording.emit(unusual)

    def tell(self, *events: Event) -> None:
        """Of flow runs: to all."""
        self.publisher.emit(events)
        self.record(*events)

    def record(self, *events: Event) -> None:
        """To the recorder alone."""
        if self._recording is not None:
            self._recording.emit(events)

    def back_pressure(self) -> None:
        """Hold the calling thread while too many events wait."""
        self.publisher.back_pressure()
        if self._recording is not None:
            self._recording.back_pressure()

    def flush(self, seconds: float) -> bool:
        """Wait until all that was emitted has been recorded, at most so long."""
        return self._recording is None or self._recording.flush(seconds)

    def close(self) -> None:
        """Hand on what is left; to subscribers first, whose last log lines the recorder keeps too."""
        self.publisher.flush()
        if self._recording is not None:
            self._recording.close(60.0)
        self.publisher.close()
