"""Results in files: pyperf's own JSON, and beside its benchmarks those cases that were not measured.

pyperf reads such a file as one of its own, and passes over what is ours.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from anabranch.bench.pyperf_library import load_pyperf
from anabranch.bench.results import FAILED, MEASURED, CaseResult
from anabranch.errors import BenchmarkFileError

VERSION = "1.0"
"""Of pyperf's format, for a file without any benchmark, which pyperf itself neither writes nor reads."""
NOT_MEASURED = "anabranch_not_measured"
BENCHMARK = "benchmark"
PARAM = "param_"
"""Keys of the metadata: the function, and the params, each with this before its name."""


def write_results(path: Path, results: Iterable[CaseResult]) -> None:
    """Write a file, or write over it; raises `OSError` and `MissingExtraError`."""
    pyperf = load_pyperf()
    results = list(results)
    measured = [_pyperf_benchmark(pyperf, each) for each in results if each.is_measured]
    written: dict[str, Any] = {"version": VERSION, "benchmarks": []}
    if measured:
        pyperf.BenchmarkSuite(measured).dump(str(path), compact=False, replace=True)
        written = json.loads(path.read_text("utf-8"))
    left = [each for each in results if not each.is_measured]
    if left:
        written[NOT_MEASURED] = [
            {
                "name": each.name,
                "benchmark": each.benchmark,
                "params": each.params,
                "status": each.status,
                "error": each.error,
                "metadata": each.metadata,
            }
            for each in left
        ]
    if left or not measured:
        path.write_text(json.dumps(written, indent=4) + "\n", "utf-8")


def read_results(path: Path) -> list[CaseResult]:
    """What such a file holds, or any file of pyperf; raises `BenchmarkFileError`,
    `MissingExtraError`."""
    pyperf = load_pyperf()
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
        left = [
            CaseResult(
                each["name"],
                each["benchmark"],
                each["params"],
                each["status"],
                each["error"],
                metadata=each["metadata"],
            )
            for each in found.get(NOT_MEASURED, ())
        ]
        suite: Sequence[Any] = pyperf.BenchmarkSuite.load(str(path)) if found["benchmarks"] else ()
        return [*map(_case_result, suite), *left]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise BenchmarkFileError(str(path), f"{type(error).__name__}: {error}") from error


def _pyperf_benchmark(pyperf: Any, result: CaseResult) -> Any:
    metadata: dict[str, Any] = {
        **result.metadata,
        "name": result.name,
        "loops": result.loops,
        BENCHMARK: result.benchmark,
    }
    for name, value in result.params.items():
        metadata[PARAM + name] = value if value != "" else "''"  # pyperf refuses empty texts
    run = pyperf.Run(
        result.values,
        warmups=[tuple(each) for each in result.warmups],
        metadata=metadata,
        collect_metadata=False,
    )
    return pyperf.Benchmark([run])


def _case_result(found: Any) -> CaseResult:
    metadata: Mapping[str, Any] = found.get_metadata()
    name: str = found.get_name()
    values: tuple[float, ...] = found.get_values()
    params = {
        key.removeprefix(PARAM): value for key, value in metadata.items() if key.startswith(PARAM)
    }
    benchmark = metadata.get(BENCHMARK, name)
    if len(values) < 2:
        error = f"{len(values)} value alone, of which no interval is known"
        return CaseResult(name, benchmark, params, FAILED, error, metadata=metadata)
    loops = round(found.get_total_loops())
    return CaseResult(
        name, benchmark, params, MEASURED, values=values, loops=loops, metadata=metadata
    )
