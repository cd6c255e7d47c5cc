"""A suite of benchmarks: sorting, hashing, compressing, and numpy's kernels, on data of this machine.

    anabranch bench examples/benchmark_suite.py --fast
    anabranch bench examples/benchmark_suite.py --json before.json --plots plots
    anabranch bench examples/benchmark_suite.py --compare before.json --runner dask+tcp://host:8786

The sizes are found when it runs: they go by the processor's cache, on both sides of it. What is
hashed and compressed is text that each machine with Python has, the standard library's own.
"""

from __future__ import annotations

import bz2
import hashlib
import importlib.util
import itertools
import lzma
import os
import random
import sysconfig
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from anabranch.bench import benchmark

SMALLEST_CACHE = 1 << 20
"""Bytes of the last level of cache where the system does not tell; also the most that this suite
goes by, so that it ends in time on large machines."""
LARGEST_CACHE = 8 << 20
CODECS = ("zlib", "bz2", "lzma")
HAS_NUMPY = importlib.util.find_spec("numpy") is not None

if not HAS_NUMPY:
    print("numpy is not installed here: its kernels are left out.")


# -- what is measured over ------------------------------------------------------------------------


def cache_bytes() -> int:
    """The size of the last level of cache that the system tells of, within bounds."""
    names = ("SC_LEVEL3_CACHE_SIZE", "SC_LEVEL2_CACHE_SIZE")
    known = [os.sysconf(name) for name in names if name in os.sysconf_names]
    told = next((size for size in known if size > 0), SMALLEST_CACHE)
    return min(max(told, SMALLEST_CACHE), LARGEST_CACHE)


def byte_sizes() -> Iterator[int]:
    """From a thousandth of the cache to half of it, always times eight or so."""
    cache = cache_bytes()
    return (cache // part for part in (1024, 128, 16, 2))


def list_sizes() -> list[int]:
    """Lengths of lists whose pointers fill as many bytes."""
    return [size // 8 for size in byte_sizes()]


def hash_names() -> list[str]:
    """Algorithms that each Python has, but those whose digest has no fixed length."""
    names = sorted(hashlib.algorithms_guaranteed)
    return [name for name in names if hashlib.new(name).digest_size > 0]


def codec_levels() -> Iterator[dict[str, Any]]:
    """A quick, a usual and a thorough level of each codec, over a text that is an eighth of the cache."""
    size = cache_bytes() // 8
    for codec in CODECS:
        for level in (1, 6, 9):
            yield {"codec": codec, "level": level, "size": size}


def matrix_sides() -> list[int]:
    """Sides of square matrices of doubles: three of them fill that share of the cache."""
    return [int((size / 24) ** 0.5) for size in byte_sizes()]


# -- data -----------------------------------------------------------------------------------------


def numbers(size: int, order: str, rng: random.Random) -> list[float]:
    values = [rng.random() for _ in range(size)]
    return values if order == "random" else sorted(values, reverse=order == "reversed")


def text(size: int) -> bytes:
    """The first bytes of the standard library's modules, one after the other."""
    data = bytearray()
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        data += path.read_bytes()
        if len(data) >= size:
            break
    return bytes(data[:size])


# -- benchmarks -----------------------------------------------------------------------------------


def is_sorted(result: list[float], size: int) -> bool:
    return len(result) == size and all(a <= b for a, b in itertools.pairwise(result))


@benchmark(
    params={"size": list_sizes, "order": ["random", "sorted", "reversed"]},
    setup=numbers,
    check=is_sorted,
    time_limit=2,
)
def sorting(values: list[float]) -> list[float]:
    return sorted(values)


@benchmark(params={"size": byte_sizes, "algorithm": hash_names}, setup=text, time_limit=1)
def hashing(data: bytes, algorithm: str) -> bytes:
    return hashlib.new(algorithm, data, usedforsecurity=False).digest()


COMPRESS: dict[str, Callable[[bytes, int], bytes]] = {
    "zlib": zlib.compress,
    "bz2": bz2.compress,
    "lzma": lambda data, level: lzma.compress(data, preset=level),
}
DECOMPRESS = {"zlib": zlib.decompress, "bz2": bz2.decompress, "lzma": lzma.decompress}


def comes_back(result: bytes, codec: str, size: int) -> bool:
    return DECOMPRESS[codec](result) == text(size)


@benchmark(params=codec_levels, setup=text, check=comes_back, min_repeats=3, time_limit=3)
def compressing(data: bytes, codec: str, level: int) -> bytes:
    return COMPRESS[codec](data, level)


if HAS_NUMPY:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

    def square(side: int, seed: int) -> Array:
        return np.random.default_rng(seed).random((side, side))

    def vector(size: int, seed: int) -> Array:
        return np.random.default_rng(seed).random(size)

    def is_finite(result: Any) -> bool:
        return bool(np.isfinite(result).all())

    @benchmark(params={"side": matrix_sides}, setup=square, check=is_finite, time_limit=2)
    def matrix_product(matrix: Array) -> Array:
        return matrix @ matrix

    @benchmark(params={"size": list_sizes}, setup=vector, check=is_finite, time_limit=2)
    def fourier_transform(values: Array) -> Any:
        return np.fft.rfft(values)

    @benchmark(params={"size": list_sizes}, setup=vector, setup_each=True, time_limit=2)
    def sorting_in_place(values: Array) -> None:
        values.sort()
