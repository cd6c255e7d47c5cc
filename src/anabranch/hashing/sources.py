"""The source of a function or class as a digest of its syntax tree, the same in every Python.

`ast.dump` writes empty fields in some versions and not in others; here they are never written.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable, Iterator
from hashlib import blake2b
from types import CodeType
from typing import Any, NamedTuple, cast

from anabranch.hashing.encoder import SCALARS, header

_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda
_DOCUMENTED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_LEFT_OUT = frozenset({"ctx", "kind", "type_comment", "type_ignores"})  # change nothing that runs


class Source(NamedTuple):
    """What a definition says: the digest of its tree, and the names that it reads."""

    digest: bytes
    names: frozenset[str]


class _Same:
    """A code object as a key: two that are equal may have sources that differ in annotations."""

    __slots__ = ("code",)

    def __init__(self, code: CodeType) -> None:
        self.code = code

    def __hash__(self) -> int:
        return id(self.code)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.code is other.code


def source_of_code(code: CodeType) -> Source | None:
    """The source of the function that has this code; None where there is none."""
    return _found_source(_Same(code))


@functools.lru_cache(maxsize=4096)
def _found_source(key: _Same) -> Source | None:
    code = key.code
    try:
        lines, _ = inspect.findsource(code)
    except (OSError, TypeError):
        return None
    index = _index("".join(lines))
    found = [
        node
        for node in index.get(code.co_firstlineno, ())
        if getattr(node, "name", "<lambda>") == code.co_name
    ]
    if len(found) > 1:
        found = [node for node in found if _covers(node, code)]
    return _source(found[0]) if len(found) == 1 else None


def source_of_class(cls: type[Any]) -> Source | None:
    """The source of a class; None where there is none."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError, SyntaxError):
        return None
    node = tree.body[0]
    return _source(node) if isinstance(node, ast.ClassDef) else None


@functools.lru_cache(maxsize=8)
def _index(text: str) -> dict[int, list[_Definition]]:
    """A module's functions by the line where each starts, with its first decorator."""
    try:
        tree = ast.parse(text)
    except SyntaxError:  # changed on disk since it was loaded
        return {}
    found: dict[int, list[_Definition]] = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            decorators: list[ast.expr] = getattr(node, "decorator_list", [])
            found.setdefault(min([node.lineno, *(d.lineno for d in decorators)]), []).append(node)
    return found


def _covers(node: _Definition, code: CodeType) -> bool:
    """Whether the code's positions lie in this node and in no function inside of it."""
    places = {
        (line, column)
        for line, _, column, _ in code.co_positions()
        if line is not None and column  # the code's own start has column 0
    }
    bodies = node.body if isinstance(node.body, list) else [node.body]
    return (
        bool(places)
        and all(
            any(_spans(body, place) for body in bodies)
            for place in places
            if place != (code.co_firstlineno, 0)
        )
        and not any(
            isinstance(inner, ast.Lambda) and all(_spans(inner.body, place) for place in places)
            for body in bodies
            for inner in ast.walk(body)
        )
    )


def _spans(node: ast.AST, place: tuple[int, int]) -> bool:
    start: tuple[int, int] = (getattr(node, "lineno"), getattr(node, "col_offset"))  # noqa: B009  # statements and expressions have them
    end: tuple[int, int] = (getattr(node, "end_lineno"), getattr(node, "end_col_offset"))  # noqa: B009  # as above
    return start <= place < end


def _source(node: _Definition) -> Source:
    out = bytearray()
    _write_fields(out, node, dropped=("decorator_list",))
    counted = [value for name, value in ast.iter_fields(node) if name != "decorator_list"]
    names = frozenset(
        each.id
        for each in ast.walk(ast.Module(body=_flat(counted), type_ignores=[]))
        if isinstance(each, ast.Name)
    )
    return Source(blake2b(out, digest_size=16).digest(), names)


def _flat(values: list[Any]) -> list[Any]:
    """The nodes among the values of a node's fields."""
    found: list[Any] = []
    for value in values:
        found += cast("list[Any]", value) if isinstance(value, list) else [value]
    return found


def _write_fields(out: bytearray, node: ast.AST, dropped: tuple[str, ...] = ()) -> None:
    fields = [
        (name, value)
        for name, value in _plain_fields(node)
        if name not in dropped and value is not None and value != []
    ]
    out += header(b"A", len(fields)) + SCALARS[str](type(node).__name__)
    for name, value in fields:
        out += SCALARS[str](name)
        _write(out, value)


def _plain_fields(node: ast.AST) -> Iterator[tuple[str, Any]]:
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(node, _DOCUMENTED) and ast.get_docstring(node, False):
            yield name, node.body[1:]
        elif name == "values" and isinstance(node, ast.JoinedStr):  # empty text is there in 3.12
            yield name, [each for each in node.values if not _is_empty_text(each)]
        elif name not in _LEFT_OUT:
            yield name, value


def _is_empty_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value == ""


def _write(out: bytearray, value: Any) -> None:
    if isinstance(value, ast.AST):
        _write_fields(out, value)
    elif isinstance(value, list):
        items = cast("list[Any]", value)
        out += header(b"[", len(items))
        for item in items:
            _write(out, item)
    elif isinstance(value, bytes):
        out += header(b"b", len(value)) + value
    else:
        writer: Callable[[Any], bytes] = SCALARS[type(value)]
        out += writer(value)
