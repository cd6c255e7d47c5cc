"""The flow that `anabranch bench` runs: its cases are found in files while it runs."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Generator, Iterable
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle  # pyright: ignore[reportMissingTypeStubs]  # it has none

from anabranch.bench.definitions import Benchmark
from anabranch.bench.grids import find_cases
from anabranch.bench.result_files import write_results
from anabranch.bench.results import CaseResult
from anabranch.bench.suites import run_suite
from anabranch.cli.loading import load_file
from anabranch.context import current_context
from anabranch.errors import FlowFileError
from anabranch.flows import flow
from anabranch.logging import get_run_logger
from anabranch.task_runners.base import Capabilities

PATTERNS = ("bench_*.py", "*_bench.py", "benchmark_*.py")
"""Files of a folder that are taken for suites."""


@flow(name="bench")
def benchmark_suite(
    path: str, text: str = "", fast: bool = False, json: str | None = None
) -> list[CaseResult]:
    """Measure the benchmarks of a file, or of a folder's, whose cases have `text` in their names; all
    results, also in a file of pyperf's JSON."""
    logger = get_run_logger()

    def tell(result: CaseResult) -> None:
        level = logging.INFO if result.is_measured else logging.WARNING
        logger.log(level, "%s: %s", result.name, result.outcome)

    benchmarks = find_benchmarks(Path(path))
    with by_value(benchmarks, current_context().open_flow.runner.capabilities):
        results = run_suite(benchmarks, lambda name: text in name, tell, fast)
    if json is not None:
        write_results(Path(json), results)
    return results


def list_cases(path: Path, text: str) -> list[str]:
    """Names of the cases that have `text` in them; raises what the files' own code raises."""
    found = [case.name for each in find_benchmarks(path) for case in find_cases(each)]
    return [name for name in found if text in name]


def find_benchmarks(path: Path) -> list[Benchmark[..., Any]]:
    """Those that stand in a file or folder, in order. Where two files have one of the same name, the
    file's stands before it. Raises `FlowFileError`, and whatever the files' own code raises."""
    if path.is_dir():
        files = sorted({file for pattern in PATTERNS for file in path.glob(pattern)})
        if not files:
            raise FlowFileError(str(path), f"there is no {', no '.join(PATTERNS)} in this folder.")
    else:
        files = [path]
    found = [(file, each) for file in files for each in _benchmarks_of(load_file(file))]
    if not found:
        problem = "there is no benchmark in it, no function decorated with @benchmark."
        raise FlowFileError(str(path), problem)
    names = [each.plan.name for _, each in found]
    return [
        each if names.count(each.plan.name) == 1 else each.renamed(f"{file.stem}.{each.plan.name}")
        for file, each in found
    ]


def _benchmarks_of(module: ModuleType) -> Iterable[Benchmark[..., Any]]:
    named: Iterable[Any] = vars(module).values()
    return [
        each
        for each in named
        if issubclass(type(each), Benchmark) and each.__module__ == module.__name__
    ]


@contextmanager
def by_value(benchmarks: Iterable[Benchmark[..., Any]], runner: Capabilities) -> Generator[None]:
    """On a cluster, have all that stands in the benchmarks' files travel by value: its workers need
    not have them. Child processes do, and import them, which is quicker."""
    with ExitStack() as lifetimes:
        if runner.remote and runner.name != "processes":
            pickling: Any = cloudpickle
            for name in {each.__module__ for each in benchmarks}:
                pickling.register_pickle_by_value(importlib.import_module(name))
                lifetimes.callback(pickling.unregister_pickle_by_value, sys.modules[name])
        yield
