"""The `@task` decorator, and what can be done with a task: call, submit, map."""

from __future__ import annotations

import datetime as dt
import functools
import itertools
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator, Mapping, Sequence
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    TypedDict,
    TypeVar,
    Unpack,
    overload,
)

from anabranch import direct_calls, late
from anabranch.annotations import Annotation, unmapped
from anabranch.cache_policies import CacheKeyFn, CachePolicy
from anabranch.context import RunContext, current_context
from anabranch.errors import (
    MappingLengthMismatch,
    MappingMissingIterable,
    MissingFlowError,
    OptionError,
)
from anabranch.execution.calls import Hook, TaskSpec
from anabranch.execution.functions import (
    ASYNC,
    ASYNC_GENERATOR,
    GENERATOR,
    SYNC,
    Traveller,
    function_key,
    function_kind,
)
from anabranch.futures import FutureList, TaskFuture, sources_of
from anabranch.identities import inputs_digest
from anabranch.keeping_options import caching_options, persistence_options
from anabranch.mapping import is_mapped_over
from anabranch.parameters import Parameters
from anabranch.retries import Condition, Delays, retry_policy
from anabranch.streams import Flight, FutureStream

if TYPE_CHECKING:
    from anabranch.explaining import CacheExplanation

P = ParamSpec("P")
R = TypeVar("R", covariant=True)
T = TypeVar("T")
S = TypeVar("S")


class TaskOptions(TypedDict, total=False):
    """The options of `@task` and `with_options`; times are in seconds."""

    name: str | None
    description: str | None
    tags: Iterable[str] | None
    version: str | None
    task_run_name: str | Callable[..., str] | None
    retries: int | None
    retry_delay_seconds: Delays | None
    retry_jitter_factor: float | None
    retry_condition_fn: Condition | None
    timeout_seconds: float | None
    log_prints: bool | None
    resources: Mapping[str, float] | None
    priority: int
    on_running: Sequence[Hook] | None
    on_completion: Sequence[Hook] | None
    on_failure: Sequence[Hook] | None
    on_commit: Sequence[Hook] | None
    on_rollback: Sequence[Hook] | None
    cache_policy: CachePolicy | None
    cache_key_fn: CacheKeyFn | None
    cache_expiration: dt.timedelta | float | None
    refresh_cache: bool
    persist_result: bool | None
    result_storage: Any
    result_storage_key: str | None
    result_serializer: Any
    cache_result_in_memory: bool


HOOKS = ("on_running", "on_completion", "on_failure", "on_commit", "on_rollback")


class Task(Traveller, Generic[P, R]):
    """A function whose calls are tracked, retried and, with `submit` and `map`, run by a flow's
    task runner. Made by `@task`; `fn` is the plain function."""

    def __init__(self, fn: Callable[P, R], **options: Unpack[TaskOptions]) -> None:
        self.fn = fn
        self._options = options
        self.binds_class = False  # whether its first argument is the class that it stands in
        functools.update_wrapper(self, fn)
        self.name = options.get("name") or getattr(fn, "__name__", type(fn).__name__)
        self.description = options.get("description") or fn.__doc__
        self._hooks: dict[str, list[Hook]] = {name: list(options.get(name) or ()) for name in HOOKS}
        self.spec = self._make_spec()

    def _make_spec(self) -> TaskSpec:
        options = self._options
        owner = f"Task {self.name!r}"
        priority = options.get("priority", 0)
        if isinstance(priority, bool) or not isinstance(priority, int):  # pyright: ignore[reportUnnecessaryIsInstance]  # users without a type checker
            raise OptionError(owner, "priority", priority, "a whole number")
        return TaskSpec(
            name=self.name,
            key=function_key(self.fn),
            fn=self.fn,
            kind=function_kind(self.fn),
            tags=frozenset(options.get("tags") or ()),
            version=options.get("version"),
            log_prints=options.get("log_prints"),
            run_name=options.get("task_run_name"),
            retries=retry_policy(
                owner,
                options.get("retries"),
                options.get("retry_delay_seconds"),
                options.get("retry_jitter_factor"),
                options.get("retry_condition_fn"),
            ),
            timeout=checked_timeout(owner, options.get("timeout_seconds")),
            resources=_checked_resources(owner, options.get("resources")),
            priority=priority,
            hooks={name: tuple(hooks) for name, hooks in self._hooks.items() if hooks},
            caching=caching_options(owner, options, self.fn),
            persistence=persistence_options(owner, options),
            in_memory=options.get("cache_result_in_memory", True),
            task=self,
        )

    @functools.cached_property
    def parameters(self) -> Parameters:
        return Parameters(self.fn, self.name)

    def with_options(self, **options: Unpack[TaskOptions]) -> Task[P, R]:
        """A task over the same function, with these options changed."""
        kept = {**self._options, **{name: list(hooks) for name, hooks in self._hooks.items()}}
        return Task(self.fn, **{**kept, **options})  # pyright: ignore[reportArgumentType]  # checked by the signature

    @overload
    def __get__(self, instance: None, owner: Any = None) -> Task[P, R]: ...
    @overload
    def __get__(self: Task[Concatenate[S, P], R], instance: S, owner: Any = None) -> Task[P, R]: ...
    def __get__(self, instance: Any, owner: Any = None) -> Any:
        instance = owner if self.binds_class else instance
        if instance is None:
            return self
        kept = {**self._options, **self._hooks, "name": self.name}
        return Task(functools.partial(self.fn, instance), **kept)  # pyright: ignore[reportArgumentType, reportCallIssue]  # the same options

    # -- calling ------------------------------------------------------------------------------------

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        wait_for: Any = kwargs.pop("wait_for", ()) if kwargs else ()
        return_state: Any = kwargs.pop("return_state", False) if kwargs else False
        self.parameters.check(args, kwargs)
        context = current_context()
        arguments = (args, kwargs, wait_for or ())
        kind = self.spec.kind
        if kind == SYNC:
            return direct_calls.call(context, self.spec, arguments, return_state)
        if kind == ASYNC:
            return direct_calls.call_async(context, self.spec, arguments, return_state)  # pyright: ignore[reportReturnType]  # R is its coroutine
        if kind == GENERATOR:
            return direct_calls.iterate(context, self.spec, arguments)  # pyright: ignore[reportReturnType]  # R is its generator
        assert kind == ASYNC_GENERATOR
        return direct_calls.iterate_async(context, self.spec, arguments)  # pyright: ignore[reportReturnType]  # as above

    @overload
    def submit(
        self: Task[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> TaskFuture[T]: ...
    @overload
    def submit(
        self: Task[P, Generator[T, Any, Any]], *args: P.args, **kwargs: P.kwargs
    ) -> TaskFuture[list[T]]: ...
    @overload
    def submit(self: Task[P, T], *args: P.args, **kwargs: P.kwargs) -> TaskFuture[T]: ...
    def submit(self: Task[Any, Any], *args: Any, **kwargs: Any) -> Any:
        """Hand one call to the flow's task runner, and get its future at once.

        Beside the task's own arguments: `wait_for`, futures to wait for without using their
        values; `return_state=True` waits and gives the state instead.
        """
        context = self._flow_context("submit")
        wait_for = (kwargs and kwargs.pop("wait_for", None)) or ()
        return_state = kwargs and kwargs.pop("return_state", False)
        self.parameters.check(args, kwargs)
        future = context.engine.submit(
            self.spec, (args,), kwargs, wait_for=wait_for, context=context
        )[0]
        if return_state:
            future.wait()
            return future.state
        return future

    @overload
    def map(
        self: Task[Any, Coroutine[Any, Any, T]], *args: Any, **kwargs: Any
    ) -> FutureList[T]: ...
    @overload
    def map(
        self: Task[Any, Generator[T, Any, Any]], *args: Any, **kwargs: Any
    ) -> FutureList[list[T]]: ...
    @overload
    def map(self: Task[Any, T], *args: Any, **kwargs: Any) -> FutureList[T]: ...
    def map(self: Task[Any, Any], *args: Any, **kwargs: Any) -> Any:
        """One call for each item of the arguments that can be mapped over, side by side.

        Lists, tuples, sets, ranges, iterators, arrays and `FutureList`s are mapped over; text,
        mappings, models, frames and what stands in `unmapped(...)` stay the same for each call.
        Beside the task's own arguments: `wait_for` and `return_state`, as of `submit`; and
        `batch_size`, how many calls travel to a worker together, where the task runner has workers:
        "auto", which goes by how long they take, or a number; 1 sends each by itself, as calls go that
        tasks submit. Each has its own state, retries, timeout and cancellation whatever it is. A task
        with a parameter of that name gets it as its argument.
        Raises `MappingLengthMismatch` and `MappingMissingIterable` before anything is submitted, and
        `OptionError` for a `batch_size` that is neither.
        """
        context = self._flow_context("map")
        wait_for = kwargs.pop("wait_for", None) or ()
        batch_size = None
        if "batch_size" not in self.parameters.signature.parameters:
            batch_size = _checked_batch_size(self.name, kwargs.pop("batch_size", "auto"))
        return_state = kwargs.pop("return_state", False)
        bound = self.parameters.bind(args, kwargs)
        if any(map(_is_unknown, (*bound.args, *bound.kwargs.values()))):
            futures = self._map_later(context, bound.args, bound.kwargs, wait_for, batch_size)
        else:
            futures = FutureList(
                self._submit_items(context, bound.args, bound.kwargs, wait_for, batch_size)
            )
        if return_state:
            futures.wait()
            return futures.states()  # pyright: ignore[reportReturnType]  # asked for
        return futures

    @overload
    def stream(
        self: Task[Any, Coroutine[Any, Any, T]],
        iterable: Any,
        *,
        max_in_flight: int = 1000,
        ordered: bool = False,
        **kwargs: Any,
    ) -> FutureStream[T]: ...
    @overload
    def stream(
        self: Task[Any, Generator[T, Any, Any]],
        iterable: Any,
        *,
        max_in_flight: int = 1000,
        ordered: bool = False,
        **kwargs: Any,
    ) -> FutureStream[list[T]]: ...
    @overload
    def stream(
        self: Task[Any, T],
        iterable: Any,
        *,
        max_in_flight: int = 1000,
        ordered: bool = False,
        **kwargs: Any,
    ) -> FutureStream[T]: ...
    def stream(
        self: Task[Any, Any],
        iterable: Any,
        *,
        max_in_flight: int = 1000,
        ordered: bool = False,
        **kwargs: Any,
    ) -> Any:
        """One call for each item of an iterable, generator or async iterable, which may have no end.

        Gives the futures to `for` or `async for` as they settle, or in the order of the items with
        `ordered`. Items are taken only while fewer than `max_in_flight` futures have not been given
        out yet, so memory stays bounded. `kwargs` are the same for each call. Leaving the loop
        cancels what is left; a source that raises does so in the loop, after the futures of the
        items before. Futures may be items: a stream can go on with those of another.

        Raises `StreamSourceError` for what has no items, `OptionError` for a `max_in_flight`
        below 1.
        """
        context = self._flow_context("stream")
        flight = Flight[Any](_checked_count(f"{self.name}.stream()", max_in_flight), ordered)
        self.parameters.check((None,), kwargs)

        def submit(items: Sequence[Any]) -> list[TaskFuture[Any]]:
            inputs = [(item,) for item in items]
            return context.engine.submit(self.spec, inputs, kwargs, mapped=True, context=context)

        return FutureStream(self.name, iterable, context, submit, flight)

    def _submit_items(
        self,
        context: RunContext,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        wait_for: Iterable[Any],
        batch_size: int | None,
    ) -> list[TaskFuture[Any]]:
        names = list(self.parameters.signature.parameters)
        items: dict[str, list[Any]] = {}
        positional: list[Any] = []
        for number, value in enumerate(args):
            name = names[number] if number < len(names) else f"argument {number}"
            positional.append(_spread(name, value, items))
        keywords = {name: _spread(name, value, items) for name, value in kwargs.items()}
        lengths = {name: len(values) for name, values in items.items()}
        if not lengths:
            given = {**dict(zip(names, args, strict=False)), **kwargs}
            raise MappingMissingIterable(
                self.name, {name: type(value).__name__ for name, value in given.items()}
            )
        if len(set(lengths.values())) > 1:
            raise MappingLengthMismatch(self.name, lengths)
        count = next(iter(lengths.values()))
        inputs = list(itertools.islice(zip(*positional, strict=False), count)) or [()] * count
        mapped = {name for name in keywords if name in items}
        each = None
        if mapped:
            columns = [keywords[name] for name in keywords]
            rows = itertools.islice(zip(*columns, strict=False), count)
            each = [dict(zip(keywords, row, strict=True)) for row in rows]
        shared = {} if mapped else {name: next(iter(keywords[name])) for name in keywords}
        return context.engine.submit(
            self.spec,
            inputs,
            shared,
            kwargs_each=each,
            wait_for=wait_for,
            mapped=True,
            context=context,
            batch_size=batch_size,
        )

    def _map_later(
        self,
        context: RunContext,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        wait_for: Iterable[Any],
        batch_size: int | None,
    ) -> FutureList[Any]:
        """Map over the items of a future: a run of its own makes the calls when it settles."""

        def expand() -> list[TaskFuture[Any]]:
            ready = tuple(_items_of(value) for value in args)
            named = {name: _items_of(value) for name, value in kwargs.items()}
            return self._submit_items(context, ready, named, wait_for, batch_size)

        unknown = [each for each in (*args, *kwargs.values()) if _is_unknown(each)]
        digest = inputs_digest((self.spec.key, self.spec.source, *args), kwargs)
        source = context.engine.submit_expansion(
            f"map of {self.name}", expand, sources_of(unknown), digest
        )
        return FutureList(source=source)

    def _flow_context(self, method: str) -> RunContext:
        context = current_context()
        open_flow = context.open_flow
        if open_flow is None or open_flow.runner is None:
            raise MissingFlowError(self.name, method)
        return context

    def explain_cache(self, *args: Any, **kwargs: Any) -> CacheExplanation:
        """Whether this call would find its result, under which key, made of what; runs nothing."""
        self.parameters.check(args, kwargs)
        return late.explain(current_context(), self.spec, args, kwargs)

    # -- hooks ------------------------------------------------------------------------------------

    def on_running(self, fn: Hook) -> Hook:
        """Decorator: call `fn(task, run, state)` when a run starts."""
        return self._add_hook("on_running", fn)

    def on_completion(self, fn: Hook) -> Hook:
        """Decorator: call `fn(task, run, state)` when a run completes."""
        return self._add_hook("on_completion", fn)

    def on_failure(self, fn: Hook) -> Hook:
        """Decorator: call `fn(task, run, state)` when a run fails or crashes."""
        return self._add_hook("on_failure", fn)

    def on_commit(self, fn: Hook) -> Hook:
        """Decorator: call `fn(transaction)` when the transaction of a run commits."""
        return self._add_hook("on_commit", fn)

    def on_rollback(self, fn: Hook) -> Hook:
        """Decorator: call `fn(transaction)` when the transaction of a completed run rolls back."""
        return self._add_hook("on_rollback", fn)

    def _add_hook(self, name: str, fn: Hook) -> Hook:
        self._hooks[name].append(fn)
        self.spec = self._make_spec()
        return fn

    def __repr__(self) -> str:
        return f"<Task {self.spec.key}>"


def checked_timeout(owner: str, seconds: float | None) -> float | None:
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < 1e9:  # pyright: ignore[reportUnnecessaryIsInstance]  # users without a type checker
        raise OptionError(owner, "timeout_seconds", seconds, "seconds, more than 0")
    return float(seconds)


def _checked_count(owner: str, count: int) -> int:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:  # pyright: ignore[reportUnnecessaryIsInstance]  # as above
        raise OptionError(owner, "max_in_flight", count, "a whole number, 1 or more")
    return count


def _checked_batch_size(owner: str, size: Any) -> int | None:
    """None for "auto"."""
    if size == "auto":
        return None
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise OptionError(owner, "batch_size", size, "'auto', or a whole number, 1 or more")
    return size


def _checked_resources(owner: str, resources: Mapping[str, float] | None) -> dict[str, float]:
    for name, amount in (resources or {}).items():
        if isinstance(amount, bool) or not isinstance(amount, int | float) or amount <= 0:  # pyright: ignore[reportUnnecessaryIsInstance]  # as above
            raise OptionError(owner, f"resources[{name!r}]", amount, "a number above 0")
    return dict(resources or {})


def _spread(name: str, value: Any, items: dict[str, list[Any]]) -> Iterator[Any]:
    """A value for each call; what is mapped over is noted in `items`."""
    if not is_mapped_over(value):
        return itertools.repeat(value.value if isinstance(value, unmapped) else value)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]  # any value
    inner = value.unwrap() if isinstance(value, Annotation) else value  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  # any value
    values: list[Any] = list(inner)  # pyright: ignore[reportUnknownArgumentType]  # any items
    if isinstance(value, Annotation):
        values = [type(value)(each) for each in values]  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]  # keeps the mark
    items[name] = values
    return iter(values)


def _is_unknown(value: Any) -> bool:
    """Whether the items to map over are those of something that has not settled."""
    return isinstance(value, TaskFuture) or (isinstance(value, FutureList) and not value.is_known())


def _items_of(value: Any) -> Any:
    return value.result() if isinstance(value, TaskFuture) else value  # pyright: ignore[reportUnknownVariableType]  # any result


@overload
def task(fn: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(**options: Unpack[TaskOptions]) -> Callable[[Callable[P, R]], Task[P, R]]: ...
def task(fn: Any = None, /, **options: Unpack[TaskOptions]) -> Any:
    """Make a task of a function, generator or method, sync or async.

    Options, all of them optional, times in seconds:
    `name`, `description`, `tags`, `version`; `task_run_name`, a template such as `"parse-{path}"`
    or a function; `retries` with `retry_delay_seconds` (a number, a list, a function such as
    `exponential_backoff(2)`, or one of tenacity's waits), `retry_jitter_factor` and
    `retry_condition_fn(task, run, state)`; `timeout_seconds` for each attempt; `log_prints`;
    `resources` and `priority` for the task runner; `cache_policy`, such as `INPUTS + TASK_SOURCE`,
    or `cache_key_fn(context, parameters)`, with `cache_expiration` (a timedelta, or seconds) and
    `refresh_cache`; `persist_result`, `result_storage`, `result_storage_key`, `result_serializer`
    and `cache_result_in_memory`; `on_running`, `on_completion`, `on_failure`, lists of
    `(task, run, state)` hooks; `on_commit` and `on_rollback`, lists of `(transaction)` hooks.

    Raises `OptionError` for an option out of its range.
    """
    if fn is None:
        return lambda fn: task(fn, **options)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType, reportCallIssue, reportUnknownVariableType]  # typed by the overloads
    if isinstance(fn, staticmethod):
        return staticmethod(Task(fn.__func__, **options))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType, reportUnknownVariableType]  # any function
    if isinstance(fn, classmethod):
        made: Task[Any, Any] = Task(fn.__func__, **options)  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType, reportUnknownArgumentType]  # any function
        made.binds_class = True  # classmethod itself chains no descriptors since Python 3.13
        return made
    return Task(fn, **options)
