"""What a test of a flow stands in: settings of its own, a clock that it moves, events it looks at."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from typing import Any

from anabranch.context import RunContext, current
from anabranch.events import Event, FlowRunChanged, TaskRunChanged
from anabranch.logging import ROOT
from anabranch.outcomes import PHASE_STATES
from anabranch.settings import PREFIX, Settings
from anabranch.testing.clock import MovableClock


class Harness:
    """What `harness()` gives: the movable `clock`, the `events` so far, and log `lines`.

    `home` is the `ANABRANCH_HOME` of the block.
    """

    def __init__(self, home: str, clock: MovableClock) -> None:
        self.home = home
        self.clock = clock
        self.events: list[Event] = []
        self.lines: list[str] = []

    def start(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
        """Call a flow, sync or async, on a thread of its own, so that the test can move the clock."""
        future: Future[Any] = Future()
        context = copy_context()

        def run() -> None:
            try:
                result = context.run(fn, *args, **kwargs)
                if inspect.iscoroutine(result):
                    result = context.run(asyncio.run, result)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        threading.Thread(target=run, name="anabranch-harness", daemon=True).start()
        return future

    def states(self, run_name: str) -> list[str]:
        """The names of the states that runs of this name, of a task or of a flow, went into."""
        found: list[str] = []
        for event in list(self.events):
            if isinstance(event, TaskRunChanged) and event.run.name == run_name:
                found.append(PHASE_STATES[event.phase][1])
            elif isinstance(event, FlowRunChanged) and run_name in (
                event.run.name,
                event.run.flow_name,
            ):
                found.append(event.state.name)
        return found


@contextmanager
def harness(start: float | None = None, **settings: Any) -> Generator[Harness]:
    """Give flows that are called inside the block a clock that a test moves, and nothing to share.

        def test_patience() -> None:
            with harness() as test:
                run = test.start(my_flow)  # its task fails, and retries after an hour
                test.clock.move_to_next()  # waits until the engine does, then lets the hour pass
                assert run.result(timeout=10) == "there at last"
                assert test.states("my_task-0") == ["AwaitingRetry", "Completed"]

    The clock stands at `start`, seconds since the epoch, by default now. Settings are the defaults,
    whatever files and the environment say, but for those given here by name (`cancel_grace=0.1`);
    `ANABRANCH_HOME` is an empty folder, deleted at the end; no progress display shows. Log lines
    go to `lines`, not to the terminal. Flows on threads that the test starts itself need
    `contextvars.copy_context().run`.
    """
    with ExitStack() as stack:
        home = stack.enter_context(tempfile.TemporaryDirectory(prefix="anabranch-"))
        stack.enter_context(_environment({**_defaults(), **settings, "home": home}))
        test = Harness(home, MovableClock(start))
        stack.enter_context(_logged(test.lines))
        token = current.set(HarnessContext(test.clock, (EventList(test.events),)))
        try:
            yield test
        finally:
            current.reset(token)


class HarnessContext(RunContext):
    """Outside of any run, with what an engine that starts here is to use."""

    __slots__ = ("_clock", "_subscribers")

    def __init__(self, clock: MovableClock, subscribers: tuple[Any, ...]) -> None:
        super().__init__()
        self._clock = clock
        self._subscribers = subscribers

    @property
    def clock(self) -> Any:
        return self._clock.share()

    @property
    def subscribers(self) -> tuple[Any, ...]:
        return self._subscribers


class EventList:
    """A subscriber that keeps all events."""

    phases = frozenset(range(len(PHASE_STATES)))
    submissions = True

    def __init__(self, events: list[Event]) -> None:
        self._events = events

    def receive(self, events: Sequence[Event]) -> None:
        self._events.extend(events)

    def close(self) -> None:
        """The list stays."""


def _defaults() -> dict[str, Any]:
    """Set in the environment, they win over `pyproject.toml` and `config.toml`."""
    fields = Settings.model_fields.items()
    simple = {
        name: field.default
        for name, field in fields
        if isinstance(field.default, str | float | int)
    }
    return {**simple, "progress": False}


@contextmanager
def _environment(settings: dict[str, Any]) -> Generator[None]:
    """These settings and no others, as environment variables, which child processes see too."""
    old = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
    for name in old:
        del os.environ[name]
    os.environ.update({PREFIX + name.upper(): str(value) for name, value in settings.items()})
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith(PREFIX)]:
            del os.environ[name]
        os.environ.update(old)


@contextmanager
def _logged(lines: list[str]) -> Generator[None]:
    """Keep the log lines; a handler in place keeps ours from adding that of the terminal."""

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger, handler = logging.getLogger(ROOT), Lines()
    level = logger.level
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
