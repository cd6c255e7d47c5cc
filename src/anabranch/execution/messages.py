"""What a pool and its child processes tell each other: frames of tagged messages on a socket.

A frame is a list of messages, marshalled or pickled, after its length and a byte that says which; a
message is a tuple whose first item is its tag. Users' values stand in messages as bytes, so that one
which cannot be loaded harms no other; but for plain ones, which every process can hold.
"""

from __future__ import annotations

import marshal
import pickle
import struct
from typing import Any, Final

# To a child.
DEFINE: Final = 0  # number, bytes of TaskSpec.for_worker()
FORGET: Final = 1  # number
SCOPE: Final = 2  # bytes of the scope that the calls from here on belong to
CALL: Final = (
    3  # key, attempt, number of the spec, bytes of (args, kwargs), name, announces, nested
)
CALLS: Final = (
    15  # number of the spec, list of key, attempt and args for calls with plain ones alone
)
TAKE_BACK: Final = 4  # give back what has not begun
INTERRUPT: Final = 5  # key of a nested call; on a cluster of any, and its attempt
ABANDON: Final = 14  # key of a call that does not end, and its attempt: others get its place
NOTICE: Final = 6  # bytes of what the engine tells, see requests.py

# From a child.
STARTED: Final = 7  # key, attempt
ENDED: Final = 8  # a packed outcome; of a cluster also the size of a value that stays there, frames
LOG: Final = 9  # bytes of a log record's attributes
# Calls that it has not begun and gives back: their keys, whether as asked; from a cluster their keys
# and attempts, whether they are to go alone, the number of their group.
RETURNED: Final = 10
WAITS: Final = 11  # key of a call that has begun to wait for others; on clusters the attempt too
GOES_ON: Final = 12  # the same of one that waits no more
REQUEST: Final = 13  # key of a call, bytes of what it asks of the engine, see requests.py

Message = tuple[Any, ...]

PLAIN_TYPES: Final = frozenset({type(None), bool, int, float, str, bytes})
"""Those of values that may stand in messages as they are."""

_HEADER = struct.Struct("<Q?")
_NO_REFERENCES = 2
"""The version of marshal that looks for no object which comes twice."""


def pack(messages: list[Message]) -> bytes:
    """A frame of these messages. Both ends are one interpreter: so marshal will do, in half the time
    of pickle, but for what is larger than 2 GiB."""
    try:
        data, marshalled = marshal.dumps(messages, _NO_REFERENCES), True
    except ValueError:
        data, marshalled = pickle.dumps(messages, 5), False
    return _HEADER.pack(len(data), marshalled) + data


def framed(messages: list[Message]) -> bytes:
    """The same for a channel that keeps frames apart by itself."""
    return pickle.dumps(messages, 5)


def unframed(frame: bytes) -> list[Message]:
    """The other end of `framed`."""
    return pickle.loads(frame)


def joined(head: bytes, rest: bytes) -> bytes:
    """Both in one, so that the first can be read alone."""
    return len(head).to_bytes(4, "big") + head + rest


def parted(data: bytes) -> tuple[bytes, bytes]:
    """The other end of `joined`."""
    end = 4 + int.from_bytes(data[:4], "big")
    return data[4:end], data[end:]


class FrameReader:
    """Puts messages together out of the pieces in which they arrive."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, piece: bytes) -> list[Message]:
        """The messages of all frames that are complete with this piece."""
        buffer = self._buffer
        buffer += piece
        messages: list[Message] = []
        at = 0
        while len(buffer) - at >= _HEADER.size:
            length, marshalled = _HEADER.unpack_from(buffer, at)
            end = at + _HEADER.size + length
            if len(buffer) < end:
                break
            with memoryview(buffer)[at + _HEADER.size : end] as frame:
                messages += marshal.loads(frame) if marshalled else pickle.loads(frame)
            at = end
        del buffer[:at]
        return messages
