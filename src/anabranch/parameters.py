"""A function's parameters: bound to a call's arguments, and checked against its annotations."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic_core import ArgsKwargs, ValidationError

from anabranch.errors import AnnotationError, ParameterBindError, ParameterTypeError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Bound = tuple[tuple[Any, ...], dict[str, Any]]


class Parameters:
    """Those of one function; what is worked out once stays."""

    def __init__(self, fn: Callable[..., Any], name: str) -> None:
        self.signature = inspect.signature(fn)
        self._fn = fn
        self._name = name
        self._validator: TypeAdapter[Bound] | None = None
        positional = (
            inspect.Parameter.POSITIONAL_ONLY,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
        )
        given = list(self.signature.parameters.values())
        plain = [each for each in given if each.kind in positional]
        self._most = len(plain)
        self._least = sum(each.default is inspect.Parameter.empty for each in plain)
        self._only_plain = len(plain) == len(given)

    def check(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Raise `ParameterBindError` unless the function takes these arguments."""
        if not kwargs and self._only_plain and self._least <= len(args) <= self._most:
            return
        self.bind(args, kwargs)

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> inspect.BoundArguments:
        """The arguments by name, without defaults; raises `ParameterBindError`."""
        try:
            return self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise ParameterBindError(self._name, str(self.signature), str(error)) from None

    def call_of(self, values: Mapping[str, Any]) -> Bound:
        """The call that gives the parameters these values, by name as `bind` gives them."""
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for name, parameter in self.signature.parameters.items():
            if name not in values:
                continue
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                args += values[name]
            elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
                kwargs.update(values[name])
            elif parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                kwargs[name] = values[name]
            else:
                args.append(values[name])
        return tuple(args), kwargs

    def validated(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Bound:
        """The arguments as pydantic reads them; raises `ParameterTypeError`."""
        if not self.signature.parameters:
            return args, dict(kwargs)
        if self._validator is None:
            self._validator = self._made_validator()
        try:
            return self._validator.validate_python(ArgsKwargs(args, dict(kwargs)))
        except ValidationError as error:
            problems = "\n".join(
                f"  {self._place(each['loc'])}: {each['msg']}, got {each['input']!r:.100}"
                for each in error.errors()
            )
            raise ParameterTypeError(self._name, problems) from None

    def _made_validator(self) -> TypeAdapter[Bound]:
        from pydantic.errors import PydanticUserError  # as below

        try:
            return _validator(self._fn, self.signature)
        except (NameError, PydanticUserError) as error:
            raise AnnotationError(self._name, str(error).splitlines()[0].rstrip(".")) from error

    def _place(self, location: tuple[int | str, ...]) -> str:
        """Where a problem is, such as `sizes[1]`; pydantic numbers positional arguments."""
        first, *rest = location or ("arguments",)
        names = list(self.signature.parameters)
        if isinstance(first, int):
            first = names[min(first, len(names) - 1)]
        return first + "".join(f"[{part!r}]" for part in rest)


def _validator(fn: Callable[..., Any], signature: inspect.Signature) -> TypeAdapter[Bound]:
    """Reads arguments as pydantic would for `fn`, and gives them back instead of calling it."""

    def capture(*args: Any, **kwargs: Any) -> Bound:
        return args, kwargs

    plain = [each.replace() for each in signature.parameters.values()]
    capture.__signature__ = signature.replace(parameters=plain)  # pyright: ignore[reportFunctionMemberAccess]  # what inspect.signature reads
    plain_fn: Any = inspect.unwrap(fn)
    while isinstance(plain_fn, functools.partial):  # a method bound to its object
        plain_fn = inspect.unwrap(plain_fn.func)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]  # any function
    annotations = dict(inspect.get_annotations(plain_fn))
    annotations.pop("return", None)
    capture.__annotations__ = {
        name: each for name, each in annotations.items() if name in signature.parameters
    }
    capture.__module__ = plain_fn.__module__
    capture.__name__ = getattr(fn, "__name__", "flow")
    capture.__qualname__ = getattr(fn, "__qualname__", "flow")
    from pydantic import ConfigDict, TypeAdapter  # 15 ms that a flow without parameters saves

    made: Any = capture  # pydantic reads functions, which its types don't say
    return TypeAdapter(made, config=ConfigDict(arbitrary_types_allowed=True))
