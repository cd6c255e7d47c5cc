"""Tables as artifacts keep them: columns and rows in JSON, whatever they were given as.

The JSON is `{"columns": [...] or null, "rows": [[...], ...], "note": text or null}`; columns are null
where the rows came without names, the note says what was left out.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, cast

from anabranch.errors import OptionError

LIMIT: Final = 1_000_000
"""Bytes of JSON that the rows of a table may take."""
DEEPEST: Final = 8
"""Levels of lists and dicts in a cell that stay such."""

Table = Any
"""A list of dicts, a dict of lists, a list of lists, or a frame of pandas or polars."""


def table_json(table: Table) -> str:
    """The table's JSON; raises `OptionError` where it is none."""
    columns, rows = _parts(table)
    kept: list[str] = []
    size = total = 0
    for row in rows:
        total += 1
        if size > LIMIT:
            continue  # only counted
        text = json.dumps([plain(cell) for cell in row], ensure_ascii=True)
        size += len(text) + 2
        if size <= LIMIT:
            kept.append(text)
    note = None
    if len(kept) < total:
        note = f"Cut at {LIMIT / 1e6:g} MB: the first {len(kept):,} of {total:,} rows."
    head = json.dumps(None if columns is None else [str(name) for name in columns])
    return f'{{"columns": {head}, "rows": [{", ".join(kept)}], "note": {json.dumps(note)}}}'


def _parts(table: Any) -> tuple[list[Any] | None, Iterator[Iterable[Any]]]:
    """The columns' names and the rows."""
    kind = cast(type[Any], type(table))
    library = kind.__module__.partition(".")[0]
    if library in ("pandas", "polars") and kind.__name__ == "DataFrame":
        return _of_pandas(table) if library == "pandas" else (table.columns, table.iter_rows())
    if isinstance(table, Mapping):
        return _of_columns(cast(Mapping[Any, Any], table))
    if isinstance(table, list | tuple):
        rows = cast(Sequence[Any], table)
        if all(isinstance(row, Mapping) for row in rows):
            return _of_dicts(rows)
        if all(isinstance(row, list | tuple) for row in rows):
            return None, iter(rows)
    raise OptionError(
        "create_table_artifact",
        "table",
        kind.__name__,
        "a list of dicts, a dict of lists, a list of lists, or a frame of pandas or polars",
    )


def _of_dicts(rows: Sequence[Mapping[Any, Any]]) -> tuple[list[Any], Iterator[Iterable[Any]]]:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return columns, ([row.get(name) for name in columns] for row in rows)


def _of_columns(table: Mapping[Any, Any]) -> tuple[list[Any], Iterator[Iterable[Any]]]:
    for name, column in table.items():
        if isinstance(column, str | bytes) or not isinstance(column, Iterable):
            raise OptionError(
                "create_table_artifact", f"table[{name!r}]", column, "a list, as each column"
            )
    return list(table), itertools.zip_longest(*table.values())


def _of_pandas(frame: Any) -> tuple[list[Any], Iterator[Iterable[Any]]]:
    """With the index, where that says more than the row's number."""
    columns = list(frame.columns)
    if type(frame.index).__name__ == "RangeIndex":
        return columns, frame.itertuples(index=False, name=None)
    index = "" if frame.index.name is None else frame.index.name
    return [index, *columns], frame.itertuples(index=True, name=None)


def plain(value: Any, depth: int = 0) -> Any:
    """The value as JSON has it, or as text."""
    kind = cast(type[Any], type(value))
    if value is None or kind in (str, bool, int):
        return value
    if kind is float:
        return value if math.isfinite(value) else str(value)
    if depth < DEEPEST:
        if isinstance(value, Mapping):
            items = cast(Mapping[Any, Any], value).items()
            return {str(name): plain(item, depth + 1) for name, item in items}
        if isinstance(value, list | tuple):
            return [plain(item, depth + 1) for item in cast(Sequence[Any], value)]
    if kind.__module__ == "numpy" and getattr(value, "shape", None) == ():
        number = value.item()
        if type(number) is not kind:
            return plain(number, depth + 1) if depth <= DEEPEST else str(number)
    return _text(value)


def _text(value: Any) -> str:
    try:
        return str(value)
    except Exception as error:  # of whatever class the user has in the cell
        return f"<{type(value).__name__}: {type(error).__name__} from its str()>"
