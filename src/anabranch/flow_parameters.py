"""A flow's parameters for a resume: pickled, and shown to people; secrets are in neither."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

from pydantic import BaseModel, SecretBytes, SecretStr

from anabranch.errors import UnserializableResult
from anabranch.execution.pickling import loads
from anabranch.execution.pickling_at_rest import PastLimit, dumps_at_rest
from anabranch.results.previews import preview

LARGEST = 64 << 20
"""Bytes of pickled parameters that are kept."""
DEEPEST = 10


class KeptParameters(NamedTuple):
    """`data` is None where the run cannot be resumed, and `problem` says why."""

    data: bytes | None
    preview: str
    problem: str | None


def keep_parameters(parameters: Mapping[str, Any]) -> KeptParameters:
    """The parameters at rest; those that hold a secret are left out, to be given again."""
    open_ones = {
        name: value for name, value in parameters.items() if not _holds_secret(value, DEEPEST)
    }
    shown = {
        name: preview(value) if name in open_ones else "**********"
        for name, value in parameters.items()
    }
    secrets = sorted(set(parameters) - set(open_ones))
    try:
        data = dumps_at_rest((open_ones, secrets), "The parameters", LARGEST)
    except PastLimit:
        return KeptParameters(None, json.dumps(shown), "its parameters are larger than 64 MB")
    except UnserializableResult as error:
        path = error.path.removeprefix("result[0]")
        problem = f"its parameters cannot be pickled: {path}: {error.reason}"
        return KeptParameters(None, json.dumps(shown), problem)
    return KeptParameters(data, json.dumps(shown), None)


def load_parameters(data: bytes) -> tuple[dict[str, Any], list[str]]:
    """The parameters again, and the names of those that were left out."""
    return loads(data)


def _holds_secret(value: Any, depth: int) -> bool:
    if isinstance(value, SecretStr | SecretBytes):
        return True
    if not depth or isinstance(value, str | bytes | int | float | None):
        return False
    return any(_holds_secret(part, depth - 1) for part in _parts(value))


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()  # pyright: ignore[reportUnknownVariableType]  # a user's own
    if isinstance(value, list | tuple | set | frozenset):
        return value  # pyright: ignore[reportUnknownVariableType]  # as above
    if isinstance(value, BaseModel):
        return [each for _, each in value]
    if is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, each.name) for each in fields(value)]
    return ()
