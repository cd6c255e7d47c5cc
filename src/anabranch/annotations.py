"""Marks on arguments that say how a task call treats them."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Annotation(Generic[T]):
    """A mark around one value; `unwrap()` gives the value back."""

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value = value

    def unwrap(self) -> T:
        return self.value

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.value!r})"

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return bool(self.value == other.value)  # type: ignore[attr-defined]  # same class, checked above

    def __hash__(self) -> int:
        return hash((type(self), self.value))


class unmapped(Annotation[T]):  # noqa: N801  # the name that users of map write, as a function
    """The argument of a map that stays the same for each call."""

    __slots__ = ()


class allow_failure(Annotation[T]):  # noqa: N801  # as above
    """A future whose failure is handed to the task as an exception instead of stopping it."""

    __slots__ = ()


class quote(Annotation[T]):  # noqa: N801  # as above
    """An argument that is not searched for futures and reaches the task as it is."""

    __slots__ = ()


class opaque(Annotation[T]):  # noqa: N801  # as above
    """As `quote`: an argument that is not searched for futures."""

    __slots__ = ()
