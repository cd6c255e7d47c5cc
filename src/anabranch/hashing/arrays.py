"""How numpy's arrays and scalars are written: dtype, shape, and the items in C order."""

from __future__ import annotations

import sys
from typing import Any, cast

from anabranch.hashing.encoder import Encoder, Unencodable, Writer, header

_BYTES = "biufcmMSUV"  # kinds of dtypes whose items are bytes with a meaning of their own
_CHUNK = 1 << 17  # items that are looked through for NaN while they are in the processor's cache


def find_writer(kind: type[Any]) -> Writer | None:
    """What writes a type of numpy's; None for any other."""
    numpy: Any = sys.modules.get("numpy")
    if numpy is None or not hasattr(numpy, "ndarray"):  # not loaded, or not yet
        return None
    if issubclass(kind, numpy.ndarray):
        masked = issubclass(kind, numpy.ma.MaskedArray)
        return _write_masked if masked else _write_array
    if issubclass(kind, numpy.generic):
        return _write_scalar
    return _write_dtype if issubclass(kind, numpy.dtype) else None


def _write_scalar(encoder: Encoder, value: Any) -> None:
    numpy: Any = sys.modules["numpy"]

    encoder.named("numpy scalar", _Items(numpy.asarray(value)))


def _write_array(encoder: Encoder, value: Any) -> None:
    numpy: Any = sys.modules["numpy"]

    kind = cast("type[Any]", type(value))
    plain = numpy.asarray(value)
    if kind in (numpy.ndarray, numpy.memmap):
        encoder.named("numpy array", _Items(plain))
    else:  # a subclass of someone's, such as one with units
        attributes: dict[str, Any] = getattr(value, "__dict__", {})
        encoder.typed(value, [("", _Items(plain)), *sorted(attributes.items())])


def _write_masked(encoder: Encoder, value: Any) -> None:
    numpy: Any = sys.modules["numpy"]

    mask = numpy.ma.getmaskarray(value)
    data = numpy.array(numpy.ma.getdata(value))
    data[mask] = numpy.zeros((), data.dtype)  # what stands under the mask does not count
    encoder.named("numpy masked array", (data, mask))


def _write_dtype(encoder: Encoder, value: Any) -> None:
    encoder.named("numpy dtype", _dtype_parts(value))


def _dtype_parts(dtype: Any) -> Any:
    """A dtype's name, little-endian; of a structured one its fields."""
    if dtype.names:
        return [(name, _dtype_parts(dtype.fields[name][0])) for name in dtype.names]
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return _dtype_parts(base), shape
    return dtype.str.replace(">", "<") if dtype.kind in _BYTES else str(dtype)


class _Items:
    """A plain array, to be written without a name for its kind."""

    __slots__ = ("array",)

    def __init__(self, array: Any) -> None:
        self.array = array


def _write_items(encoder: Encoder, given: _Items) -> None:
    array = given.array
    encoder.write((_dtype_parts(array.dtype), array.shape))
    write_content(encoder, array)


def write_content(encoder: Encoder, array: Any) -> None:
    """The items of an array in C order; where its dtype stands is the caller's to say."""
    dtype = array.dtype
    if dtype.names:
        encoder.fields([(name, _Items(array[name])) for name in dtype.names])
    elif dtype.kind not in _BYTES:
        encoder.items(b"[", array.ravel().tolist())
    elif dtype.kind in "fc" and dtype.type(0).real.dtype.itemsize > 8:
        raise Unencodable(array, f"the bytes of {dtype} are others on other machines")
    else:
        _write_bytes(encoder, array)


def _write_bytes(encoder: Encoder, array: Any) -> None:
    numpy: Any = sys.modules["numpy"]

    dtype = array.dtype
    little = dtype.newbyteorder("<")
    if not array.flags.c_contiguous or dtype != little:
        array = numpy.ascontiguousarray(array, little)
    encoder.out += header(b"b", array.nbytes)
    if array.nbytes == 0:
        return
    flat = array.reshape(-1)
    if dtype.kind in "fc":
        _write_floats(encoder, flat.view(flat.real.dtype))
    else:
        encoder.raw(memoryview(flat.view(numpy.uint8)))


def _write_floats(encoder: Encoder, flat: Any) -> None:
    """Each NaN counts as the same: their signs differ between machines."""
    numpy: Any = sys.modules["numpy"]

    for start in range(0, len(flat), _CHUNK):
        chunk = flat[start : start + _CHUNK]
        if numpy.isnan(chunk.min()):
            chunk = numpy.where(numpy.isnan(chunk), chunk.dtype.type("nan"), chunk)
        encoder.raw(memoryview(chunk.view(numpy.uint8)))


WRITERS: dict[type[Any], Writer] = {_Items: _write_items}
