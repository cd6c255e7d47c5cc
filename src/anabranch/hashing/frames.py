"""How tables are written: pandas, polars and Arrow, column by column.

How the rows are split into chunks or blocks does not count, nor what stands where a value is null.
"""

from __future__ import annotations

import sys
from typing import Any

from anabranch.hashing.encoder import Encoder, Unencodable, Writer

_PLAIN_NUMBERS = frozenset(  # of polars', those that numpy has too
    [*(f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)), "Float32", "Float64"]
)


def find_writer(kind: type[Any]) -> Writer | None:
    """What writes a type of pandas', polars' or pyarrow's; None for any other."""
    for library, find in (
        ("pandas", _find_pandas),
        ("polars", _find_polars),
        ("pyarrow", _find_arrow),
    ):
        module: Any = sys.modules.get(library)
        if module is not None and hasattr(module, "Table" if library == "pyarrow" else "Series"):
            writer = find(module, kind)
            if writer is not None:
                return writer
    return None


# pandas


def _find_pandas(pandas: Any, kind: type[Any]) -> Writer | None:
    extension_array = pandas.api.extensions.ExtensionArray
    writers: list[tuple[Any, Writer]] = [
        (pandas.DataFrame, _write_pandas_frame),
        (pandas.Series, _write_pandas_series),
        (pandas.Index, _write_pandas_index),
        (extension_array, _write_pandas_array),
        (pandas.Timestamp, _write_pandas_moment),
        (pandas.Timedelta, _write_pandas_moment),
        (pandas.Period, _write_pandas_period),
        (pandas.Interval, _write_pandas_interval),
        (type(pandas.NaT), lambda encoder, _: encoder.named("pandas", "NaT")),
        (type(pandas.NA), lambda encoder, _: encoder.named("pandas", "NA")),
        (pandas.api.extensions.ExtensionDtype, _write_pandas_dtype),
    ]
    for base, writer in writers:
        if issubclass(kind, base):
            return writer
    return None


def _write_pandas_frame(encoder: Encoder, value: Any) -> None:
    encoder.typed(value, [("columns", value.columns), ("index", value.index)])
    for place in range(value.shape[1]):
        try:
            encoder.write(value.iloc[:, place].array)
        except Unencodable as error:
            error.steps.append(f"[{value.columns[place]!r}]")
            raise


def _write_pandas_series(encoder: Encoder, value: Any) -> None:
    encoder.typed(value, [("name", value.name), ("index", value.index), ("array", value.array)])


def _write_pandas_index(encoder: Encoder, value: Any) -> None:
    pandas: Any = sys.modules["pandas"]

    names = list(value.names)
    if isinstance(value, pandas.MultiIndex):
        levels = [value.get_level_values(place).array for place in range(value.nlevels)]
        encoder.named("pandas multi-index", (names, levels))
    else:  # one that holds a range is no other than one that holds its numbers
        encoder.named("pandas index", (names, value.array))


def _write_pandas_array(encoder: Encoder, value: Any) -> None:
    pandas: Any = sys.modules["pandas"]

    dtype = value.dtype
    name = str(dtype)
    if isinstance(value, pandas.arrays.NumpyExtensionArray):
        content: Any = value.to_numpy()
    elif isinstance(dtype, pandas.CategoricalDtype):
        content = (dtype.categories, dtype.ordered, value.codes.astype("<i8"))
    elif isinstance(dtype, pandas.ArrowDtype):
        content = value.__arrow_array__()
    elif hasattr(dtype, "numpy_dtype") and dtype.kind in "biuf":  # pandas' own with nulls
        missing = value.isna()
        content = (missing, value.to_numpy(dtype.numpy_dtype, na_value=dtype.type(0)))
    elif dtype.kind in "mM":
        content = value.view("i8")
    else:  # strings, periods, intervals, sparse, and those of other packages
        content = value.astype(object).tolist()
        missing = value.isna()
        content = [None if gone else each for gone, each in zip(missing, content, strict=True)]
    encoder.named("pandas array", (name, content))


def _write_pandas_moment(encoder: Encoder, value: Any) -> None:
    zone = str(getattr(value, "tz", None))
    encoder.typed(value, [("text", value.isoformat()), ("unit", value.unit), ("tz", zone)])


def _write_pandas_period(encoder: Encoder, value: Any) -> None:
    encoder.named("pandas period", (value.freqstr, value.ordinal))


def _write_pandas_interval(encoder: Encoder, value: Any) -> None:
    encoder.named("pandas interval", (value.left, value.right, value.closed))


def _write_pandas_dtype(encoder: Encoder, value: Any) -> None:
    encoder.named("pandas dtype", (type(value).__name__, str(value)))


# polars


def _find_polars(polars: Any, kind: type[Any]) -> Writer | None:
    if issubclass(kind, polars.DataFrame):
        return _write_polars_frame
    if issubclass(kind, polars.Series):
        return _write_polars_series
    return _write_polars_dtype if issubclass(kind, polars.DataType) else None


def _write_polars_frame(encoder: Encoder, value: Any) -> None:
    encoder.typed(value, [("height", value.height), ("columns", value.columns)])
    encoder.fields((name, value.get_column(name)) for name in value.columns)


def _write_polars_series(encoder: Encoder, value: Any) -> None:
    polars: Any = sys.modules["polars"]

    dtype = value.dtype
    physical = value.to_physical() if dtype.is_temporal() else value
    if dtype == polars.Boolean or dtype.is_temporal() or str(dtype) in _PLAIN_NUMBERS:
        missing = physical.is_null()
        content: Any = (
            missing.to_numpy() if missing.any() else None,
            physical.fill_null(False if dtype == polars.Boolean else 0).to_numpy(),
        )
    elif dtype == polars.Object:
        content = value.to_list()
    elif dtype.is_nested() and isinstance(dtype, polars.Struct):
        inner = value.struct
        content = (value.is_null().to_list(), [inner.field(name) for name in inner.fields])
    else:
        content = value.to_list()
    name = "Categorical" if dtype == polars.Categorical else str(dtype)
    encoder.typed(value, [("name", value.name), ("dtype", name), ("content", content)])


def _write_polars_dtype(encoder: Encoder, value: Any) -> None:
    encoder.named("polars dtype", str(value))


# Arrow


def _find_arrow(arrow: Any, kind: type[Any]) -> Writer | None:
    writers: list[tuple[Any, Writer]] = [
        ((arrow.Table, arrow.RecordBatch), _write_arrow_table),
        ((arrow.Array, arrow.ChunkedArray), _write_arrow_array),
        (arrow.Scalar, _write_arrow_scalar),
        (arrow.Schema, _write_arrow_schema),
        (arrow.DataType, lambda encoder, value: encoder.named("arrow type", str(value))),
        (arrow.Field, _write_arrow_field),
    ]
    for base, writer in writers:
        if issubclass(kind, base):
            return writer
    return None


def _write_arrow_table(encoder: Encoder, value: Any) -> None:
    """A table and a record batch with the same rows are two; metadata do not count."""
    pyarrow: Any = sys.modules["pyarrow"]

    name = "arrow table" if isinstance(value, pyarrow.Table) else "arrow batch"
    encoder.named(name, (value.num_rows, value.schema))
    for place, field in enumerate(value.schema):
        try:
            encoder.write(value.column(place))
        except Unencodable as error:
            error.steps.append(f"[{field.name!r}]")
            raise


def _write_arrow_schema(encoder: Encoder, value: Any) -> None:
    encoder.named("arrow schema", list(value))


def _write_arrow_field(encoder: Encoder, value: Any) -> None:
    encoder.named("arrow field", (value.name, str(value.type), value.nullable))


def _write_arrow_scalar(encoder: Encoder, value: Any) -> None:
    encoder.named("arrow scalar", (str(value.type), value.as_py()))


def _write_arrow_array(encoder: Encoder, value: Any) -> None:
    pyarrow: Any = sys.modules["pyarrow"]

    if isinstance(value, pyarrow.ChunkedArray):
        wide = {"string": pyarrow.large_string(), "binary": pyarrow.large_binary()}
        as_type = wide.get(str(value.type), value.type)  # chunks past 2 GB do not fit the narrow
        chunks = [chunk.cast(as_type) for chunk in value.chunks]
        joined = pyarrow.concat_arrays(chunks) if chunks else pyarrow.array([], value.type)
    else:
        joined = value
    encoder.named("arrow array", (str(value.type), len(joined), _arrow_parts(joined)))


def _arrow_parts(array: Any) -> Any:
    """Which items are null, and the others: numbers as numpy has them, text as lengths and bytes."""
    pyarrow: Any = sys.modules["pyarrow"]
    types = pyarrow.types

    kind = array.type
    if isinstance(kind, pyarrow.BaseExtensionType):
        return _arrow_parts(array.storage)
    if types.is_dictionary(kind):
        return _arrow_parts(array.dictionary_decode())
    missing = array.is_null().to_numpy(zero_copy_only=False) if array.null_count else None
    if types.is_temporal(kind) and not types.is_interval(kind):
        width = kind.bit_width
        array = array.view(pyarrow.int32() if width == 32 else pyarrow.int64())
        kind = array.type
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        if array.null_count:
            array = array.fill_null(pyarrow.scalar(False if types.is_boolean(kind) else 0, kind))
        return missing, array.to_numpy(zero_copy_only=False)
    if types.is_string(kind) or types.is_binary(kind):
        return missing, *_arrow_text(array)
    if types.is_large_string(kind) or types.is_large_binary(kind):
        return missing, *_arrow_text(array)
    if types.is_list(kind) or types.is_large_list(kind):
        lengths = array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        return missing, lengths.astype("<i8"), _arrow_parts(array.flatten())
    if types.is_struct(kind):
        return missing, [_arrow_parts(field) for field in array.flatten()]
    return array.to_pylist()


def _arrow_text(array: Any) -> tuple[Any, Any]:
    """The lengths of strings or binaries, and their bytes in a row."""
    import numpy  # pyarrow's arrays of numbers need it as well

    if array.null_count:
        array = array.fill_null(b"" if "binary" in str(array.type) else "")
    wide = "large" in str(array.type)
    _, places, data = array.buffers()
    if len(array) == 0 or places is None:
        return numpy.zeros(0, "<i8"), b""
    offsets = numpy.frombuffer(places, "<i8" if wide else "<i4")
    offsets = offsets[array.offset : array.offset + len(array) + 1].astype("<i8")
    if data is None:
        return numpy.diff(offsets), b""
    return numpy.diff(offsets), numpy.frombuffer(data, "u1")[offsets[0] : offsets[-1]]
