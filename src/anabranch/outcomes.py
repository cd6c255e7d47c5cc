"""How one attempt of a run ended, and the phases that a run passes through.

Phases are plain integers in the order of a run's life, so that the hot path compares numbers;
`PHASE_STATES` says which state a user sees for each.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, NamedTuple

WAITING: Final = 0  # for what it depends on
SLOT_WAIT: Final = 1  # for a counted resource
QUEUED: Final = 2  # with its runner, which has not started it
RUNNING: Final = 3
RETRY_WAIT: Final = 4
CANCELLING: Final = 5
RECORDING: Final = 6  # ended, and not to be told of before that is kept
DORMANT: Final = 7  # completed in an earlier process, which kept no value: runs again if asked for
NOT_READY: Final = 8  # the first settled phase: what it depends on did not complete
COMPLETED: Final = 9
FAILED: Final = 10
TIMED_OUT: Final = 11
CRASHED: Final = 12
CANCELLED: Final = 13

SETTLED: Final = NOT_READY

PHASE_STATES: Final[tuple[tuple[str, str], ...]] = (
    ("PENDING", "Pending"),
    ("SCHEDULED", "AwaitingConcurrencySlot"),
    ("PENDING", "Pending"),
    ("RUNNING", "Running"),
    ("SCHEDULED", "AwaitingRetry"),
    ("CANCELLING", "Cancelling"),
    ("RUNNING", "Running"),
    ("COMPLETED", "Completed"),
    ("PENDING", "NotReady"),
    ("COMPLETED", "Completed"),
    ("FAILED", "Failed"),
    ("FAILED", "TimedOut"),
    ("CRASHED", "Crashed"),
    ("CANCELLED", "Cancelled"),
)


ROLLED_BACK: Final = "RolledBack"
"""The name of the state of a completed run that its transaction has undone."""

JSON: Final = "json"
PICKLE: Final = "pickle"
STORED: Final = "stored"
NOT_KEPT: Final = "not kept"


class Kept(NamedTuple):
    """What is left of a value.

    `form` is `"json"` or `"pickle"`, whose `data` is the value itself, yet unsigned; `"stored"`,
    whose `data` says where; or `"not kept"`, with the `reason`. `size` in bytes, where known.
    """

    form: str
    data: bytes | None
    size: int | None
    preview: str | None
    reason: str | None


class Away(NamedTuple):
    """Stands for a value that is not held in memory; `load()` reads it from where it is kept.

    `remote` is set where that is the memory of a cluster.
    """

    load: Callable[[], Any]
    remote: RemoteValue | None = None


class RemoteValue:
    """A value that stays where it was made, in the memory of a cluster.

    `home` is the open runner that can hand it to other calls there by its `handle`; `fetch` brings
    it here. `size` is in bytes.
    """

    __slots__ = ("__weakref__", "_here", "fetch", "handle", "home", "size")

    def __init__(
        self, home: object, handle: Any, size: int, fetch: Callable[[RemoteValue], Any]
    ) -> None:
        self.home: object | None = home
        self.handle = handle
        self.size = size
        self.fetch = fetch
        self._here: tuple[Any] | None = None

    def load(self) -> Any:
        """The value itself; raises `LostResultError` where the cluster has it no more."""
        return self.fetch(self) if self._here is None else self._here[0]

    def bring_home(self) -> None:
        """Hold the value here from now on, and let the cluster's go."""
        self._here = (self.fetch(self),)
        self.home = self.handle = None

    def __reduce__(self) -> Any:
        raise TypeError(
            "A value on a cluster is handed on by the runner that knows it, and no other."
        )


class Outcome(NamedTuple):
    """What a runner hands back for one attempt; picklable where its value is.

    `value` is the result, or an `Away`, where `phase` is COMPLETED, else the exception. `started` is in seconds
    since the epoch, `seconds` the length of the attempt by a monotonic clock. `lost` marks an
    attempt whose worker died under it. `state_name` is set where the task returned a state.
    `traceback` is where the exception came from: each time that it is raised, its own grows.
    `kept` is how the worker kept the value for a later process, until that is recorded.
    """

    key: int
    attempt: int
    phase: int
    value: Any
    started: float
    seconds: float
    message: str | None = None
    state_name: str | None = None
    lost: bool = False
    traceback: TracebackType | None = None
    kept: Kept | None = None
