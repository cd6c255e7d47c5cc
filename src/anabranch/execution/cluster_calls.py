"""Calls on their way to the workers of a cluster: what each carries, and what many share.

All calls of one task in one flow run share a `Template`, and those of one map its constant
arguments; both travel once to each worker. What is left of a call is some hundred bytes.
"""

from __future__ import annotations

import pickle
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from anabranch.dependencies import ATOMS
from anabranch.errors import WorkerVersionError
from anabranch.execution.calls import Call, Scope, TaskSpec
from anabranch.execution.messages import PLAIN_TYPES, joined, parted
from anabranch.execution.pickling import PROTOCOL, Futures, dumps, dumps_apart, loads
from anabranch.outcomes import RemoteValue
from anabranch.version import __version__

TEMPLATES_KEPT = 1_000
SCOPES_KEPT = 100
Versions = tuple[str, str]


def versions() -> Versions:
    """Of Python, as far as it matters to pickled code, and of this package."""
    return f"{sys.version_info.major}.{sys.version_info.minor}", __version__


class Template(NamedTuple):
    """What all calls of one task in one flow run share, as it travels.

    `engine` is the number that the engine's runs begin with, `levels` are those of its loggers,
    `reply_to` says where the runner listens.
    """

    token: str
    versions: Versions
    engine: int
    reply_to: Any
    levels: Mapping[str, int]
    spec: bytes
    flow: bytes

    def refuse_versions(self, worker: str) -> None:
        """Raise `WorkerVersionError` where this worker cannot read what this flow sends."""
        own = versions()
        if own != tuple(self.versions):
            raise WorkerVersionError(worker, own, self.versions)


class Constants(NamedTuple):
    """Arguments that stay the same for all calls of a map, as they travel."""

    token: str
    data: bytes


class Sent(NamedTuple):
    """One call as it travels: `values` are those that stay on the cluster."""

    call: Call
    data: bytes
    values: list[RemoteValue]
    template: Template
    constants: Constants | None


@dataclass(slots=True)
class _Shared:
    """What calls of one submission have in common: the constant arguments of a map, positions and
    names and the objects that stand there; and the scope's own part, as it travels."""

    positions: Mapping[int, Any] = field(default_factory=dict[int, Any])
    kwargs: Mapping[str, Any] | None = None
    sent: Constants | None = None
    place: bytes = b""


class Sending:
    """Makes what travels. `reply_to` and `levels` as in `Template`."""

    def __init__(self, reply_to: Any, levels: Mapping[str, int]) -> None:
        self._reply_to = reply_to
        self._levels = levels
        self._templates: dict[tuple[int, int], tuple[Call, Template]] = {}
        self._shared: dict[int, tuple[Scope, _Shared]] = {}  # by identity, the scope kept alive

    def sent(self, calls: Sequence[Call], number: int) -> Sent:
        """The call with this number, among others that are launched with it; raises
        `UnpicklableError`."""
        call = calls[number]
        shared = self._shared_by(calls, number)
        args, kwargs, constants = call.args, call.kwargs, shared.sent
        head = call.key, call.attempt, call.name, call.spec.announces, shared.place
        if not kwargs and constants is None and PLAIN_TYPES.issuperset(map(type, args)):
            data = joined(pickle.dumps((*head, args), PROTOCOL), b"")
            return Sent(call, data, [], self._template(call), None)
        left = {at: args[at] for at in shared.positions if args[at] is not shared.positions[at]}
        if shared.positions:
            args = tuple(None if at in shared.positions else x for at, x in enumerate(args))
        own = None if kwargs is shared.kwargs else kwargs
        names = "args", "kwargs", "args"
        data, values = dumps_apart(
            (args, own, left), lambda: f"The arguments of {call.run_name}", names
        )
        return Sent(
            call,
            joined(pickle.dumps(head, PROTOCOL), data),
            values,
            self._template(call),
            constants,
        )

    def _shared_by(self, calls: Sequence[Call], number: int) -> _Shared:
        scope = calls[number].scope
        known = self._shared.get(id(scope))
        if known is None:
            shared = _shared_by(calls, number)
            shared.place = _place(scope)
            known = self._shared[id(scope)] = scope, shared
            if len(self._shared) > SCOPES_KEPT:
                del self._shared[next(iter(self._shared))]
        return known[1]

    def _template(self, call: Call) -> Template:
        spec, scope = call.spec, call.scope
        place = id(spec), id(scope.flow_run)
        known = self._templates.get(place)
        if known is None:
            sent = dumps(spec.for_worker(), f"Task {spec.name!r}", _SPEC_NAMES)
            flow_run = scope.flow_run
            flow = None if flow_run is None else flow_run.without_parameters()
            template = Template(
                uuid.uuid4().hex,
                versions(),
                scope.prefix,
                self._reply_to,
                self._levels,
                sent,
                dumps((flow, scope.log_prints, scope.keep), f"The flow run of {call.run_name}"),
            )
            known = self._templates[place] = call, template  # the call keeps both alive
            if len(self._templates) > TEMPLATES_KEPT:
                del self._templates[next(iter(self._templates))]
        return known[1]


_SPEC_NAMES = (
    "name",
    "key",
    "function name",
    "function",
    "kind",
    "tags",
    "persistence",
    "in memory",
)


def _shared_by(calls: Sequence[Call], number: int) -> _Shared:
    """What the call has in common with the next of its map."""
    call = calls[number]
    if (
        call.scope.map_id is None
        or number + 1 == len(calls)
        or calls[number + 1].scope is not call.scope
    ):
        return _Shared()
    other = calls[number + 1]
    pairs = enumerate(zip(call.args, other.args, strict=False))
    positions = {at: a for at, (a, b) in pairs if a is b and _is_worth_it(a)}
    kwargs = call.kwargs if call.kwargs and call.kwargs is other.kwargs else None
    if not positions and kwargs is None:
        return _Shared()
    named = {**{f"argument {at}": each for at, each in positions.items()}, **(kwargs or {})}
    try:
        data = dumps((positions, kwargs), f"The arguments of {call.run_name}", ("args", "kwargs"))
    except Exception:  # one of them is a remote value, or cannot travel, which each call then says
        del named
        return _Shared()
    return _Shared(positions, kwargs, Constants(uuid.uuid4().hex, data))


def _place(scope: Scope) -> bytes:
    """What calls of one submission do not have from their template."""
    return dumps(
        (
            scope.parent_key,
            scope.tags,
            scope.first_key,
            scope.first_index,
            scope.map_id,
            scope.transaction is not None,
        ),
        "A call",
    )


def _is_worth_it(value: Any) -> bool:
    """Whether a value is more than a few bytes."""
    return type(value) not in ATOMS or (isinstance(value, str | bytes) and len(value) > 100)


# -- the other end --------------------------------------------------------------------------------


class Head(NamedTuple):
    """What is known of a call before its arguments are read."""

    key: int
    attempt: int
    name: str | None
    announces: bool
    place: bytes
    args: tuple[Any, ...] | None = None  # where they are plain, and there is nothing else


def split(data: bytes) -> tuple[Head, bytes]:
    """A call's head, and its arguments as bytes."""
    head, rest = parted(data)
    return Head(*pickle.loads(head)), rest


class Definition:
    """A template as a worker has read it."""

    def __init__(self, template: Template, engine: Any, stand_in: Any) -> None:
        self.spec = TaskSpec.on_worker(loads(template.spec))
        self.flow_run, self._log_prints, self._keep = loads(template.flow)
        self._engine = engine
        self._open_flow = stand_in(self.flow_run, self._log_prints)
        self._prefix = template.engine
        self._last: tuple[bytes, Scope] | None = None

    def scope(self, place: bytes) -> Scope:
        """That of a call; calls of one submission come together, and have the same."""
        last = self._last
        if last is None or last[0] != place:
            last = self._last = place, self._scope(place)
        return last[1]

    def _scope(self, place: bytes) -> Scope:
        parent, tags, first_key, first_index, map_id, joins = loads(place)
        return Scope(
            self._engine,
            self._open_flow,
            self.flow_run,
            parent,
            tags,
            self._log_prints,
            self._prefix,
            first_key,
            first_index,
            map_id,
            self._keep,
            self._engine.around() if joins else None,
        )


Read = tuple[Mapping[int, Any], Mapping[str, Any] | None]
"""Constant arguments as a worker has read them."""


def arguments(
    data: bytes, constants: Read | None, futures: Futures, values: Sequence[Any]
) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """A call's arguments; raises what the values' own code raises."""
    args, kwargs, left = loads(data, futures, values)
    if constants is not None:
        positions, shared = constants
        both = {**positions, **left}
        args = tuple(both.get(at, each) for at, each in enumerate(args))
        kwargs = shared if kwargs is None else kwargs
    return args, kwargs or {}
