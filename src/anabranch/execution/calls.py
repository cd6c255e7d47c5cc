"""A call on its way to a worker, and what all calls of one submission share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from types import CellType, FunctionType
from typing import Any, NamedTuple, Protocol, overload

from anabranch.caching import Caching
from anabranch.execution.functions import SYNC, function_by_name, importable_name
from anabranch.execution.names import default_name, name_for_call
from anabranch.hashing import source_digest
from anabranch.hashing.encoder import Unencodable
from anabranch.outcomes import STORED, Away, Kept
from anabranch.retries import RetryPolicy
from anabranch.runs import FlowRun, TaskRun, run_id

Hook = Callable[..., Any]

_MOST_CLOSED_OVER = 10_000


class Keep(Protocol):
    """Makes what is left of a call's value for a later process."""

    def __call__(self, value: Any, call: Call, /) -> Kept: ...

    def away(self, kept: Kept, persistence: Any, /) -> Away:
        """What stands for a value that was stored."""
        ...

    def found(self, call: Call, /) -> tuple[Any, Kept] | None:
        """What this very run has kept before, on a worker that died before it could say so."""
        ...

    def keep_flow(self, value: Any, persistence: Any, key: str, inline: bool, /) -> Kept:
        """The same of a flow run's value; `inline` where it may stay in memory."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class TaskSpec:
    """A task's definition: the function, and its options in the form that the engine uses.

    `timeout` is in seconds. `hooks` holds, for each of `"on_running"`, `"on_completion"`,
    `"on_failure"`, `"on_commit"` and `"on_rollback"` that has any, its functions.
    """

    name: str
    key: str
    fn: Callable[..., Any]
    kind: int = SYNC
    tags: frozenset[str] = frozenset()
    version: str | None = None
    log_prints: bool | None = None
    run_name: str | Callable[..., str] | None = None
    retries: RetryPolicy | None = None
    timeout: float | None = None
    resources: Mapping[str, float] = field(default_factory=dict[str, float])
    priority: int = 0
    hooks: Mapping[str, tuple[Hook, ...]] = field(default_factory=dict[str, tuple[Hook, ...]])
    caching: Caching | None = None
    persistence: Any = None
    """A `results.Persistence` where the result is wanted kept, whatever its size."""
    in_memory: bool = True
    """Whether the result stays in memory once it is kept."""
    task: Any = None
    """What hooks and retry conditions get as their task; stays in the flow's process."""
    announces: bool = field(init=False)
    """Whether the engine must hear of each start, and not only of the end."""
    special: bool = field(init=False)
    """Whether a completed run owes more than its result."""
    _source: list[bytes] = field(init=False, repr=False, default_factory=list[bytes])

    def __post_init__(self) -> None:
        announces = self.timeout is not None or "on_running" in self.hooks
        object.__setattr__(self, "announces", announces)
        object.__setattr__(self, "special", bool(self.resources or self.hooks or self.priority))

    @property
    def source(self) -> bytes:
        """What stands for the function's source; empty where nothing can."""
        if not self._source:
            self._source.append(source_of(getattr(self.task, "fn", self.fn)))
        return self._source[0]

    def name_for(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
        """The run name that the template gives; None without one. Raises `NameTemplateError`."""
        return (
            None if self.run_name is None else name_for_call(self.run_name, self.fn, args, kwargs)
        )

    def for_worker(self) -> tuple[Any, ...]:
        """What a worker needs of it, with the function by its name where that can be imported."""
        name = importable_name(self.fn)
        fn = None if name else self.fn
        persists = self.persistence, self.in_memory
        return (self.name, self.key, name, fn, self.kind, self.tags, *persists)

    @classmethod
    def on_worker(cls, sent: tuple[Any, ...]) -> TaskSpec:
        """The other end of `for_worker`."""
        name, key, function_name, fn, kind, tags, persistence, in_memory = sent
        if function_name is not None:
            fn = function_by_name(*function_name)
        return cls(name, key, fn, kind, tags, persistence=persistence, in_memory=in_memory)


def source_of(fn: Callable[..., Any]) -> bytes:
    """What stands for a function's source, with the values that it closes over unless these have
    no identity or are too many to look at each time a run begins; empty where nothing can."""
    return _source_with_all(fn) or _source_with_all(_with_nothing_closed_over(fn))


def _source_with_all(fn: Callable[..., Any]) -> bytes:
    left = _MOST_CLOSED_OVER

    def counted(value: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Unencodable(value, "it is one of too many")

    try:
        return source_digest(fn, counted, bytecode=True)
    except Exception:  # what it closes over has code of its own
        return b""


def _with_nothing_closed_over(fn: Any) -> Callable[..., Any]:
    plain = inspect.unwrap(fn)
    if not isinstance(plain, FunctionType):
        return fn
    cells = tuple(CellType() for _ in plain.__code__.co_freevars)
    return FunctionType(plain.__code__, plain.__globals__, plain.__name__, None, cells)


@dataclass(slots=True, eq=False)
class Scope:
    """Where the calls of one submission belong, and how they are named.

    `engine` is the port through which code inside the call submits and waits, `open_flow` what
    that engine knows the flow run by; neither travels. `prefix` and `first_index - first_key` turn a
    call's key into its id and number. `parent_key` is that of the task run which has started the
    calls. `keep` makes what is left of a result for a later process. `transaction` is what the runs
    have joined; that there is one travels. `batch_size` is how many calls are to travel together, None
    where that is for the runner to say.
    """

    engine: Any
    open_flow: Any
    flow_run: FlowRun | None
    parent_key: int | None
    tags: frozenset[str]
    log_prints: bool
    prefix: int
    first_key: int
    first_index: int
    map_id: str | None = None
    keep: Keep | None = None
    transaction: Any = None
    batch_size: int | None = None

    @property
    def parent_task_run_id(self) -> str | None:
        return None if self.parent_key is None else run_id(self.prefix, self.parent_key)

    def default_name(self, task_name: str, key: int) -> str:
        return default_name(task_name, self.first_index + key - self.first_key)

    def for_worker(self) -> tuple[Any, ...]:
        """What a worker needs of it: all but the first two, and whether there is the last."""
        run = self.flow_run
        return (
            None if run is None else run.without_parameters(),
            self.parent_key,
            self.tags,
            self.log_prints,
            self.prefix,
            self.first_key,
            self.first_index,
            self.map_id,
            self.keep,
            self.transaction is not None,
        )


class Call(NamedTuple):
    """One attempt of one task run. `context` holds the caller's context variables, in-process."""

    key: int
    attempt: int
    spec: TaskSpec
    scope: Scope
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    name: str | None = None
    context: Context | None = None

    def named_arguments(self) -> dict[str, Any]:
        """The arguments by name, defaults included; with the object of a method."""
        fn, args, kwargs = self.spec.fn, self.args, self.kwargs
        while isinstance(fn, functools.partial):
            fn, args, kwargs = fn.func, (*fn.args, *args), {**fn.keywords, **kwargs}
        bound = inspect.signature(fn).bind(*args, **kwargs)
        bound.apply_defaults()
        return dict(bound.arguments)

    @property
    def run_name(self) -> str:
        return self.name or self.scope.default_name(self.spec.name, self.key)

    def kept(self, value: Any) -> tuple[Any, Kept | None]:
        """The value as the run is to hold it, and what is left of it for a later process."""
        if self.scope.keep is None:
            return value, None
        kept = self.scope.keep(value, self)
        if not self.spec.in_memory and kept.form == STORED:
            value = self.scope.keep.away(kept, self.spec.persistence)
        return value, kept

    def task_run(self) -> TaskRun:
        """The record of the run that this is an attempt of."""
        return make_task_run(self.spec, self.scope, self.key, self.run_name, self.attempt)


def call_of(run: Any) -> Call:
    """The call of a run, by the submission that it shares with others."""
    return run._shared.call(run)


class CallsOfRuns(Sequence[Call]):
    """Calls of runs of one submission, each made when it is asked for."""

    __slots__ = ("keys", "runs")

    def __init__(self, runs: Sequence[Any], keys: Sequence[int]) -> None:
        self.runs = runs
        self.keys = keys

    def __len__(self) -> int:
        return len(self.runs)

    @overload
    def __getitem__(self, index: int) -> Call: ...
    @overload
    def __getitem__(self, index: slice) -> CallsOfRuns: ...
    def __getitem__(self, index: int | slice) -> Call | CallsOfRuns:
        if isinstance(index, slice):
            return CallsOfRuns(self.runs[index], self.keys[index])
        return call_of(self.runs[index])

    def __iter__(self) -> Iterator[Call]:
        return map(call_of, self.runs)


def make_task_run(
    spec: TaskSpec, scope: Scope, key: int, name: str, attempt: int, **times: Any
) -> TaskRun:
    """The record that users see of a task run."""
    run = scope.flow_run
    return TaskRun(
        id=run_id(scope.prefix, key),
        name=name,
        task_name=spec.name,
        task_key=spec.key,
        flow_run_id=None if run is None else run.id,
        tags=scope.tags,
        run_count=attempt,
        map_id=scope.map_id,
        map_index=None if scope.map_id is None else key - scope.first_key,
        **times,
    )
