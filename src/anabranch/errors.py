"""Every error that anabranch raises: what happened, where, and the way out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


class AnabranchError(Exception):
    """Base of all errors of this package. Most build their message, so copies are not made by
    calling them again."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _copied, (type(self), self.args), self.__dict__


def _copied(cls: type[AnabranchError], args: tuple[Any, ...]) -> AnabranchError:
    error = cls.__new__(cls)
    error.args = args
    return error


class ParameterTypeError(AnabranchError, TypeError):
    """A flow parameter does not fit its annotation."""

    def __init__(self, flow_name: str, problems: str) -> None:
        super().__init__(
            f"Flow {flow_name!r} was called with parameters that do not fit its signature:\n"
            f"{problems}\n"
            "Correct the value, change the annotation, or switch the check off with "
            "@flow(validate_parameters=False)."
        )


class AnnotationError(AnabranchError, TypeError):
    """The annotations of a flow's parameters cannot be used to check them."""

    def __init__(self, flow_name: str, problem: str) -> None:
        super().__init__(
            f"The annotations of flow {flow_name!r} cannot be read: {problem}. Import at run time "
            "what they name (not only under TYPE_CHECKING), change them, or switch the check off "
            "with @flow(validate_parameters=False)."
        )


class ParameterBindError(AnabranchError, TypeError):
    """The arguments of a call do not match the function's signature."""

    def __init__(self, name: str, signature: str, problem: str) -> None:
        super().__init__(f"{name}{signature} cannot be called like this: {problem}.")


class MappingLengthMismatch(AnabranchError, ValueError):
    """The arguments of a map have different lengths."""

    def __init__(self, task_name: str, lengths: Mapping[str, int]) -> None:
        told = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        super().__init__(
            f"{task_name}.map() needs arguments of one length, but {told}. "
            "Wrap an argument that stays the same for each call in unmapped(...)."
        )


class MappingMissingIterable(AnabranchError, ValueError):
    """A map was given nothing to map over."""

    def __init__(self, task_name: str, given: Mapping[str, str]) -> None:
        told = ", ".join(f"{name}: {kind}" for name, kind in given.items()) or "no arguments"
        super().__init__(
            f"{task_name}.map() found nothing to map over ({told}). Pass at least one list, tuple, "
            f"set, range, iterator or array, or use {task_name}.submit(...) for a single call."
        )


class StreamSourceError(AnabranchError, TypeError):
    """What a stream was given has no items that it can have."""

    def __init__(self, task_name: str, source: object, problem: str) -> None:
        super().__init__(
            f"{task_name}.stream() takes its items from {type(source).__name__}, which {problem}. "
            "Pass a list, a generator, or any other iterable; an async one in an async flow."
        )


class StreamUsedError(AnabranchError, RuntimeError):
    """A stream was iterated a second time."""

    def __init__(self, task_name: str) -> None:
        super().__init__(
            f"This stream of {task_name} was iterated before, and its futures are gone. Call "
            f"{task_name}.stream(...) again, or keep what you need of the futures."
        )


class MissingFlowError(AnabranchError, RuntimeError):
    """submit or map was used where no flow is running."""

    def __init__(self, task_name: str, method: str) -> None:
        super().__init__(
            f"{task_name}.{method}() needs a running flow, and there is none here. Call it inside "
            f"a function decorated with @flow, or call {task_name}(...) directly."
        )


class FinishedFlowError(AnabranchError, RuntimeError):
    """Something was submitted to a run that has ended or is being cancelled."""

    def __init__(self, task_name: str, run_name: str) -> None:
        super().__init__(
            f"{task_name} cannot be submitted: flow run {run_name!r} has ended or is being "
            "cancelled. Submit it while the flow's function runs."
        )


class ForeignFutureError(AnabranchError, ValueError):
    """A future of one run was given to another."""

    def __init__(self, future_name: str, where: str) -> None:
        super().__init__(
            f"{where} was given the future of {future_name!r}, which belongs to another run. "
            "Pass its value, future.result(), instead."
        )


class WouldDeadlockError(AnabranchError, RuntimeError):
    """Blocking here would stop the event loop that the awaited work needs."""

    def __init__(self, future_name: str) -> None:
        super().__init__(
            f"Blocking on {future_name!r} here would stop the event loop that has to run it. "
            "Use `await future` instead of future.result() or future.wait()."
        )


class FutureCycleError(AnabranchError, ValueError):
    """A future stands inside an object that contains itself."""

    def __init__(self, where: str) -> None:
        super().__init__(
            f"{where}: a future stands inside an object that contains itself, so it cannot be "
            "replaced by its value. Pass the future as an argument of its own, or wrap the object "
            "in quote(...)."
        )


class NestingTooDeepError(AnabranchError, RecursionError):
    """An argument is nested deeper than the search for futures goes."""

    def __init__(self, where: str, limit: int) -> None:
        super().__init__(
            f"{where} is nested more than {limit} levels deep, which is further than the search "
            "for futures goes. Wrap it in quote(...) if it holds none."
        )


class UpstreamTaskError(AnabranchError):
    """A task did not run since one that it depends on did not complete."""

    def __init__(self, run_name: str, upstream_name: str, upstream_state: str) -> None:
        self.run_name = run_name
        self.upstream_name = upstream_name
        self.upstream_state = upstream_state
        super().__init__(
            f"{run_name!r} did not run: it depends on {upstream_name!r}, which ended as "
            f"{upstream_state}. Wrap the future in allow_failure(...) to run it all the same."
        )


class FailedRun(AnabranchError):
    """A run ended as Failed, and its state holds no exception of its own."""


class CrashedRun(AnabranchError):
    """The process, thread or machine that carried a run was lost."""


class CancelledRun(AnabranchError):
    """A run was cancelled before it completed."""


class PendingRun(AnabranchError, RuntimeError):
    """The result of a run was asked for before there is one."""

    def __init__(self, run_name: str, state_name: str) -> None:
        super().__init__(
            f"{run_name!r} is {state_name} and has no result yet. Wait for its future first."
        )


class RunTimedOut(AnabranchError, TimeoutError):
    """A run passed its timeout."""

    def __init__(self, run_name: str, seconds: float) -> None:
        self.run_name = run_name
        self.seconds = seconds
        super().__init__(f"{run_name!r} passed its timeout of {seconds:g} seconds.")


class RemoteTaskError(AnabranchError):
    """Stands for an exception of a worker process that could not be sent as it is.

    `type_name`, `message` and `traceback_text` are those of the original.
    """

    def __init__(self, type_name: str, message: str, traceback_text: str) -> None:
        self.type_name = type_name
        self.message = message
        self.traceback_text = traceback_text
        super().__init__(f"{type_name}: {message}")


class UnhashableInput(AnabranchError, TypeError):
    """A value has no identity that a key could be made from.

    `path` says where in the value it stands, `type_name` what it is.
    """

    def __init__(self, path: str, type_name: str, reason: str, argument: str | None = None) -> None:
        self.path = path
        self.type_name = type_name
        self.reason = reason
        self.argument = argument
        left_out = (
            "leave it out of the policy"
            if argument is None
            else f"leave the argument out with INPUTS - {argument!r}"
        )
        super().__init__(
            f"No key can be made from {path}, of type {type_name}: {reason}. Give its class an "
            f"__anabranch_key__() method, {left_out}, or make the key yourself with cache_key_fn."
        )


class UnpicklableError(AnabranchError, TypeError):
    """A value cannot be sent to another process."""

    def __init__(self, what: str, path: str, reason: str) -> None:
        self.what = what
        self.path = path
        self.reason = reason
        super().__init__(
            f"{what} cannot be sent to another process: {path} cannot be pickled ({reason}). "
            "Build it inside the task, leave it out, or use the threads runner."
        )


class UnserializableResult(AnabranchError, TypeError):
    """A value cannot be written by its serializer."""

    def __init__(self, what: str, serializer: str, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(
            f"{what} cannot be kept: the serializer {serializer!r} cannot write {path} ({reason}). "
            "Leave that part out of what is returned, choose another result_serializer, or do not "
            "ask for the result to be kept."
        )


class UnknownSerializerError(AnabranchError, ValueError):
    """A string names no serializer that is known here."""

    def __init__(self, text: str, known: Iterable[str]) -> None:
        super().__init__(f"{text!r} names no serializer. Known here: {', '.join(sorted(known))}.")


class UnknownStorageError(AnabranchError, ValueError):
    """What was given as a storage for results is none."""

    def __init__(self, given: str, problem: str) -> None:
        super().__init__(
            f"{given} is no storage for results: {problem}. Pass a folder, a URL such as "
            "'s3://bucket/results', or an object with the methods of anabranch.results.Storage."
        )


class StorageKeyError(AnabranchError, ValueError):
    """A key cannot stand for a result in a storage."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"The storage key {key!r} will not do: {problem}.")


class StorageKeyTemplateError(AnabranchError, ValueError):
    """A `result_storage_key` uses something that the run does not have."""

    def __init__(self, template: str, missing: str, known: Iterable[str]) -> None:
        super().__init__(
            f"The result_storage_key {template!r} uses {missing}, which this run does not have. "
            f"It can use: {', '.join(known)}."
        )


class MissingResultError(AnabranchError, LookupError):
    """There is no result under a key, or none any more."""

    def __init__(self, key: str, location: str, why: str = "there is none") -> None:
        self.key = key
        super().__init__(
            f"No result with the key {key!r} at {location}: {why}. Run the task again to have it."
        )


class ResultNotKeptError(AnabranchError, LookupError):
    """The value of a run was not kept, so it cannot be had back."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"This result was not kept ({reason}). Run the task again to have it, or use "
            "persist_result=True, which has no limit in size."
        )


class TamperedResultError(AnabranchError, ValueError):
    """A result at rest does not carry the signature of this installation."""

    def __init__(self, key: str, location: str) -> None:
        self.key = key
        self.location = location
        super().__init__(
            f"The result with the key {key!r} at {location} was not loaded: its signature does not "
            "fit. It was damaged, changed, moved from another key, or written with another secret. "
            "If you trust what wrote it, use the same secret here (the file `secret` in "
            "ANABRANCH_HOME); else delete it and run the task again."
        )


class ResultSecretError(AnabranchError, ValueError):
    """The secret that signs results cannot be used."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(
            f"The secret that signs results, {path}, {problem}. Bring back a copy, or delete the "
            "file: results signed with the lost one are then computed again."
        )


class UnreadableResultError(AnabranchError, ValueError):
    """A result is there and is ours, and cannot be turned into a value again."""

    def __init__(self, what: str, reason: str, writer: str, reader: str) -> None:
        super().__init__(
            f"{what} cannot be read: {reason}. It was written by {writer}; this is {reader}. Read "
            "it with the code and the versions that wrote it, or run the task again."
        )


class UnknownTaskRunnerError(AnabranchError, ValueError):
    """A task runner's string names no runner that is known here."""

    def __init__(self, text: str, known: Iterable[str]) -> None:
        super().__init__(f"{text!r} names no task runner. Known here: {', '.join(sorted(known))}.")


class TaskRunnerOptionError(AnabranchError, ValueError):
    """An option of a task runner is unknown or out of its range."""

    def __init__(self, runner: str, option: str, value: object, expected: str) -> None:
        super().__init__(f"{runner}: {option}={value!r} will not do; it takes {expected}.")


class UnsupportedOptionError(AnabranchError, ValueError):
    """A task asks for something that its task runner cannot do."""

    def __init__(self, task_name: str, option: str, runner: str, way_out: str) -> None:
        super().__init__(
            f"Task {task_name!r} asks for {option}, which the {runner} runner cannot do. {way_out}"
        )


class OptionError(AnabranchError, ValueError):
    """An option of a task or flow is out of its range, or contradicts another."""

    def __init__(self, owner: str, option: str, value: object, expected: str) -> None:
        super().__init__(f"{owner}: {option}={value!r} will not do; it takes {expected}.")


class UnsupportedEventLoopError(AnabranchError, RuntimeError):
    """The calling event loop is not asyncio's."""

    def __init__(self, library: str) -> None:
        super().__init__(
            f"anabranch runs on asyncio (uvloop too), and this code runs on {library}. Start it "
            "with asyncio.run(...) or anyio.run(..., backend='asyncio')."
        )


class SettingError(AnabranchError, ValueError):
    """A setting has a value that will not do."""

    def __init__(self, name: str, value: object, source: str, problem: str) -> None:
        super().__init__(f"Setting {name}={value!r}, from {source}: {problem}.")


class NameTemplateError(AnabranchError, ValueError):
    """The template of a run's name uses something that the call does not have."""

    def __init__(self, template: str, missing: str, known: Iterable[str]) -> None:
        super().__init__(
            f"The run name {template!r} uses {missing}, which this call does not have. "
            f"It can use: {', '.join(known) or 'nothing'}."
        )


class MissingContextError(AnabranchError, RuntimeError):
    """Something that needs a current run was used outside of one."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} needs a current run, and there is none here. Call it inside a function "
            "decorated with @flow or @task."
        )


class TaskRunnerClosedError(AnabranchError, RuntimeError):
    """A task runner was used after it was closed."""

    def __init__(self, runner: str) -> None:
        super().__init__(f"The {runner} runner is closed; a flow opens it for its own length.")


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, raised in the main thread by the flow that it cancels."""


class Terminated(SystemExit):
    """SIGTERM, raised in the main thread by the flow that it cancels; ends the process with 143."""

    def __init__(self, code: int = 143) -> None:
        super().__init__(code)


class MissingExtraError(AnabranchError, ImportError):
    """A package is not installed that comes with an extra of this one."""

    def __init__(self, what: str, package: str, install: str) -> None:
        super().__init__(
            f"{what} needs the package {package}, which is not installed. Install it with "
            f'pip install "{install}".'
        )


class StoreError(AnabranchError):
    """The store cannot be used."""

    def __init__(self, url: str, problem: str) -> None:
        super().__init__(f"The store {url} cannot be used: {problem}.")


class LockedStoreError(StoreError, TimeoutError):
    """Another process holds the store for too long."""

    def __init__(self, url: str, problem: str) -> None:
        AnabranchError.__init__(
            self,
            f"The store {url} is held by another process for long ({problem}). Try again; if it "
            "goes on, see with `anabranch doctor` who uses it.",
        )


class UnreachableStoreError(StoreError, ConnectionError):
    """The server that the store is on does not answer."""

    def __init__(self, url: str, place: str, problem: str) -> None:
        AnabranchError.__init__(
            self,
            f"The store {url} cannot be reached at {place}: {problem}. See whether the server runs "
            "there and takes connections from here, or set ANABRANCH_DATABASE_URL to another.",
        )


class StoreUrlError(StoreError, ValueError):
    """A URL that names no store."""

    def __init__(self, url: str, problem: str) -> None:
        AnabranchError.__init__(
            self,
            f"{url!r} does not name a store: {problem}. A URL of a store is sqlite:///relative/path, "
            "sqlite:////absolute/path, sqlite:///:memory: or postgresql://user@host:port/database.",
        )


class FullStoreError(StoreError, OSError):
    """The disk that the store is on takes no more."""

    def __init__(self, url: str, problem: str) -> None:
        AnabranchError.__init__(
            self,
            f"The store {url} cannot be written: {problem}. Make room on its disk, for example "
            "with `anabranch runs rm --older-than 30d`, or set ANABRANCH_HOME to another.",
        )


class ReadOnlyStoreError(StoreError, PermissionError):
    """The store, or its folder, cannot be written."""

    def __init__(self, url: str, problem: str) -> None:
        AnabranchError.__init__(
            self,
            f"The store {url} cannot be written: {problem}. Change its permissions, or set "
            "ANABRANCH_HOME or ANABRANCH_DATABASE_URL to one that can be written.",
        )


class CorruptStoreError(StoreError):
    """The store's file is damaged."""

    def __init__(self, url: str, problem: str) -> None:
        AnabranchError.__init__(self, f"The store {url} is damaged: {problem}.")


class NotAStoreError(StoreError, ValueError):
    """What should be the store is a file, or a database, of another kind."""

    def __init__(self, url: str, problem: str) -> None:
        AnabranchError.__init__(
            self,
            f"{url} is not a store: {problem}. It was left as it is. Set ANABRANCH_DATABASE_URL or "
            "ANABRANCH_HOME to another place, or move it away.",
        )


class NewerStoreError(StoreError):
    """The store was made by a newer release."""

    def __init__(self, url: str, found: str, known: str) -> None:
        AnabranchError.__init__(
            self,
            f"The store {url} has schema {found}, and this release knows those up to {known}. "
            "Install a newer anabranch, or set ANABRANCH_HOME to a store of its own.",
        )


class StaleOwnerError(AnabranchError):
    """A run was taken over by another process, whose word counts from then on."""

    def __init__(self, session: int) -> None:
        super().__init__(
            f"Session {session} does not own its run any more: another process resumed it, or gave "
            "this one up for dead. What this process did since then is not recorded."
        )


class UnknownRunError(AnabranchError, LookupError):
    """No run in the store has this id or name."""

    def __init__(self, given: str, nearest: Iterable[str]) -> None:
        near = " or ".join(nearest)
        told = f" Did you mean {near}?" if near else ""
        super().__init__(
            f"No run in the store has the id or name {given!r}.{told} See `anabranch runs ls`."
        )


class AmbiguousRunError(AnabranchError, LookupError):
    """Several runs have an id that begins like this."""

    def __init__(self, given: str, ids: Sequence[str]) -> None:
        super().__init__(
            f"Several ids begin with {given!r}: {', '.join(ids)}. Give more of the one you mean."
        )


class DurationError(AnabranchError, ValueError):
    """A text does not say a length of time."""

    def __init__(self, text: str) -> None:
        super().__init__(
            f"{text!r} is not a length of time. Write one like 30d, 12h or 1d12h, with w, d, h, m "
            "and s for weeks, days, hours, minutes and seconds."
        )


class FlowFileError(AnabranchError, ValueError):
    """What should name a flow, or a file with flows, names none."""

    def __init__(self, given: str, problem: str) -> None:
        super().__init__(f"{given!r} will not do: {problem}")


class WrongAnswerError(AnabranchError, AssertionError):
    """The check of a benchmark was not content with a result."""

    def __init__(self, case_name: str, problem: str) -> None:
        self.problem = problem
        super().__init__(f"{case_name} gave a wrong answer: {problem}.")


class BenchmarkFileError(AnabranchError, ValueError):
    """A file cannot be read as results of benchmarks."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(
            f"{path} cannot be read as results of benchmarks: {problem}. Give a file that "
            "`anabranch bench --json` or pyperf has written."
        )


class IsolationError(AnabranchError, RuntimeError):
    """A call that others with its cache key must be kept away from cannot be sure of that."""

    def __init__(self, task_name: str, problem: str) -> None:
        super().__init__(
            f"{task_name} has a cache_policy with isolation_level='serializable', and nothing keeps "
            f"others with its key away now: {problem}. Mend that, or use 'read_committed', which runs "
            "the call all the same."
        )


class ConflictError(StoreError):
    """A row that may be there once was to be written twice."""


class NotARootError(AnabranchError, ValueError):
    """A subflow's run was to be resumed by itself."""

    def __init__(self, name: str, root_id: str) -> None:
        super().__init__(
            f"{name} is the run of a subflow, which goes on with the flow that called it: resume "
            f"{root_id} instead."
        )


class AlreadyCompletedError(AnabranchError, ValueError):
    """A run that has completed was to be resumed."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} has completed: nothing is left to do. Call the flow for a new run."
        )


class StillOwnedError(AnabranchError, RuntimeError):
    """A run that another process is at was to be resumed."""

    def __init__(self, name: str, pid: int, host: str) -> None:
        super().__init__(
            f"{name} is still run by process {pid} on {host}. Wait for its end, or end it with "
            "`anabranch runs cancel`."
        )


class OtherFlowError(AnabranchError, ValueError):
    """A run of one flow was to be resumed as one of another."""

    def __init__(self, name: str, recorded: str, given: str) -> None:
        super().__init__(
            f"{name} is a run of the flow {recorded}, and this is {given}. Resume it with that flow; "
            "one that was moved or renamed counts as another, so move it back, or start a new run."
        )


class NotResumableError(AnabranchError, ValueError):
    """A run whose parameters were not recorded was to be resumed."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} cannot be resumed: {reason}. Start a new run.")


class MissingParameterError(AnabranchError, ValueError):
    """Parameters that hold secrets are not recorded, and were not given again."""

    def __init__(self, name: str, missing: Iterable[str]) -> None:
        told = ", ".join(missing)
        super().__init__(
            f"{name} was called with secrets, which are not recorded. Give them again: {told}, with "
            "flow.resume(run_id, parameters={...}) or `anabranch runs resume ID --param NAME=VALUE`."
        )


class UnknownLimitError(AnabranchError, LookupError):
    """There is no limit of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"There is no limit {name!r}. Make it with `anabranch limits set {name} SLOTS`, or leave "
            "strict out, so that a limit which does not exist limits nothing."
        )


class LimitTooSmallError(AnabranchError, ValueError):
    """More slots were asked for than a limit has."""

    def __init__(self, name: str, occupy: int, slots: int) -> None:
        super().__init__(
            f"{occupy} slots of limit {name!r} can never be had, since it has {slots}. Occupy fewer, "
            f"or raise it with `anabranch limits set {name} {occupy}`."
        )


class NotARateLimitError(AnabranchError, ValueError):
    """rate_limit was used with a limit whose slots do not come back by themselves."""

    def __init__(self, name: str, slots: int) -> None:
        super().__init__(
            f"rate_limit cannot use limit {name!r}, which does not say how many slots come back in a "
            f"second. Set that with `anabranch limits set {name} {slots} --per-second X`, or use "
            "concurrency instead."
        )


class ConcurrencySlotTimeoutError(AnabranchError, TimeoutError):
    """The slots of a limit could not be had in time."""

    def __init__(self, names: Iterable[str], occupy: int, seconds: float) -> None:
        told = ", ".join(repr(name) for name in names)
        super().__init__(
            f"{occupy} of the slots of {told} could not be had within {seconds:g} seconds. Give it a "
            "longer timeout_seconds, or see with `anabranch limits ls` what is in use."
        )


class TransactionError(AnabranchError, ValueError):
    """A transaction was asked for something that it does not have, or cannot do now."""

    def __init__(self, problem: str, way_out: str) -> None:
        super().__init__(f"{problem}. {way_out}")


class WorkerVersionError(AnabranchError, RuntimeError):
    """A worker of a cluster has another version of Python, or of this package, than the flow."""

    def __init__(self, worker: str, its: Iterable[str], ours: Iterable[str]) -> None:
        (python, package), (our_python, our_package) = its, ours
        super().__init__(
            f"Worker {worker} has Python {python} with anabranch {package}, and this flow runs on "
            f"Python {our_python} with anabranch {our_package}. Functions that travel by value need "
            "the same on both sides: install these versions there, or run the flow with those."
        )


class ClusterConnectionError(AnabranchError, ConnectionError):
    """A cluster could not be reached, or is gone."""

    def __init__(self, engine: str, address: str, problem: str, way_out: str) -> None:
        super().__init__(f"{engine} at {address}: {problem}. {way_out}")


class LostResultError(AnabranchError, RuntimeError):
    """A result that stayed on a cluster is not there any more."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"The result stayed on the cluster, and cannot be had: {why}. Ask for it while its flow "
            "runs, return it from the flow, or keep it with persist_result=True."
        )
