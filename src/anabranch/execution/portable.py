"""Outcomes and exceptions in a form that any process can read, whatever their values are made of."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, NamedTuple, cast

from tblib import Traceback  # pyright: ignore[reportMissingTypeStubs]  # it has none

from anabranch.errors import RemoteTaskError, UnpicklableError
from anabranch.execution.messages import PLAIN_TYPES
from anabranch.execution.pickling import Futures, dumps, loads
from anabranch.outcomes import FAILED, Kept, Outcome

PLAIN: Final = 0  # forms of an outcome's value: one that every pickle can hold
PICKLED: Final = 1
EXCEPTION: Final = 2
KEPT: Final = 3

_UNKEPT: Final = 5
"""What follows the value of an outcome of which nothing was kept: times, message, name, whether lost."""
FIRST_FRAMES = 40
LAST_FRAMES = 60
"""Frames of a traceback that travel, from its ends: that of an endless recursion is long."""
LONGEST_CHAIN = 20

Packed = tuple[Any, ...]
"""An outcome whose value stands in one of the forms: key, attempt, phase, form, value, ..."""


def packed(outcome: Outcome, name: Callable[[], str]) -> Packed:
    """The outcome for another process; one whose value cannot go there has failed."""
    kept = outcome.kept
    if type(outcome.value) in PLAIN_TYPES and kept is None:  # as it mostly is
        return (*outcome[:3], PLAIN, *outcome[3:9])
    key, attempt, phase, value, *rest = outcome[:9]  # the traceback goes with its exception
    form = PLAIN
    if isinstance(value, BaseException):
        form, value = EXCEPTION, portable_exception(value)
    elif type(value) not in PLAIN_TYPES:
        if kept is not None and kept.form == "pickle":  # it need not be pickled twice
            return (key, attempt, phase, KEPT, tuple(kept), *rest)
        try:
            form, value = PICKLED, dumps(value, lambda: f"The result of {name()}", ("result",))
        except UnpicklableError as error:
            form, phase, value = EXCEPTION, FAILED, portable_exception(error)
            rest, kept = [*rest[:2], None, None, False], None
    return (key, attempt, phase, form, value, *rest, *((None, tuple(kept)) if kept else ()))


def unpacked(sent: Packed, name: Callable[[], str], futures: Futures) -> Outcome:
    """The other end of `packed`; a value that cannot be read here makes it a failure."""
    key, attempt, phase, form, value, *rest = sent
    if form == PLAIN and len(rest) == _UNKEPT:  # as it mostly is
        return Outcome(key, attempt, phase, value, *rest)
    if len(rest) > _UNKEPT:
        rest[-1] = Kept(*rest[-1])
    try:
        if form == PICKLED:
            value = loads(value, futures)
        elif form == KEPT:
            kept = Kept(*value)
            rest += [None, kept]
            value = loads(kept.data or b"", futures)
        elif form == EXCEPTION:
            value = received_exception(value)
    except Exception as error:  # its own code raised, or its class is not known here
        reason = f"{type(error).__name__}: {error}"
        value = UnpicklableError(f"The result of {name()}", "result", reason)
        return Outcome(key, attempt, FAILED, value, *rest[:2])
    outcome = Outcome(key, attempt, phase, value, *rest)
    return outcome if form != EXCEPTION else outcome._replace(traceback=value.__traceback__)


# -- exceptions -----------------------------------------------------------------------------------

Frames = list[tuple[str, str, int]]
"""File, function and line."""


def portable_exception(error: BaseException) -> bytes:
    """An exception as bytes, with its traceback and those that led to it.

    One that would not arrive as it is becomes a `RemoteTaskError`.
    """
    return dumps([*map(_sent, _chain(error))], f"The exception {type(error).__name__}")


def received_exception(data: bytes) -> BaseException:
    """The other end of `portable_exception`, the first of a chain."""
    links: list[tuple[bytes, Frames, bool, bool]] = loads(data)
    chain = [_made_again(made) for made, *_ in links]
    for error, (_, frames, is_cause, suppresses), led in zip(
        chain, links, [*chain[1:], None], strict=True
    ):
        error.__traceback__ = _traceback_of(frames)
        if is_cause:
            error.__cause__ = led
        else:
            error.__context__ = led
        error.__suppress_context__ = suppresses
    return chain[0]


def _chain(error: BaseException) -> list[BaseException]:
    """The exception, and what Python would show above it."""
    chain = [error]
    while len(chain) < LONGEST_CHAIN:
        last = chain[-1]
        led = last.__cause__ or (None if last.__suppress_context__ else last.__context__)
        if led is None or led in chain:
            break
        chain.append(led)
    return chain


def _sent(error: BaseException) -> tuple[bytes, Frames, bool, bool]:
    frames = [
        (frame.f_code.co_filename, frame.f_code.co_name, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    if len(frames) > FIRST_FRAMES + LAST_FRAMES:
        frames = frames[:FIRST_FRAMES] + frames[-LAST_FRAMES:]
    made = _as_itself(error)
    return made, frames, error.__cause__ is not None, error.__suppress_context__


def _as_itself(error: BaseException) -> bytes:
    """The exception as bytes that were seen to give one of its class; else a stand-in."""
    for made in (error, Parts(type(error), error.args, error.__dict__)):
        try:
            data = dumps(made, "An exception")
            if type(_made_again(data)) is type(error):
                return data
        except Exception:  # whatever its own code does
            continue
    text = "".join(traceback.format_exception(error))
    return dumps(RemoteTaskError(type(error).__qualname__, _text_of(error), text), "An exception")


class Parts(NamedTuple):
    """An exception whose class takes other arguments than it would be called with again."""

    cls: type[BaseException]
    args: tuple[Any, ...]
    attributes: dict[str, Any]


def _made_again(data: bytes) -> BaseException:
    found = loads(data)
    if isinstance(found, Parts):
        error = found.cls.__new__(found.cls)
        error.args = found.args
        error.__dict__.update(found.attributes)
        return error
    return found


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "(its text cannot be made)"


def _traceback_of(frames: Frames) -> TracebackType | None:
    """A traceback that shows these frames; there is nothing in them."""
    found: dict[str, Any] | None = None
    for file, function, line in reversed(frames):
        found = {
            "tb_frame": {
                "f_globals": {"__file__": file, "__name__": "?"},
                "f_code": {"co_filename": file, "co_name": function},
                "f_lineno": line,
            },
            "tb_lineno": line,
            "tb_next": found,
        }
    if found is None:
        return None
    return cast(Any, Traceback).from_dict(found).as_traceback()  # untyped there
