"""What a pool and its child processes tell each other: frames of tagged messages on a socket.

A frame is its length in 8 bytes and a pickled list of messages; a message is a tuple whose first
item is its tag. Users' values stand in messages as bytes, so that one which cannot be loaded harms
no other.
"""

from __future__ import annotations

import pickle
import struct
from typing import Any, Final

DEFINE: Final = 0  # to a child: number, bytes of TaskSpec.for_worker()
FORGET: Final = 1  # to a child: number
SCOPE: Final = 2  # to a child: bytes of the scope that the calls from here on belong to
CALL: Final = (
    3  # to a child: key, attempt, number of the spec, bytes of (args, kwargs), name, announces
)
TAKE_BACK: Final = 4  # to a child: give back what has not begun
STARTED: Final = 5  # from a child: key, attempt
ENDED: Final = (
    6  # from a child: key, attempt, phase, form of value, value, and the rest of an Outcome
)
LOG: Final = 7  # from a child: bytes of a log record's attributes
RETURNED: Final = 8  # from a child: keys of calls that it has not begun and gives back

INLINE: Final = 0  # forms of value: a plain one
PICKLED: Final = 1
EXCEPTION: Final = 2

Message = tuple[Any, ...]

_HEADER = struct.Struct("<Q")


def pack(messages: list[Message]) -> bytes:
    """A frame of these messages."""
    data = pickle.dumps(messages, 5)
    return _HEADER.pack(len(data)) + data


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
            (length,) = _HEADER.unpack_from(buffer, at)
            end = at + _HEADER.size + length
            if len(buffer) < end:
                break
            with memoryview(buffer) as view:
                messages += pickle.loads(view[at + _HEADER.size : end])
            at = end
        del buffer[:at]
        return messages
