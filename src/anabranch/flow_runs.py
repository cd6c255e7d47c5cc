"""One run of a flow from its call to its state: the same steps for sync and async flows.

`steps` makes every decision and yields what has to be waited for; `flow_drivers.py` waits.
"""

# pyright: reportPrivateUsage=false
# The engine's rooms share the slots of the run record, which are private to users.

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack
from contextvars import Context, copy_context
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from anabranch.context import FlowRunContext, RunContext, current, current_context
from anabranch.dependencies import Search, find_blockers, resolve
from anabranch.engine.callbacks import Verdict
from anabranch.engine.engine import Engine
from anabranch.engine.submission import OpenFlow
from anabranch.errors import (
    CancelledRun,
    CrashedRun,
    ForeignFutureError,
    Interrupted,
    ResultNotKeptError,
    RunTimedOut,
    Terminated,
    UpstreamTaskError,
)
from anabranch.events import FlowRunAbout
from anabranch.execution.calls import Keep
from anabranch.execution.functions import ASYNC_GENERATOR, GENERATOR, function_entrypoint
from anabranch.execution.interrupts import Interrupt
from anabranch.flow_parameters import keep_parameters
from anabranch.futures import TaskFuture, future_state, make_state
from anabranch.identities import BY_ORDER, inputs_digest
from anabranch.outcomes import (
    COMPLETED,
    NOT_KEPT,
    PHASE_STATES,
    RUNNING,
    SETTLED,
    STORED,
    Away,
    Kept,
)
from anabranch.recorded import RecordedCall
from anabranch.runs import FlowRun, run_id
from anabranch.settings import load_settings
from anabranch.states import Cancelled, Crashed, Failed, Retrying, State, TimedOut
from anabranch.task_runners import task_runner
from anabranch.task_runners.base import OpenRunner

if TYPE_CHECKING:
    from anabranch.flows import Flow


logger = logging.getLogger("anabranch.runs")

BEGIN_SECONDS = 0.05
"""A run is on record before its function begins, unless the store is slower than this. It costs a
millisecond then, and ten times that once the writer has to share the interpreter with tasks."""


class RunFunction(NamedTuple):
    """Wait for the user's function."""

    open_flow: OpenFlow
    context: Context
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    timeout: float | None


class ConsumerLeft(BaseException):
    """Whoever iterates over a generator flow wants no more of its items."""


class Settle(NamedTuple):
    """Wait for these futures."""

    futures: list[TaskFuture[Any]]


class Until(NamedTuple):
    """Wait until `start(wake)` has had `wake` called; it gives False where there is no need to.

    Answered by what it gave.
    """

    open_flow: OpenFlow
    start: Callable[[Callable[[], None]], bool]


Step = RunFunction | Settle | Until
if TYPE_CHECKING:  # where it runs, `State[Any]` would be a model of its own: 15 ms
    Steps = Generator[Step, Any, State[Any]]


def steps(
    flow: Flow[..., Any], engine: Engine, context: RunContext, loop: Any, call: tuple[Any, ...]
) -> Steps:
    """The run's course; gives back its final state. `call` is `(args, kwargs, wait_for)`."""
    args, kwargs, wait_for = call
    where, values = f"flow {flow.name!r}", (args, kwargs, tuple(wait_for))
    for future in find_blockers(where, *values).blockers:
        if future._phase < SETTLED and future._shared.home is not engine:
            raise ForeignFutureError(future.name, where)
    inputs = _identity(flow, engine, context, args, kwargs)
    earlier = _earlier(flow, context, inputs)
    handed_back = _handed_back(flow, context, earlier)
    if handed_back is not None:
        return handed_back
    search = yield from _settled_search(where, *values)
    for future, failure_allowed in search.blockers.items():
        if future._phase != COMPLETED and not failure_allowed:
            state_name = PHASE_STATES[future._phase][1]
            raise UpstreamTaskError(f"flow {flow.name}", future.name, state_name)
    args, kwargs = resolve(args), resolve(kwargs)
    flow.parameters.check(args, kwargs)
    if flow.validates:
        args, kwargs = flow.parameters.validated(args, kwargs)
    flow_run = _new_run(flow, engine, context, args, kwargs)
    parent: OpenFlow | None = context.open_flow
    if earlier is not None:
        flow_run = replace(
            flow_run, id=earlier.id, name=earlier.name or flow_run.name,
            run_count=earlier.attempt + 1,
        )  # fmt: skip  # as it reads
    with ExitStack() as lifetimes:
        own = flow.runner
        if own is None and parent is not None and parent.runner is not None:
            runner = parent.runner
        else:
            chosen = task_runner(own or load_settings().task_runner)
            runner = lifetimes.enter_context(chosen.open(engine, loop))
            engine.runners.append(runner)
            lifetimes.callback(engine.runners.remove, runner)
        log_prints = current_context().log_prints if flow.log_prints is None else flow.log_prints
        if log_prints:
            engine.log_prints()
        open_flow = OpenFlow(flow_run, runner, parent, log_prints)
        if earlier is not None and earlier.within is not None:
            open_flow.recorded = earlier.within()
        if inputs is not None:
            _begin(engine, flow_run, _about(flow, flow_run, runner, inputs, earlier))
        engine.tell(flow_run, make_state(RUNNING))
        if parent is None and loop is None:
            engine.broadcast.flush(BEGIN_SECONDS)
        elif parent is None:
            yield Until(open_flow, partial(_recorded, engine))
        flow.call_hooks(engine, "on_running", flow_run, make_state(RUNNING))
        state = yield from _attempts(flow, engine, open_flow, flow_run, (args, kwargs))
        if open_flow.recorded is not None:
            for line in open_flow.recorded.told():
                logger.info("%s | %s", flow_run.name, line, extra=_label(flow_run))
        left = runner.abandoned() if own is not None or parent is None else []
        if left:
            told = f"still running, and nothing can stop it: {', '.join(left)}"
            state = _with_message(state, f"{state.message}; {told}" if state.message else told)
        state = still_ours(engine, state)
        state, kept = yield from _kept(flow, engine, open_flow, state)
        engine.tell(flow_run, state, kept)
        flow.call_hooks(engine, _HOOK_OF.get(state.type.value, ""), flow_run, state)
    return state


def still_ours(engine: Engine, state: State[Any]) -> State[Any]:
    """The state that a run comes to in this process: whatever it did, if it is another's by now, it
    has crashed."""
    if engine.taken_over is None:
        return state
    return Crashed(message=engine.taken_over, data=CrashedRun(engine.taken_over))


def _kept(
    flow: Flow[..., Any], engine: Engine, open_flow: OpenFlow, state: State[Any]
) -> Generator[Step, Any, tuple[State[Any], Kept | None]]:
    """The state as the caller gets it, and what is left of its value for a later process.

    A run whose value is wanted kept, and cannot be, has failed.
    """
    keep, flow_run = engine.keep, open_flow.flow_run
    if keep is None or flow_run is None or not state.is_completed():
        return state, None
    if flow.kind in (GENERATOR, ASYNC_GENERATOR) and state.data is None:
        return state, Kept(NOT_KEPT, None, None, None, "its items were given out as they came")
    work = partial(_keep, keep, flow, flow_run.id, state)
    if flow.persistence is None:
        return work()
    done: list[tuple[State[Any], Kept | None]] = []

    def start(wake: Callable[[], None]) -> bool:
        def write() -> None:
            done.append(work())
            wake()

        engine.callbacks.put(write)  # the flow's own thread may have a loop to turn
        return True

    yield Until(open_flow, start)
    return done[0]


def _keep(
    keep: Keep, flow: Flow[..., Any], flow_run_id: str, state: State[Any]
) -> tuple[State[Any], Kept | None]:
    try:
        kept = keep.keep_flow(state.result(), flow.persistence, flow_run_id, flow.in_memory)
    except Exception as error:
        return Failed(message=f"{type(error).__name__}: {error}", data=error), None
    if not flow.in_memory and kept.form == STORED:
        state = state.model_copy(update={"data": keep.away(kept, flow.persistence)})
    return state, kept


_HOOK_OF = {
    "COMPLETED": "on_completion",
    "FAILED": "on_failure",
    "CANCELLED": "on_cancellation",
    "CRASHED": "on_crashed",
}


def _attempts(
    flow: Flow[..., Any],
    engine: Engine,
    open_flow: OpenFlow,
    flow_run: FlowRun,
    bound: tuple[tuple[Any, ...], Mapping[str, Any]],
) -> Steps:
    """Run the function until it gives a final state, or its retries are used up."""
    first = attempt = flow_run.run_count
    delay: float | None = None
    while True:
        inside = copy_context()
        flow_run = replace(flow_run, run_count=attempt)
        within = FlowRunContext(engine, open_flow, flow_run, open_flow.log_prints)
        around = current_context().transaction
        if around is not None:
            within.transaction = around.share_of(flow_run.id)
        inside.run(current.set, within)
        try:
            if delay is not None:
                yield Until(open_flow, partial(engine.recall_attempt, open_flow))
                yield Until(open_flow, partial(_pause, engine, delay))
            value = yield RunFunction(open_flow, inside, flow.fn, *bound, flow.timeout)
            state = yield from _conclude(engine, open_flow, value)
        except Interrupt:
            error: BaseException = RunTimedOut(flow_run.name, flow.timeout or 0)
            state = yield from _after_failure(engine, open_flow, error)
            state = TimedOut(message=str(error), data=error)
        except BaseException as error:
            if _cancels(error):
                engine.refuse_new(open_flow)
            state = yield from _after_failure(engine, open_flow, error)
        delay = None
        if state.is_failed() and flow.retries is not None and not open_flow.yielded:
            made = attempt - first + 1
            delay = yield from _delay(flow, engine, open_flow, flow_run, state, made)
        if delay is None:
            engine.refuse_new(open_flow)
            return state
        engine.tell(flow_run, _retrying(delay))
        attempt += 1


def _conclude(engine: Engine, open_flow: OpenFlow, value: Any) -> Steps:
    """The final state that a return value stands for, once all children have settled."""
    where = "the flow's return value"
    find_blockers(where, value)  # what it refuses is refused before the children are waited for
    yield from _joined(engine, open_flow)
    search = yield from _settled_search(where, value)
    returned = list(search.blockers)
    if isinstance(value, State):
        return value  # pyright: ignore[reportUnknownVariableType]  # any state
    states = _states_in(value)
    bad = [future for future in returned if future._phase != COMPLETED]
    if bad or any(not state.is_completed() for state in states):
        found: list[State[Any]] = [future_state(future) for future in bad]
        found += [state for state in states if not state.is_completed()]
        total = len(returned) + len(states)
        error = bad[0]._exception() if bad else found[0].exception()
        return Failed(
            message=f"{len(found)} of {total} returned runs did not complete.", data=error
        )
    if search.needed:
        value = resolve(value)
    if states:
        value = _with_results(value)
    return make_state(COMPLETED, _failures_message(open_flow), value)


def _joined(engine: Engine, open_flow: OpenFlow) -> Generator[Step, Any, None]:
    """Wait until no run of the flow is unsettled."""
    while (yield Until(open_flow, partial(engine.when_empty, open_flow))):
        pass


def _settled_search(where: str, *values: Any) -> Generator[Step, Any, Search]:
    """The futures in these values, waited for; again where maps have found their items meanwhile."""
    while True:
        search = find_blockers(where, *values)
        left = [future for future in search.blockers if future._phase < SETTLED]
        if not left:
            return search
        yield Settle(left)


def _states_in(value: Any) -> list[State[Any]]:
    """The states anywhere in a returned list, tuple or dict."""
    if type(value) is dict:
        value = list(value.values())  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]  # a user's own
    if type(value) not in (list, tuple):
        return []
    found: list[State[Any]] = []
    for item in value:
        found += [item] if isinstance(item, State) else _states_in(item)
    return found


def _with_results(value: Any) -> Any:
    """The same lists, tuples and dicts with results in the place of their states."""
    if isinstance(value, State):
        return value.result()  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]  # of any result
    if type(value) is dict:
        return {key: _with_results(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType]  # a user's own
    if type(value) in (list, tuple):
        return type(value)(map(_with_results, value))
    return value


def _failures_message(open_flow: OpenFlow) -> str | None:
    """Names the task runs that did not complete, for a flow that ended all the same."""
    group = open_flow.group
    if not group.failures:
        return None
    named = [f"{run.name} ({PHASE_STATES[run._phase][1]})" for run in group.failed[:5]]
    more = f" and {group.failures - len(named)} more" if group.failures > len(named) else ""
    runs = "task run" if group.failures == 1 else "task runs"
    return f"{group.failures} {runs} did not complete: {', '.join(named)}{more}"


def _after_failure(engine: Engine, open_flow: OpenFlow, error: BaseException) -> Steps:
    """The function raised: end its children, wait for them, and say what the run came to."""
    engine.cancel_flow(open_flow)
    yield from _joined(engine, open_flow)
    if _cancels(error):
        why = "Ctrl-C" if isinstance(error, KeyboardInterrupt) else "SIGTERM"
        if isinstance(error, ConsumerLeft):
            why = "its consumer wanted no more items"
        elif not isinstance(error, Interrupted | Terminated):
            why = "cancelled"
        return Cancelled(message=f"Cancelled ({why}).", data=error)
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__") == __name__:
        trace = trace.tb_next
    error = error.with_traceback(trace)
    return Failed(message=f"{type(error).__name__}: {error}", data=error)


def _cancels(error: BaseException) -> bool:
    return (
        isinstance(error, Interrupted | Terminated | CancelledRun | ConsumerLeft)
        or type(error).__name__ == "CancelledError"
    )


def _delay(
    flow: Flow[..., Any],
    engine: Engine,
    open_flow: OpenFlow,
    flow_run: FlowRun,
    state: State[Any],
    attempts: int,
) -> Generator[Step, Any, float | None]:
    """Seconds until the next attempt after so many; None where there is to be none."""
    policy = flow.retries
    if policy is None:
        return None
    delay = policy.delay_after(attempts, state.exception())
    if delay is None or policy.condition is None or policy.condition_is_tenacitys:
        return delay
    verdict = Verdict(f"retry_condition_fn of flow {flow.name!r}")
    ask = partial(engine.ask, verdict, policy.condition, flow, flow_run, state)
    yield Until(open_flow, ask)
    return delay if verdict.wanted else None


def _pause(engine: Engine, seconds: float, wake: Callable[[], None]) -> bool:
    engine.clock.call_later(seconds, wake)
    return True


def _retrying(delay: float) -> State[Any]:
    return Retrying(message=f"again in {delay:g} s")


def _with_message(state: State[Any], message: str) -> State[Any]:
    return state.model_copy(update={"message": message})


def _label(flow_run: FlowRun) -> dict[str, str]:
    """What a log line says of the run that it is about."""
    return {
        "run_label": flow_run.name,
        "flow_run_id": flow_run.id,
        "flow_run_name": flow_run.name,
    }


def _identity(
    flow: Flow[..., Any],
    engine: Engine,
    context: RunContext,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> bytes | None:
    """What makes this the same call in a later process; None where nothing is recorded."""
    if not engine.records:
        return None
    if context.task is flow and context.task_run_id is not None:
        digest = engine.digest_of(context.task_run_id)  # of the futures that are replaced by now
        if digest is not None:
            return digest
    inputs = inputs_digest(args, kwargs)
    parent: OpenFlow | None = context.open_flow
    return inputs if parent is None else parent.identity(flow.key, inputs)


def _handed_back(
    flow: Flow[..., Any], context: RunContext, earlier: RecordedCall | None
) -> State[Any] | None:
    """The state of a subflow that has completed; None where it is to run."""
    if earlier is None or not earlier.completed or context.resumed is not None:
        return None
    if context.transaction is not None:
        return None  # it runs again, on what its tasks recorded, so that they join that
    try:
        value = earlier.value()
        if not flow.in_memory:
            value = Away(earlier.value)
        return make_state(COMPLETED, None, value, state_name=earlier.state_name)
    except ResultNotKeptError:
        context.open_flow.recorded.lacks_value(flow.key)
        return None  # it runs again, with what it recorded itself


def _recorded(engine: Engine, wake: Callable[[], None]) -> bool:
    """Have `wake()` called once what was told so far is on record, or that takes too long."""
    if not engine.records:
        return False

    def wait() -> None:
        engine.broadcast.flush(BEGIN_SECONDS)
        wake()

    engine.callbacks.put(wait)
    return True


def _begin(engine: Engine, flow_run: FlowRun, about: FlowRunAbout) -> None:
    engine.begin(flow_run, about)
    if about.not_resumable is not None:
        told = f"It cannot be resumed: {about.not_resumable}"
        logger.warning("%s | %s", flow_run.name, told, extra=_label(flow_run))


def _earlier(
    flow: Flow[..., Any], context: RunContext, inputs: bytes | None
) -> RecordedCall | None:
    """This run, as an earlier process has recorded it."""
    if context.resumed is not None:
        return context.resumed.call
    parent: OpenFlow | None = context.open_flow
    if parent is None or parent.recorded is None or inputs is None:
        return None
    return parent.recorded.take(flow.key, inputs, flow.source, inputs.startswith(BY_ORDER))


def _about(
    flow: Flow[..., Any],
    flow_run: FlowRun,
    runner: OpenRunner,
    inputs: bytes,
    earlier: RecordedCall | None,
) -> FlowRunAbout:
    """What the store keeps of the run besides; the parameters of a root flow, for a resume."""
    kept = None
    if flow_run.parent_flow_run_id is None:
        kept = keep_parameters(flow_run.parameters)
    return FlowRunAbout(
        flow.key,
        flow.source,
        function_entrypoint(flow.fn),
        runner.capabilities.name,
        inputs,
        None if kept is None else kept.data,
        None if kept is None else kept.preview,
        None if kept is None else kept.problem,
        None if earlier is None else earlier.row,
    )


def _new_run(
    flow: Flow[..., Any],
    engine: Engine,
    context: RunContext,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> FlowRun:
    bound = flow.parameters.bind(args, kwargs)
    bound.apply_defaults()
    submitted = context.task_run  # where it is the subflow's own, both have one name
    name = submitted.name if submitted is not None and context.task is flow else None
    return FlowRun(
        id=run_id(engine.prefix, engine.intake.next_number()),
        name=name or flow.name_for(args, kwargs),
        flow_name=flow.name,
        tags=context.tags,
        parameters=dict(bound.arguments),
        parent_task_run_id=context.task_run_id,
        parent_flow_run_id=None if context.flow_run is None else context.flow_run.id,
        start_time=dt.datetime.fromtimestamp(engine.clock.time(), dt.UTC),
    )
