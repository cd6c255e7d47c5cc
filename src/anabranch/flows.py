"""The `@flow` decorator, and what can be done with a flow: call it, submit it as a subflow."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from contextvars import Context, copy_context
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

from anabranch import late
from anabranch.context import current, current_context
from anabranch.direct_calls import refuse_other_loops
from anabranch.engine.engine import Engine
from anabranch.engine.subflows import SubflowRunner
from anabranch.errors import MissingFlowError
from anabranch.execution.calls import Hook, TaskSpec, source_of
from anabranch.execution.functions import (
    ASYNC,
    ASYNC_GENERATOR,
    GENERATOR,
    Traveller,
    function_key,
    function_kind,
)
from anabranch.execution.names import fill_template
from anabranch.flow_drivers import iterate_async, iterate_sync, run_async, run_sync
from anabranch.futures import TaskFuture
from anabranch.keeping_options import persistence_options
from anabranch.parameters import Parameters
from anabranch.retries import Condition, Delays, retry_policy
from anabranch.runs import FlowRun, run_name
from anabranch.states import State
from anabranch.task_runners import TaskRunner, task_runner
from anabranch.tasks import checked_timeout

if TYPE_CHECKING:
    from anabranch.resuming import Resumed

P = ParamSpec("P")
R = TypeVar("R", covariant=True)
T = TypeVar("T")
S = TypeVar("S")

Runner = TaskRunner | type[TaskRunner] | str


class FlowOptions(TypedDict, total=False):
    """The options of `@flow` and `with_options`; times are in seconds."""

    name: str | None
    description: str | None
    version: str | None
    flow_run_name: str | Callable[..., str] | None
    task_runner: Runner | None
    retries: int | None
    retry_delay_seconds: Delays | None
    retry_jitter_factor: float | None
    retry_condition_fn: Condition | None
    timeout_seconds: float | None
    validate_parameters: bool
    log_prints: bool | None
    persist_result: bool | None
    result_storage: Any
    result_serializer: Any
    cache_result_in_memory: bool
    on_running: Sequence[Hook] | None
    on_completion: Sequence[Hook] | None
    on_failure: Sequence[Hook] | None
    on_cancellation: Sequence[Hook] | None
    on_crashed: Sequence[Hook] | None


HOOKS = ("on_running", "on_completion", "on_failure", "on_cancellation", "on_crashed")


class Flow(Traveller, Generic[P, R]):
    """A function whose run is tracked and whose tasks run on a task runner. Made by `@flow`;
    `fn` is the plain function."""

    def __init__(self, fn: Callable[P, R], **options: Unpack[FlowOptions]) -> None:
        self.fn = fn
        self._options = options
        self.binds_class = False  # whether its first argument is the class that it stands in
        functools.update_wrapper(self, fn)
        self.name = options.get("name") or getattr(fn, "__name__", type(fn).__name__)
        self.description = options.get("description") or fn.__doc__
        self.version = options.get("version")
        self.flow_run_name = options.get("flow_run_name")
        self.log_prints = options.get("log_prints")
        self.validates = options.get("validate_parameters", True)
        self.kind = function_kind(fn)
        self.key = function_key(fn)
        owner = f"Flow {self.name!r}"
        given = options.get("task_runner")
        self.runner: TaskRunner | None = None if given is None else task_runner(given)
        self.timeout = checked_timeout(owner, options.get("timeout_seconds"))
        self.retries = retry_policy(
            owner,
            options.get("retries"),
            options.get("retry_delay_seconds"),
            options.get("retry_jitter_factor"),
            options.get("retry_condition_fn"),
        )
        self.persistence = persistence_options(owner, options)
        self.in_memory = options.get("cache_result_in_memory", True)
        self._hooks: dict[str, list[Hook]] = {name: list(options.get(name) or ()) for name in HOOKS}

    @functools.cached_property
    def parameters(self) -> Parameters:
        return Parameters(self.fn, self.name)

    @functools.cached_property
    def source(self) -> bytes:
        """What stands for the function's source, empty where nothing can."""
        return source_of(self.fn)

    def with_options(self, **options: Unpack[FlowOptions]) -> Flow[P, R]:
        """A flow over the same function, with these options changed."""
        kept = {**self._options, **{name: list(hooks) for name, hooks in self._hooks.items()}}
        return Flow(self.fn, **{**kept, **options})  # pyright: ignore[reportArgumentType]  # checked by the signature

    def validate_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """These parameters as the flow would get them; raises `ParameterTypeError`."""
        self.parameters.bind((), parameters)
        args, kwargs = self.parameters.validated((), parameters)
        return dict(self.parameters.bind(args, kwargs).arguments)

    @overload
    def __get__(self, instance: None, owner: Any = None) -> Flow[P, R]: ...
    @overload
    def __get__(self: Flow[Concatenate[S, P], R], instance: S, owner: Any = None) -> Flow[P, R]: ...
    def __get__(self, instance: Any, owner: Any = None) -> Any:
        instance = owner if self.binds_class else instance
        if instance is None:
            return self
        kept = {**self._options, **self._hooks, "name": self.name}
        return Flow(functools.partial(self.fn, instance), **kept)  # pyright: ignore[reportArgumentType, reportCallIssue]  # the same options

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the flow: a sync one here and now, an async one when it is awaited, a generator as
        its items are asked for.

        Beside the flow's own arguments: `wait_for`, and `return_state=True` for the final state
        instead of the result. Raises what the flow raised, or `FailedRun` for a failed state.
        """
        wait_for: Any = kwargs.pop("wait_for", None) or ()
        return_state: Any = kwargs.pop("return_state", False)
        if isinstance(wait_for, TaskFuture):
            wait_for = (wait_for,)
        call = (args, kwargs, wait_for)
        if self.kind in (ASYNC, ASYNC_GENERATOR):
            refuse_other_loops()
            if self.kind == ASYNC_GENERATOR and not return_state:
                return iterate_async(self, call)  # pyright: ignore[reportReturnType]  # R is its generator
            return self._run_async(call, return_state)  # pyright: ignore[reportReturnType]  # R is its coroutine
        if self.kind == GENERATOR and not return_state:
            return iterate_sync(self, call)  # pyright: ignore[reportReturnType]  # as above
        state = run_sync(self, call)
        return state if return_state else state.result()  # pyright: ignore[reportReturnType]  # asked for

    async def _run_async(self, call: tuple[Any, ...], return_state: bool) -> Any:
        state = await run_async(self, call)
        return state if return_state else state.result()

    @overload
    def submit(
        self: Flow[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> TaskFuture[T]: ...
    @overload
    def submit(
        self: Flow[P, Generator[T, Any, Any]], *args: P.args, **kwargs: P.kwargs
    ) -> TaskFuture[list[T]]: ...
    @overload
    def submit(self: Flow[P, T], *args: P.args, **kwargs: P.kwargs) -> TaskFuture[T]: ...
    def submit(self: Flow[Any, Any], *args: Any, **kwargs: Any) -> Any:
        """Start a subflow beside the calling flow, and get its future at once."""
        context = current_context()
        open_flow = context.open_flow
        if open_flow is None or open_flow.runner is None:
            raise MissingFlowError(self.name, "submit")
        wait_for = kwargs.pop("wait_for", None) or ()
        return_state = kwargs.pop("return_state", False)
        self.parameters.check(args, kwargs)
        engine: Engine = context.engine
        spec = TaskSpec(
            name=self.name,
            key=self.key,
            fn=self._run_for_submit,
            run_name=None if self.flow_run_name is None else self._submitted_name,
            task=self,
        )
        carrier = SubflowRunner(engine, open_flow.runner if self.runner is None else None)
        future = engine.submit(
            spec,
            (args,),
            kwargs,
            wait_for=wait_for,
            runner=carrier,
            context=context,
            visible=False,  # the subflow tells of itself
        )[0]
        if return_state:
            future.wait()
            return future.state
        return future

    def resume(
        self,
        run_id: str,
        *,
        return_state: bool = False,
        parameters: Mapping[str, Any] | None = None,
    ) -> Any:
        """Go on with a run of this flow where it stopped: what is recorded as completed is handed
        back, and the rest runs. The result is that of a call, all items at once of a generator;
        awaited where the flow is async. `run_id` may be the start of an id, or a name.

        `parameters` replace recorded ones; those that hold secrets have to be given, since they are
        not recorded. Raises `UnknownRunError`, `AmbiguousRunError`, `AlreadyCompletedError`, `StillOwnedError`,
        `OtherFlowError`, `NotResumableError` and `TamperedResultError`.
        """
        resume = functools.partial(late.resume_run, self, run_id, parameters or {})
        if self.kind in (ASYNC, ASYNC_GENERATOR):
            return self._resume_async(resume, return_state)
        resumed = resume()
        call = (resumed.args, resumed.kwargs, ())
        state = _inside(resumed).run(run_sync, self, call)
        return state if return_state else state.result()

    async def _resume_async(self, resume: Callable[[], Resumed], return_state: bool) -> Any:
        import asyncio  # 25 ms that a process without async flows need not spend

        refuse_other_loops()
        resumed = await asyncio.to_thread(resume)
        call = self._run_async((resumed.args, resumed.kwargs, ()), return_state)
        return await asyncio.get_running_loop().create_task(call, context=_inside(resumed))

    def _submitted_name(self, parameters: Mapping[str, Any]) -> str:
        return self.name_for(parameters["args"], parameters["kwargs"])

    def name_for(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """The name of a run with these arguments, from the template or, without one, drawn."""
        if self.flow_run_name is None:
            return run_name()
        bound = self.parameters.bind(args, kwargs)
        bound.apply_defaults()
        return fill_template(self.flow_run_name, bound.arguments)

    def _run_for_submit(self, *args: Any, **kwargs: Any) -> Any:
        """The subflow's whole run in the thread that it was given; its state is the outcome."""
        if self.kind in (ASYNC, ASYNC_GENERATOR):
            import asyncio  # 25 ms that a process without async flows need not spend

            return asyncio.run(run_async(self, (args, kwargs, ())))
        return run_sync(self, (args, kwargs, ()))

    def call_hooks(self, engine: Engine, name: str, flow_run: FlowRun, state: State[Any]) -> None:
        """Have the hooks of this name called, off the engine's thread."""
        for hook in self._hooks.get(name, ()):
            engine.callbacks.call(f"{name} hook of flow {self.name!r}", hook, self, flow_run, state)

    def _add_hook(self, name: str, fn: Hook) -> Hook:
        self._hooks[name].append(fn)
        return fn

    def on_running(self, fn: Hook) -> Hook:
        """Decorator: call `fn(flow, flow_run, state)` when a run starts."""
        return self._add_hook("on_running", fn)

    def on_completion(self, fn: Hook) -> Hook:
        """Decorator: call `fn(flow, flow_run, state)` when a run completes."""
        return self._add_hook("on_completion", fn)

    def on_failure(self, fn: Hook) -> Hook:
        """Decorator: call `fn(flow, flow_run, state)` when a run fails."""
        return self._add_hook("on_failure", fn)

    def on_cancellation(self, fn: Hook) -> Hook:
        """Decorator: call `fn(flow, flow_run, state)` when a run is cancelled."""
        return self._add_hook("on_cancellation", fn)

    def on_crashed(self, fn: Hook) -> Hook:
        """Decorator: call `fn(flow, flow_run, state)` when a run crashes."""
        return self._add_hook("on_crashed", fn)

    def __repr__(self) -> str:
        return f"<Flow {function_key(self.fn)}>"


def _inside(resumed: Resumed) -> Context:
    """Where a recorded run goes on."""
    inside = copy_context()
    inside.run(current.set, late.ResumeContext(resumed, current_context()))
    return inside


@overload
def flow(fn: Callable[P, R], /) -> Flow[P, R]: ...
@overload
def flow(**options: Unpack[FlowOptions]) -> Callable[[Callable[P, R]], Flow[P, R]]: ...
def flow(fn: Any = None, /, **options: Unpack[FlowOptions]) -> Any:
    """Make a flow of a function, generator or method, sync or async.

    Options, all of them optional, times in seconds:
    `name`, `description`, `version`; `flow_run_name`, a template such as `"census-{root}"` or a
    function; `task_runner`, an instance, a class or a string such as `"threads?max_workers=16"`;
    `retries`, `retry_delay_seconds`, `retry_jitter_factor`, `retry_condition_fn`,
    `timeout_seconds` and `log_prints` as for tasks; `validate_parameters`, on by default;
    `persist_result`, `result_storage`, `result_serializer` and `cache_result_in_memory` as for
    tasks, for the value of the run;
    `on_running`, `on_completion`, `on_failure`, `on_cancellation`, `on_crashed`, lists of
    `(flow, flow_run, state)` hooks.

    Raises `OptionError`, `UnknownTaskRunnerError` and `TaskRunnerOptionError`.
    """
    if fn is None:
        return lambda fn: flow(fn, **options)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType, reportCallIssue, reportUnknownVariableType]  # typed by the overloads
    if isinstance(fn, staticmethod):
        return staticmethod(Flow(fn.__func__, **options))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType, reportUnknownVariableType]  # any function
    if isinstance(fn, classmethod):
        made: Flow[Any, Any] = Flow(fn.__func__, **options)  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType, reportUnknownArgumentType]  # any function
        made.binds_class = True  # classmethod itself chains no descriptors since Python 3.13
        return made
    return Flow(fn, **options)
