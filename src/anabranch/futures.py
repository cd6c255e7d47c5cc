"""Futures: what submit and map hand out, and how to wait for many of them.

A future is also the record of its task run. What the runs of one submission have in common stands
once, in the submission that they share; what few runs need (dependents, waiters) is made when it
is first needed.
"""

# pyright: reportPrivateUsage=false
# The functions here read the slots of the run record, which are private to users.

from __future__ import annotations

import datetime as dt
import time
from collections import deque
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, overload

from anabranch.errors import CancelledRun
from anabranch.outcomes import (
    CANCELLED,
    COMPLETED,
    DORMANT,
    PHASE_STATES,
    SETTLED,
    Away,
    Outcome,
)
from anabranch.runs import TaskRun
from anabranch.states import State, StateDetails, StateType, known_state
from anabranch.waiting import Waiter

R = TypeVar("R", covariant=True)
Done = Callable[["TaskFuture[Any]"], object]


class Home(Protocol):
    """What a future asks of the engine that it belongs to; a worker's stands in for the flow's."""

    def run_awaited(self, future: TaskFuture[Any]) -> None:
        """Run it in the calling thread, if that is a worker which would only wait for it, and no other
        has begun it."""
        ...

    def wait(
        self, waiter: Waiter, futures: Sequence[TaskFuture[Any]], timeout: float | None
    ) -> bool:
        """Block until the waiter is done, at most `timeout` seconds; whether it is."""
        ...

    def wait_async(self, future: TaskFuture[Any]) -> Awaitable[None]: ...

    def notify(self, future: TaskFuture[Any], callback: Done) -> bool:
        """Have `callback` called, quickly and by any thread, when the future settles.

        False, and no call, where it has settled already.
        """
        ...

    def add_done_callback(self, future: TaskFuture[Any], callback: Done) -> None: ...

    def cancel(self, futures: Sequence[TaskFuture[Any]]) -> int:
        """Ask for the end of these; how many were not settled yet."""
        ...

    def phase_of(self, future: TaskFuture[Any]) -> int:
        """The phase right now; a runner may know of a start that was not told yet."""
        ...

    def reference(self, future: TaskFuture[Any]) -> tuple[int, int]:
        """What stands for the future where it is sent to another process of the run."""
        ...


class Shared(Protocol):
    """What all futures of one submission share."""

    @property
    def home(self) -> Home: ...

    def task_run(self, future: TaskFuture[Any]) -> TaskRun: ...

    def name_of(self, future: TaskFuture[Any]) -> str: ...

    def id_of(self, future: TaskFuture[Any]) -> str: ...


class Links:
    """How a run hangs together with others."""

    __slots__ = (
        "asleep",
        "blockers",
        "dependents",
        "left",
        "name",
        "recalled",
        "search",
        "waiters",
        "worker_deaths",
    )

    def __init__(self) -> None:
        self.blockers: tuple[TaskFuture[Any], ...] = ()
        self.left = 0  # blockers that have not settled
        self.search = False  # whether its inputs hold futures or annotations
        self.dependents: list[tuple[TaskFuture[Any], bool]] = []
        self.waiters: list[Done] = []
        self.worker_deaths = 0
        self.name: str | None = None
        self.recalled: Recalled | None = None
        self.asleep: Mapping[TaskFuture[Any], bool] = {}  # what a dormant run would wait for


class Recalled(NamedTuple):
    """Which recorded run of an earlier process this one stands for: its place in the store, its id."""

    row: int
    task_run_id: str


class TaskFuture(Generic[R]):
    """The run of one task call, now or later. Made by `submit` and `map`, not by hand."""

    __slots__ = (
        "__weakref__",
        "_attempt",
        "_digest",
        "_inputs",
        "_key",
        "_links",
        "_outcome",
        "_phase",
        "_shared",
    )

    def __init__(self, shared: Shared, key: int, inputs: Any, digest: bytes | None = None) -> None:
        self._shared = shared
        self._key = key
        self._inputs = inputs
        self._digest = digest  # of the inputs, where runs are recorded
        self._phase = 0
        self._attempt = 1
        self._links: Links | None = None
        self._outcome: Outcome | None = None

    @property
    def task_run_id(self) -> str:
        return self._shared.id_of(self)

    @property
    def name(self) -> str:
        """The task run's name, as logs show it."""
        return self._shared.name_of(self)

    @property
    def task_run(self) -> TaskRun:
        """The record of this run so far."""
        return self._shared.task_run(self)

    @property
    def state(self) -> State[R]:
        """The state right now. Only the run's terminal state carries its result."""
        return future_state(self)

    def done(self) -> bool:
        """Whether the run has settled: ended, or certain never to start."""
        if self._phase == DORMANT:
            wake(self)
        return self._phase >= SETTLED

    def cancelled(self) -> bool:
        return self._phase == CANCELLED

    def wait(self, timeout: float | None = None) -> bool:
        """Wait at most `timeout` seconds for the run to settle; whether it has."""
        if self._phase >= SETTLED:
            return True
        home = self._shared.home
        if timeout is None:
            home.run_awaited(self)
            if self._phase >= SETTLED:
                return True
        waiter = Waiter()
        return not home.notify(self, waiter) or home.wait(waiter, (self,), timeout)

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> R:
        """The task's return value, waited for.

        Raises the task's exception, or returns it with `raise_on_failure=False`; `TimeoutError`
        if the run has not settled after `timeout` seconds; `UpstreamTaskError` if it never started
        since something that it depends on did not complete; `CancelledRun` if it was cancelled.
        """
        if self._phase < SETTLED and not self.wait(timeout):
            raise TimeoutError(f"{self.name!r} has not ended after {timeout:g} seconds.")
        return self._settled_result(raise_on_failure)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The exception that the run ended with, waited for; None if it completed."""
        if self._phase < SETTLED and not self.wait(timeout):
            raise TimeoutError(f"{self.name!r} has not ended after {timeout:g} seconds.")
        return None if self._phase == COMPLETED else self._exception()

    def cancel(self) -> bool:
        """Ask for the end of the run; False if it has settled already."""
        return self._phase < SETTLED and self._shared.home.cancel((self,)) > 0

    def add_done_callback(self, fn: Callable[[TaskFuture[R]], object]) -> None:
        """Call `fn(future)` once the run has settled, in the flow's process."""
        self._shared.home.add_done_callback(self, fn)

    def __await__(self) -> Generator[Any, None, R]:
        if self._phase < SETTLED:
            yield from self._shared.home.wait_async(self).__await__()
        return self._settled_result()

    def __repr__(self) -> str:
        return f"<TaskFuture {self.name} {PHASE_STATES[self._phase][1]}>"

    def __reduce__(self) -> Any:
        raise TypeError(
            f"The future of {self.name!r} cannot be pickled outside of a task call. "
            "Pass it as an argument of a task, or pass its value, future.result()."
        )

    def _settled_result(self, raise_on_failure: bool = True) -> R:
        if self._phase == COMPLETED:
            value: Any = self._outcome.value  # pyright: ignore[reportOptionalMemberAccess]  # set before the phase
            return value.load() if type(value) is Away else value
        error = self._exception()
        if not raise_on_failure:
            return error  # pyright: ignore[reportReturnType]  # asked for instead of the value
        assert self._outcome is not None  # it has settled
        try:
            raise error.with_traceback(self._outcome.traceback)
        finally:
            del error  # else the frame in its own traceback would keep it alive

    def _exception(self) -> BaseException:
        assert self._outcome is not None  # set before the phase
        return outcome_exception(self._outcome, self.name)


async def until_settled(home: Home, future: TaskFuture[Any]) -> None:
    """Wait for a future on the running loop."""
    import asyncio  # 25 ms that a process without a loop need not spend

    loop = asyncio.get_running_loop()
    settled = asyncio.Event()

    def wake(_: object) -> None:
        try:
            loop.call_soon_threadsafe(settled.set)
        except RuntimeError:  # the loop is closed: whoever waited was cancelled
            pass

    if home.notify(future, wake):
        await settled.wait()


def outcome_exception(outcome: Outcome, name: str) -> BaseException:
    """The exception of an attempt that did not complete."""
    if isinstance(outcome.value, BaseException):
        return outcome.value
    if outcome.phase == CANCELLED:
        return CancelledRun(f"{name!r}: {outcome.message or 'Cancelled.'}")
    return outcome_state(outcome, name).exception()


def outcome_state(outcome: Outcome, name: str) -> State[Any]:
    """The state that an outcome stands for."""
    return make_state(
        outcome.phase,
        outcome.message,
        outcome.value,
        at=outcome.started + outcome.seconds,
        state_name=outcome.state_name,
        run_name=name,
    )


def make_state(
    phase: int,
    message: str | None = None,
    data: Any = None,
    *,
    at: float | None = None,
    state_name: str | None = None,
    run_name: str | None = None,
    task_run_id: str | None = None,
) -> State[Any]:
    """The state that users see for a phase; `at` in seconds since the epoch."""
    type_name, name = PHASE_STATES[phase]
    if message is None and isinstance(data, BaseException):
        message = f"{type(data).__name__}: {data}"
    fields: dict[str, Any] = {}
    if at is not None:
        fields["timestamp"] = dt.datetime.fromtimestamp(at, dt.UTC)
    return known_state(
        StateType(type_name),
        state_name or name,
        message=message,
        data=data,
        state_details=StateDetails.model_construct(task_run_id=task_run_id),
        **fields,
    )


def wake(future: TaskFuture[Any]) -> None:
    """Someone asks after a run whose recorded value is not there: it is computed again, since who
    asks again and again would wait for it without end."""
    future._shared.home.notify(future, _ignore)


def _ignore(_: object) -> None:
    """Nobody waits."""


def future_state(future: TaskFuture[R]) -> State[R]:
    """The state of a future's run right now."""
    if future._phase == DORMANT:
        wake(future)
    outcome = future._outcome
    phase = future._phase
    if phase < SETTLED:
        phase = future._shared.home.phase_of(future)
    if phase < SETTLED or outcome is None:
        return make_state(phase, task_run_id=future.task_run_id)
    return make_state(
        phase,
        outcome.message,
        outcome.value,
        at=outcome.started + outcome.seconds,
        state_name=outcome.state_name,
        task_run_id=future.task_run_id,
    )


class FutureList(Sequence[TaskFuture[R]]):
    """The futures of a map, in the order of its items.

    Where the items are those of a future that has not settled, the list fills when it does: `len`,
    iteration and results wait for that.
    """

    __slots__ = ("_futures", "_origin", "_source")

    def __init__(
        self,
        futures: Iterable[TaskFuture[R]] = (),
        source: TaskFuture[list[TaskFuture[R]]] | None = None,
    ) -> None:
        self._futures = list(futures)
        self._source = source
        self._origin = source  # also once the items are known

    def _known(self) -> list[TaskFuture[R]]:
        if self._source is not None:
            self._futures = self._source.result()
            self._source = None
        return self._futures

    def __len__(self) -> int:
        return len(self._known())

    @overload
    def __getitem__(self, index: int) -> TaskFuture[R]: ...
    @overload
    def __getitem__(self, index: slice) -> FutureList[R]: ...
    def __getitem__(self, index: int | slice) -> TaskFuture[R] | FutureList[R]:
        if isinstance(index, slice):
            return FutureList(self._known()[index])
        return self._known()[index]

    def __iter__(self) -> Iterator[TaskFuture[R]]:
        return iter(self._known())

    def __repr__(self) -> str:
        if self._source is not None:
            return f"<FutureList of {self._source.name}, not known yet>"
        return f"<FutureList of {len(self._futures)}>"

    def is_known(self) -> bool:
        """Whether the list's own length is known yet."""
        return self._source is None or self._source._phase == COMPLETED

    def done(self) -> bool:
        """Whether all have settled."""
        if self._source is not None and self._source._phase != COMPLETED:
            return self._source.done()  # one that failed has no futures that could go on
        return all(future.done() for future in self._known())

    def wait(self, timeout: float | None = None) -> bool:
        """Wait at most `timeout` seconds for all to settle; whether they have."""
        deadline = None if timeout is None else time.monotonic() + timeout
        if self._source is not None and not self._source.wait(timeout):
            return False
        if not self.is_known():
            return True  # there will never be any: `result` says why
        # The last first: when it has settled, so have most of the others.
        for future in reversed(self._known()):
            if future._phase < SETTLED:
                left = None if deadline is None else deadline - time.monotonic()
                if not future.wait(left):
                    return False
        return True

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> list[R]:
        """The results in the order of the items, waited for; the first failure is raised.

        With `raise_on_failure=False` exceptions stand in the list instead. `TimeoutError` if not
        all have settled after `timeout` seconds.
        """
        if not self.wait(timeout):
            raise TimeoutError(f"{self!r} has not ended after {timeout:g} seconds.")
        return [future._settled_result(raise_on_failure) for future in self._known()]

    def states(self) -> list[State[R]]:
        """The states right now, in order."""
        return [future_state(future) for future in self._known()]

    def cancel(self) -> int:
        """Ask for the end of all; how many had not settled yet."""
        if self._source is not None and self._source.cancel():
            return 1
        futures = self._known() if self.is_known() else ()
        return futures[0]._shared.home.cancel(futures) if futures else 0

    def __await__(self) -> Generator[Any, None, list[R]]:
        if self._source is not None:
            yield from self._source.__await__()
        futures = self._known()
        for future in reversed(futures):
            if future._phase < SETTLED:
                yield from future._shared.home.wait_async(future).__await__()
        return [future._settled_result() for future in futures]


def sources_of(
    unknown: Iterable[TaskFuture[Any] | FutureList[Any]],
) -> list[TaskFuture[Any]]:
    """The futures that tell what these have in them."""
    futures = [each._source if isinstance(each, FutureList) else each for each in unknown]
    return [each for each in futures if each is not None]  # None where it is known meanwhile


class DoneAndNotDone(NamedTuple, Generic[R]):
    """What `wait` gives back."""

    done: set[TaskFuture[R]]
    not_done: set[TaskFuture[R]]


ALL_COMPLETED = "ALL_COMPLETED"
FIRST_COMPLETED = "FIRST_COMPLETED"
FIRST_EXCEPTION = "FIRST_EXCEPTION"


def wait(
    futures: Iterable[TaskFuture[R]],
    timeout: float | None = None,
    return_when: str = ALL_COMPLETED,
) -> DoneAndNotDone[R]:
    """Wait for futures, at most `timeout` seconds; those that settled, and the others.

    `return_when` is `"ALL_COMPLETED"`, `"FIRST_COMPLETED"` or `"FIRST_EXCEPTION"`, as in
    `concurrent.futures`.
    """
    if return_when not in (ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION):
        raise ValueError(
            f"return_when={return_when!r} will not do; it takes 'ALL_COMPLETED', "
            "'FIRST_COMPLETED' or 'FIRST_EXCEPTION'."
        )
    wanted = list(futures)
    if return_when == ALL_COMPLETED:
        FutureList(wanted).wait(timeout)
    else:
        try:
            for future in as_completed(wanted, timeout):
                if return_when == FIRST_COMPLETED or future._phase != COMPLETED:
                    break
        except TimeoutError:
            pass
    done = {future for future in wanted if future._phase >= SETTLED}
    return DoneAndNotDone(done, set(wanted) - done)


class as_completed(Generic[R]):  # noqa: N801  # the name that users of concurrent.futures write
    """The futures as they settle, to `for` and to `async for`.

    Raises `TimeoutError` once `timeout` seconds have passed since the iteration began.
    """

    def __init__(self, futures: Iterable[TaskFuture[R]], timeout: float | None = None) -> None:
        self._futures = list(dict.fromkeys(futures))
        self._timeout = timeout

    def __iter__(self) -> Iterator[TaskFuture[R]]:
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        waiter = Waiter()
        unsettled: list[TaskFuture[R]] = []
        for future in self._futures:
            if future._phase < SETTLED and future._shared.home.notify(future, waiter):
                unsettled.append(future)
            else:
                yield future
        for count in range(len(unsettled)):
            left = None if deadline is None else deadline - time.monotonic()
            if not waiter.arrived:
                waiter.needed = 1
                if not waiter.arrived and not unsettled[0]._shared.home.wait(
                    waiter, unsettled, left
                ):
                    raise self._late(len(unsettled) - count)
            yield waiter.arrived.popleft()

    async def __aiter__(self) -> AsyncIterator[TaskFuture[R]]:
        import asyncio  # 25 ms that a process without a loop need not spend

        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        pending = deque(self._futures)
        loop = asyncio.get_running_loop()
        settled: asyncio.Queue[TaskFuture[R]] = asyncio.Queue()

        def arrive(future: TaskFuture[Any]) -> None:
            loop.call_soon_threadsafe(settled.put_nowait, future)

        waiting = 0
        for future in pending:
            if future._phase < SETTLED and future._shared.home.notify(future, arrive):
                waiting += 1
            else:
                yield future
        while waiting:
            left = None if deadline is None else deadline - time.monotonic()
            try:
                future = await asyncio.wait_for(settled.get(), left)
            except TimeoutError:
                raise self._late(waiting) from None
            waiting -= 1
            yield future

    def _late(self, left: int) -> TimeoutError:
        return TimeoutError(
            f"{left} of {len(self._futures)} futures have not ended after {self._timeout:g} seconds."
        )
