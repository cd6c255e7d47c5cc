"""What makes two calls of a task the same call: for a resume, which knows them again by it.

A call counts by its inputs. An input that came from a task counts by that task's own call, so that
results need not be compared. Inputs that cannot be told apart fall back to the order of the calls.
"""

# pyright: reportPrivateUsage=false
# The digests stand in the run record, whose slots are private to users.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from itertools import chain
from typing import Any, Final

from anabranch.annotations import Annotation
from anabranch.futures import FutureList, TaskFuture
from anabranch.hashing import digest

BY_ORDER: Final = b"?"
"""Stands for inputs that nothing can tell apart but the order of the calls; what `in_order` makes of
it begins with it."""

_SCALARS = frozenset({int, str, float, bool, type(None)})
_LONGEST = 64
"""Characters of inputs that stand for themselves, which is quicker than their digest."""
_NO_KWARGS: Final = b""


def inputs_digest(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
    """What stands for a call's inputs."""
    if not kwargs:
        if len(args) == 1 and type(args[0]) is int and -(1 << 63) < args[0] < 1 << 63:
            return b"=(%d,)" % args
        for value in args:
            if type(value) not in _SCALARS:
                break
        else:
            text = repr(args)
            if len(text) <= _LONGEST:
                return b"=" + text.encode("utf-8", "surrogatepass")
    return _combined(args, _digest_of(kwargs) if kwargs else _NO_KWARGS, {})


def in_order(number: int) -> bytes:
    """What stands for such inputs in the `number`th call of a task that has them."""
    return b"%b%d" % (BY_ORDER, number)


def inputs_digests(
    inputs: Sequence[tuple[Any, ...]],
    kwargs: Mapping[str, Any],
    kwargs_each: Sequence[Mapping[str, Any]] | None,
) -> list[bytes]:
    """The same for the calls of a map; what all of them share is read once."""
    if kwargs_each is not None:
        return [inputs_digest(args, each) for args, each in zip(inputs, kwargs_each, strict=True)]
    if not kwargs:
        found = _of_numbers(inputs)
        if found is not None:
            return found
    shared = _digest_of(kwargs) if kwargs else _NO_KWARGS
    known: dict[int, bytes] = {}
    for first, last in zip(inputs[0], inputs[-1], strict=False):
        if first is last and type(first) not in _SCALARS:
            known[id(first)] = _digest_of(first)
    return [
        inputs_digest(args, kwargs) if not kwargs and not known else _combined(args, shared, known)
        for args in inputs
    ]


def _of_numbers(inputs: Sequence[tuple[Any, ...]]) -> list[bytes] | None:
    """Where each of them is one whole number, the usual case; else None."""
    numbers = list(chain.from_iterable(inputs))
    if len(numbers) != len(inputs) or set(map(type, numbers)) != {int} or () in inputs:
        return None
    if not -(1 << 63) < min(numbers) <= max(numbers) < 1 << 63:
        return None
    return [b"=(%d,)" % number for number in numbers]


def _combined(args: tuple[Any, ...], kwargs: bytes, known: Mapping[int, bytes]) -> bytes:
    """The digests of the arguments one by one, so that those which are known change nothing."""
    parts = [known.get(id(value)) or _digest_of(value) for value in args]
    if kwargs == BY_ORDER or BY_ORDER in parts:
        return BY_ORDER
    count = len(parts).to_bytes(4, "big")
    return b"#" + blake2b(b"".join((count, *parts, kwargs)), digest_size=16).digest()


def _digest_of(value: Any) -> bytes:
    try:
        return digest(value, _special)
    except Exception:  # whatever the inputs' own code does
        return BY_ORDER


def call_digest(run: TaskFuture[Any]) -> bytes:
    """What stands for a task's call where its result is an input of another."""
    shared: Any = run._shared
    if run._digest is None or getattr(shared, "spec", None) is None:
        raise ValueError("Nothing is known of the call.")  # those of another process
    spec = shared.spec
    parts = (spec.key.encode(), spec.source, run._digest)
    joined = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return blake2b(joined, digest_size=16).digest()


def _digest_of_all(runs: Sequence[TaskFuture[Any]]) -> bytes:
    """The same for calls in their order; those of one task have what is the task's only once."""
    spec: Any = getattr(runs[0]._shared, "spec", None) if runs else None
    found = [run._digest for run in runs if getattr(run._shared, "spec", None) is spec]
    digests = [each for each in found if each is not None]
    if spec is None or len(digests) < len(runs):
        return b"".join(map(call_digest, runs))
    parts: list[bytes] = [spec.key.encode(), spec.source, *digests]
    joined = b"".join([len(part).to_bytes(4, "big") + part for part in parts])
    return b"alike" + blake2b(joined, digest_size=16).digest()


def _special(value: Any) -> bytes | None:
    if isinstance(value, TaskFuture):
        return b"call" + call_digest(value)  # pyright: ignore[reportUnknownArgumentType]  # of any result
    if isinstance(value, FutureList):
        if value._origin is not None:  # pyright: ignore[reportUnknownMemberType]  # as above; whether its items are known by now is luck
            return b"later" + call_digest(value._origin)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]  # as above
        return b"calls" + _digest_of_all(list(value))  # pyright: ignore[reportUnknownArgumentType]  # as above
    if isinstance(value, Annotation):
        name = type(value).__name__.encode()  # pyright: ignore[reportUnknownArgumentType]  # of any value
        return name + digest(value.unwrap(), _special)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]  # as above
    return None
