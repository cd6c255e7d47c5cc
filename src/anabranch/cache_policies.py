"""What a task's result is kept under: policies that make a key of a call, and compose.

`+` joins two policies, `- "argument"` leaves an argument of the inputs out. Every key but that of
`CacheKeyFnPolicy` holds the task's own key, so that two tasks with equal inputs never share one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal, NamedTuple, Self, TypeVar

from anabranch.errors import OptionError
from anabranch.hashing import hexdigest, source_digest

IsolationLevel = Literal["read_committed", "serializable"]
CacheKeyFn = Callable[["CacheContext", Mapping[str, Any]], str | None]
Parts = Mapping[str, str | None]
_Policy = TypeVar("_Policy", bound="CachePolicy")

_LEVELS = ("read_committed", "serializable")
_TASK = "task"  # the part that tells one task's keys from another's
_INPUT = "inputs."  # before an argument's name: it counts as part of "inputs"
_KEY_FN = "cache_key_fn"
_OPTIONS = ("key_storage", "lock_manager", "isolation_level")
_FLOW_PARAMETER = "flow_parameters."  # the same for "flow_parameters"


class CacheContext(NamedTuple):
    """The call that a key is made for. `task_run` is the run's record, with its `id`."""

    task: Any
    task_key: str
    fn: Callable[..., Any]
    task_run: Any
    flow_run_id: str | None


@dataclass(frozen=True, kw_only=True)
class CachePolicy:
    """Makes the key of a call; one of your own has a `compute_key`, or `parts`.

    `key_storage` is where keys are kept: a path, a URL, or storage. `lock_manager` and
    `isolation_level` say how calls with one key keep out of each other's way: where they cannot, a
    call runs all the same with `"read_committed"`, as by default, and fails with `"serializable"`.
    """

    key_storage: Any = None
    lock_manager: Any = None
    isolation_level: IsolationLevel | None = None

    def __post_init__(self) -> None:
        level: object = getattr(self.isolation_level, "value", self.isolation_level)  # an enum's
        normal = level.lower() if isinstance(level, str) else level
        if normal is not None and normal not in _LEVELS:
            expected = " or ".join(map(repr, _LEVELS))
            raise OptionError(type(self).__name__, "isolation_level", level, expected)
        object.__setattr__(self, "isolation_level", normal)

    def compute_key(
        self,
        context: CacheContext,
        inputs: Mapping[str, Any],
        flow_parameters: Mapping[str, Any],
    ) -> str | None:
        """The key of a call, or None where its result is not to be kept.

        Raises `UnhashableInput` where a value that counts has no lasting identity.
        """
        return key_from(self.parts(context, inputs, flow_parameters))

    def parts(
        self,
        context: CacheContext,
        inputs: Mapping[str, Any],
        flow_parameters: Mapping[str, Any],
    ) -> Parts:
        """What the key is made of, by name; None for a part that this call does not have.

        A part with a dot in its name, such as `inputs.x`, only tells what is in the one before it.
        """
        if type(self).compute_key is CachePolicy.compute_key:
            raise NotImplementedError(f"{type(self).__name__} has neither compute_key nor parts")
        return {type(self).__name__: self.compute_key(context, inputs, flow_parameters)}

    def configure(
        self,
        key_storage: Any = None,
        lock_manager: Any = None,
        isolation_level: IsolationLevel | None = None,
    ) -> Self:
        """The same policy with these options; those that are None stay as they are."""
        given = {
            "key_storage": key_storage,
            "lock_manager": lock_manager,
            "isolation_level": isolation_level,
        }
        return _with_options(self, **{n: value for n, value in given.items() if value is not None})

    def __add__(self, other: CachePolicy) -> CachePolicy:
        if not isinstance(other, CachePolicy):  # pyright: ignore[reportUnnecessaryIsInstance]  # users without a type checker
            return NotImplemented
        options = _merged_options(self, other)
        members = [*_members(self), *_members(other)]
        if len(members) > 1:
            return CompoundCachePolicy(**options, policies=tuple(members))
        return _with_options(members[0] if members else self, **options)

    def __sub__(self, names: str | Iterable[str]) -> CachePolicy:
        """The policy without these arguments; where inputs did not count, all others now do."""
        return self + Inputs(exclude=_names(names))


@dataclass(frozen=True)
class Inputs(CachePolicy):
    """The arguments of the call, but those in `exclude`."""

    exclude: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "exclude", _names(self.exclude))

    def parts(
        self,
        context: CacheContext,
        inputs: Mapping[str, Any],
        flow_parameters: Mapping[str, Any],
    ) -> Parts:
        counted = {name: inputs[name] for name in inputs if name not in self.exclude}
        return {_TASK: context.task_key, **_each(_INPUT, counted, "arguments")}

    def __sub__(self, names: str | Iterable[str]) -> Inputs:
        return _with_options(self, exclude=self.exclude | _names(names))


@dataclass(frozen=True)
class TaskSource(CachePolicy):
    """The task's code: see `anabranch.hashing.source_digest`. Code without source, as in a plain
    REPL, counts by its bytecode."""

    def parts(
        self,
        context: CacheContext,
        inputs: Mapping[str, Any],
        flow_parameters: Mapping[str, Any],
    ) -> Parts:
        source = source_digest(context.fn, bytecode=True).hex()
        return {_TASK: context.task_key, "task_source": source}


@dataclass(frozen=True)
class FlowParameters(CachePolicy):
    """The parameters of the flow run; outside of one there is no key."""

    def parts(
        self,
        context: CacheContext,
        inputs: Mapping[str, Any],
        flow_parameters: Mapping[str, Any],
    ) -> Parts:
        if context.flow_run_id is None:
            return {_TASK: context.task_key, "flow_parameters": None}
        return {
            _TASK: context.task_key,
            **_each(_FLOW_PARAMETER, flow_parameters, "flow parameters"),
        }


@dataclass(frozen=True)
class RunId(CachePolicy):
    """The flow run, so that nothing outlasts it; outside of one, the task run."""

    def parts(
        self,
        context: CacheContext,
        inputs: Mapping[str, Any],
        flow_parameters: Mapping[str, Any],
    ) -> Parts:
        run_id = context.flow_run_id if context.flow_run_id is not None else context.task_run.id
        return {_TASK: context.task_key, "run_id": str(run_id)}


@dataclass(frozen=True)
class NoCache(CachePolicy):
    """No key. Added to another policy it changes nothing."""

    def parts(
        self,
        context: CacheContext,
        inputs: Mapping[str, Any],
        flow_parameters: Mapping[str, Any],
    ) -> Parts:
        return {}

    def __sub__(self, names: str | Iterable[str]) -> NoCache:
        _names(names)
        return self


@dataclass(frozen=True)
class CacheKeyFnPolicy(CachePolicy):
    """The key that the user's function gives, as it is, or None for no key."""

    cache_key_fn: CacheKeyFn

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.cache_key_fn):
            owner = type(self).__name__
            raise OptionError(owner, "cache_key_fn", self.cache_key_fn, "a function")

    def compute_key(
        self,
        context: CacheContext,
        inputs: Mapping[str, Any],
        flow_parameters: Mapping[str, Any],
    ) -> str | None:
        return self.parts(context, inputs, flow_parameters)[_KEY_FN]

    def parts(
        self,
        context: CacheContext,
        inputs: Mapping[str, Any],
        flow_parameters: Mapping[str, Any],
    ) -> Parts:
        key: object = self.cache_key_fn(context, inputs)
        if key is not None and not (isinstance(key, str) and key):  # pyright: ignore[reportUnnecessaryIsInstance]  # users without a type checker
            raise OptionError("cache_key_fn", "its result", key, "a str that is not empty, or None")
        return {_KEY_FN: key}


@dataclass(frozen=True)
class CompoundCachePolicy(CachePolicy):
    """Several policies, whose parts all count; made by `+`."""

    policies: tuple[CachePolicy, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        members: list[CachePolicy] = []
        for policy in self.policies:
            for member in _members(policy):
                if member not in members:
                    members.append(member)
        object.__setattr__(self, "policies", tuple(members))

    def parts(
        self,
        context: CacheContext,
        inputs: Mapping[str, Any],
        flow_parameters: Mapping[str, Any],
    ) -> Parts:
        found: dict[str, str | None] = {_TASK: context.task_key}
        for policy in self.policies:
            given = policy.parts(context, inputs, flow_parameters)
            heads = {name.partition(".")[0] for name in given} - {_TASK}
            free = next(n for n in count(1) if not any(_nth(head, n) in found for head in heads))
            for name, key in given.items():
                head, dot, rest = name.partition(".")
                found[name if head == _TASK else _nth(head, free) + dot + rest] = key
        return found

    def __sub__(self, names: str | Iterable[str]) -> CachePolicy:
        if not any(isinstance(each, Inputs) for each in self.policies):
            return super().__sub__(names)
        left = [each - names if isinstance(each, Inputs) else each for each in self.policies]
        return _with_options(self, policies=tuple(left))


def key_from(parts: Parts) -> str | None:
    """The key, 32 characters, that parts make; None where none of them is there but the task's."""
    counted = {name: key for name, key in parts.items() if key is not None and "." not in name}
    return hexdigest(counted) if counted.keys() - {_TASK} else None


def excluded_arguments(policy: CachePolicy) -> frozenset[str]:
    """The names that the policy leaves out with `-`."""
    members = [each for each in _members(policy) if isinstance(each, Inputs)]
    return frozenset[str]().union(*(each.exclude for each in members))


def _each(prefix: str, values: Mapping[str, Any], described: str) -> dict[str, str | None]:
    """A part for each value, and one for all of them."""
    found: dict[str, str | None] = {}
    for name, value in values.items():
        argument = name if prefix == _INPUT else None
        found[prefix + name] = hexdigest(value, argument=argument, name=f"{described}[{name!r}]")
    return {prefix[:-1]: hexdigest(found), **found}


def _nth(name: str, place: int) -> str:
    """The name of a part that is there several times: `inputs`, `inputs#2`, ..."""
    return name if place == 1 else f"{name}#{place}"


def _names(given: str | Iterable[str]) -> frozenset[str]:
    """The names of arguments that `-` takes."""
    found: list[object] = [given] if isinstance(given, str) else list(given)
    for name in found:
        if not isinstance(name, str):
            raise OptionError("A cache policy", "-", name, "an argument's name, or several")
    return frozenset(map(str, found))


def _members(policy: CachePolicy) -> list[CachePolicy]:
    """The policies that one is made of, without their options."""
    if isinstance(policy, CompoundCachePolicy):
        return list(policy.policies)
    if isinstance(policy, NoCache):
        return []
    return [_with_options(policy, **dict.fromkeys(_OPTIONS))]


def _merged_options(one: CachePolicy, other: CachePolicy) -> dict[str, Any]:
    """The options of both; raises `OptionError` where they contradict each other."""
    found: dict[str, Any] = {}
    for name in _OPTIONS:
        ours, theirs = getattr(one, name), getattr(other, name)
        if ours is not None and theirs is not None and ours != theirs:
            expected = f"one value for both policies, and the other has {ours!r}"
            raise OptionError(
                f"{type(one).__name__} + {type(other).__name__}", name, theirs, expected
            )
        found[name] = theirs if ours is None else ours
    return found


def _with_options(policy: _Policy, **options: Any) -> _Policy:
    """A copy with other values, also of a policy of the user's with an `__init__` of its own."""
    made = copy.copy(policy)
    for name, value in options.items():
        object.__setattr__(made, name, value)
    CachePolicy.__post_init__(made)
    return made


INPUTS = Inputs()
TASK_SOURCE = TaskSource()
FLOW_PARAMETERS = FlowParameters()
RUN_ID = RunId()
NO_CACHE = NoCache()
DEFAULT = INPUTS + TASK_SOURCE + RUN_ID
