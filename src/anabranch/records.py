"""Named tuples made of all their fields at once, in half the time of calling their class: for those
of which each task run needs one."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Make(Protocol):
    def __call__(self, kind: type[T], fields: tuple[Any, ...], /) -> T: ...


_tuple: Any = tuple
made_of: Make = _tuple.__new__
"""A record of this class with these fields, each of them and in their order."""
