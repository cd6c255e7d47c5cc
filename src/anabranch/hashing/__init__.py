"""Digests of Python values: the same in every process, on every machine, in every Python.

A value is written as typed, length-prefixed bytes (see `encoder.py`) and those are hashed with
BLAKE2b. What looks different has another digest: `True`, `1`, `1.0` and `Decimal(1)` are four
values, a list is no tuple. The order of a dict or set does not count. Objects count by their
type's name and their fields, functions by their name and source.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from anabranch.hashing import arrays, frames, functions, objects, values
from anabranch.hashing.encoder import (
    SCALARS,
    Encoder,
    Special,
    Writer,
    header,
)

_WRITERS: dict[type[Any], Writer] = {
    **values.WRITERS,
    **functions.WRITERS,
    **objects.WRITERS,
    **arrays.WRITERS,
}
_SIZE = 16
_EMPTY = blake2b(digest_size=_SIZE)


def digest(
    value: object,
    special: Special | None = None,
    *,
    argument: str | None = None,
    name: str = "value",
) -> bytes:
    """The 16 bytes that stand for a value.

    `special` is asked first about each object that is no plain scalar, the value itself and all
    that is inside; where it gives bytes, those stand for the object. Errors call the value by
    `name`, or as the argument that was given for the parameter `argument`.

    Raises `UnhashableInput` where the value, or something in it, has no lasting identity.
    """
    hashed = _EMPTY.copy()
    kind = type(value)
    scalar = SCALARS.get(kind)
    if scalar is not None:
        hashed.update(scalar(value))
        return hashed.digest()
    if kind is tuple and special is None:
        encoded = _plain_tuple(value)
        if encoded is not None:
            hashed.update(encoded)
            return hashed.digest()
    Encoder(writer_for, special, hashed).write_all(
        value, name if argument is None else f"arguments[{argument!r}]", argument
    )
    return hashed.digest()


def _plain_tuple(items: Any) -> bytes | None:
    """The encoding of a tuple, as the encoder would write it, if plain scalars are all it holds."""
    try:
        parts = [SCALARS[type(item)](item) for item in items]
    except KeyError:
        return None
    return header(b"(", len(parts)) + b"".join(parts)


def hexdigest(
    value: object,
    special: Special | None = None,
    *,
    argument: str | None = None,
    name: str = "value",
) -> str:
    """`digest` as 32 characters."""
    return digest(value, special, argument=argument, name=name).hex()


def source_digest(
    fn: Callable[..., Any], special: Special | None = None, *, bytecode: bool = False
) -> bytes:
    """The 16 bytes that stand for what a function or class does: they change with its code.

    Its source counts as a syntax tree, without decorators, docstrings, comments and layout; beside
    it the values that it closes over and its defaults, and the sources of the functions of the same
    module that it names, and those that they name. Values of global variables do not count, nor do
    functions of other modules.

    Code without source (typed into a plain REPL, made by `exec`) raises `UnhashableInput`; with
    `bytecode=True` it counts by its bytecode, which is another in each version of Python.
    """
    hashed = _EMPTY.copy()
    encoder = Encoder(writer_for, special, hashed)
    encoder.write_all(functions.Behaviour(fn, bytecode), functions.told_name(fn), None)
    return hashed.digest()


@functools.lru_cache(maxsize=4096)
def writer_for(kind: type[Any]) -> Writer | None:
    """What writes the values of a type, or None."""
    return (
        objects.keyed_writer(kind)
        or _WRITERS.get(kind)
        or arrays.find_writer(kind)
        or frames.find_writer(kind)
        or functions.find_writer(kind)
        or objects.find_writer(kind)
    )
