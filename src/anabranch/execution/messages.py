"""What a pool and its child processes tell each other: frames of tagged messages on a socket.

A frame is its length in 8 bytes and a pickled list of messages; a message is a tuple whose first
item is its tag. Users' values stand in messages as bytes, so that one which cannot be loaded harms
no other.
"""

from __future__ import annotations

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

_HEADER = struct.Struct("<Q")


def pack(messages: list[Message]) -> bytes:
    """A frame of these messages."""
    data = pickle.dumps(messages, 5)
    return _HEADER.pack(len(data)) + data


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
            (length,) = _HEADER.unpack_from(buffer, at)
            end = at + _HEADER.size + length
            if len(buffer) < end:
                break
            with memoryview(buffer) as view:
                messages += pickle.loads(view[at + _HEADER.size : end])
            at = end
        del buffer[:at]
        return messages
