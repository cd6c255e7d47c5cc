"""The port that every task runner implements, and what a runner is given in return.

A `TaskRunner` is a value: a name and options. A flow opens it for its own length and gets an
`OpenRunner`, which carries calls to where they run and brings outcomes back to an `Inbox`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from anabranch.errors import TaskRunnerOptionError, UnsupportedOptionError
from anabranch.execution.calls import Call
from anabranch.futures import TaskFuture
from anabranch.outcomes import Outcome
from anabranch.waiting import Waiter


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a runner can do, so that what it cannot is refused before it runs.

    `stops_sync` and `stops_async` say whether a running function can be ended from outside;
    `parallel` whether Python code of two calls runs at the same time; `resources` is what it
    counts, None where it hands them to an engine that knows better.
    """

    name: str
    priority: bool
    stops_sync: bool
    stops_async: bool
    parallel: bool
    remote: bool = False
    resources: Mapping[str, float] | None = field(default_factory=dict[str, float])


class Desk(Protocol):
    """Where the engine answers one worker process; callable from any thread."""

    def asked(self, call: Call, request: bytes) -> None:
        """A call that runs there asks something, see `execution/requests.py`."""
        ...

    def ended(self, key: int) -> None:
        """A call there has ended, and asks nothing more."""
        ...

    def close(self) -> None:
        """The worker is gone, with all that it carried."""
        ...


class Inbox(Protocol):
    """Where an open runner tells what becomes of its calls; callable from any thread."""

    def desk(self, tell: Callable[[bytes], None]) -> Desk:
        """The desk of a new worker process, whose `RemoteEngine.told` gets what `tell` is given,
        in that order."""
        ...

    def future(self, prefix: int, key: int) -> TaskFuture[Any]:
        """The future that a worker's reference stands for; see `execution/pickling.py`."""
        ...

    def started(self, key: int, attempt: int) -> None:
        """An attempt began, told for calls whose task announces."""
        ...

    def finished(self, outcomes: Sequence[Outcome]) -> None:
        """Attempts ended; in groups where they come quickly."""
        ...


class OpenRunner(Protocol):
    """A runner at work, for the length of one flow."""

    capabilities: Capabilities

    def launch(self, calls: Sequence[Call]) -> None:
        """Take these calls; each gives exactly one outcome. Never blocks for a free worker."""
        ...

    def cancel(self, keys: Iterable[int]) -> None:
        """Drop what has not started, with a cancelled outcome; stop what runs, if it can."""
        ...

    def wait(
        self, waiter: Waiter, futures: Sequence[TaskFuture[Any]], timeout: float | None
    ) -> bool:
        """Block the calling thread until the waiter is done, at most `timeout` seconds.

        Where the thread is a worker of this runner, others get to work meanwhile.
        """
        ...

    def run_awaited(self, key: int) -> None:
        """Run this call in the calling thread, if that is a worker of this runner which would only
        wait for it, and no other has begun it."""
        ...

    def lend(self) -> AbstractContextManager[Any]:
        """Give up the calling worker's slot for the length of the block."""
        ...

    def running(self) -> Iterable[tuple[int, int]]:
        """Key and attempt of what runs right now."""
        ...

    def runs_on(self, loop: Any) -> bool:
        """Whether this event loop has to turn for calls to run."""
        ...

    def abandoned(self) -> list[str]:
        """What still runs and cannot be stopped, by name."""
        ...


class OpenRunnerBase:
    """Answers of a runner with nothing special to them."""

    def wait(
        self, waiter: Waiter, futures: Sequence[TaskFuture[Any]], timeout: float | None
    ) -> bool:
        with self.lend():
            return waiter.wait(timeout)

    def run_awaited(self, key: int) -> None:
        pass

    def lend(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def runs_on(self, loop: Any) -> bool:
        return False

    def abandoned(self) -> list[str]:
        return []


class TaskRunner:
    """How a flow's tasks are carried out. Subclasses are values: options in, no state.

    `scheme` is the name in strings such as `"threads?max_workers=4"`.
    """

    scheme: ClassVar[str]

    @classmethod
    def from_string(cls, target: str, options: Mapping[str, str]) -> TaskRunner:
        """The runner for `scheme://target?options`; raises `TaskRunnerOptionError`."""
        raise NotImplementedError

    def open(self, inbox: Inbox, loop: Any) -> AbstractContextManager[OpenRunner]:
        """Start it. `loop` is the running event loop of an async flow, None for a sync one."""
        raise NotImplementedError


def whole_number(runner: str, option: str, value: Any, default: int) -> int:
    """A count from 1 on, also out of a string; None gives the default."""
    if value is None:
        return default
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if number < 1 or isinstance(value, bool | float):
        raise TaskRunnerOptionError(runner, option, value, "a whole number, 1 or more")
    return number


def counted(runner: str, resources: Mapping[str, float] | None) -> dict[str, float]:
    """The amounts of a runner's own resources, checked."""
    for name, amount in (resources or {}).items():
        if isinstance(amount, bool) or not isinstance(amount, int | float) or amount <= 0:  # pyright: ignore[reportUnnecessaryIsInstance]  # users without a type checker
            raise TaskRunnerOptionError(runner, f"resources[{name!r}]", amount, "a number above 0")
    return dict(resources or {})


def only_options(runner: str, options: Mapping[str, str], known: Iterable[str]) -> None:
    """Refuse options of a runner's string that it does not have."""
    known = list(known)
    for name, value in options.items():
        if name not in known:
            expected = f"only these options: {', '.join(known)}" if known else "no options"
            raise TaskRunnerOptionError(runner, name, value, expected)


def refuse_unsupported(
    task_name: str, resources: Mapping[str, float], priority: int, runner: OpenRunner
) -> None:
    """Raise `UnsupportedOptionError` for what a task asks and this runner cannot do."""
    can = runner.capabilities
    if priority and not can.priority:
        raise UnsupportedOptionError(
            task_name, f"priority={priority}", can.name, "Leave it out, or use threads."
        )
    if can.resources is None:
        return
    for name, amount in resources.items():
        if can.resources.get(name, 0) < amount:
            has = can.resources.get(name)
            raise UnsupportedOptionError(
                task_name,
                f"{amount:g} of resource {name!r}",
                can.name,
                f"It counts {has:g} of it."
                if has
                else f"Give the runner some: resources={{{name!r}: {amount:g}}}.",
            )
