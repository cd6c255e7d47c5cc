"""A census of Python files: how many lines, functions, classes and imports, and where.

    python examples/census.py --root SOME_FOLDER --runner processes --out census.csv

The files are found at run time, and each is parsed by a task of its own. A small folder of awkward
files is always counted too: some of them do not parse, which is told and stops nothing.

A run that was killed goes on with `--resume` and its name: files that were parsed stay so.
"""

from __future__ import annotations

import argparse
import ast
import csv
import logging
import sysconfig
import tokenize
import warnings
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from anabranch import flow, runtime, task
from anabranch.errors import (
    AlreadyCompletedError,
    StillOwnedError,
    TaskRunnerOptionError,
    UnknownRunError,
    UnknownTaskRunnerError,
)
from anabranch.task_runners import task_runner

AWKWARD = Path(__file__).parent / "awkward"
AWKWARD_NAME = "../awkward"  # no name below the root can begin like this
COLUMNS = ("where", "files", "lines", "functions", "classes", "imports")
NOT_PARSED = (SyntaxError, ValueError, RecursionError, MemoryError, OSError)
"""What a file can be blamed for; any other exception is a bug of ours."""


class File(NamedTuple):
    folder: str  # the top one below the root, "." for the root itself
    name: str
    path: Path


class Counts(NamedTuple):
    files: int
    lines: int
    functions: int
    classes: int
    imports: int


class Census(NamedTuple):
    run_name: str
    files: int
    folders: dict[str, Counts]
    failures: dict[str, str]


@task(task_run_name="parse {path.name}")
def parse(path: Path) -> Counts:
    """Count what stands in one file, in the encoding that it declares."""
    warnings.simplefilter("ignore", SyntaxWarning, append=True)  # of code that is not ours
    with tokenize.open(path) as file:
        text = file.read()
    nodes = list(ast.walk(ast.parse(text, filename=str(path))))
    return Counts(
        files=1,
        lines=len(text.splitlines()),
        functions=sum(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in nodes),
        classes=sum(isinstance(node, ast.ClassDef) for node in nodes),
        imports=sum(isinstance(node, ast.Import | ast.ImportFrom) for node in nodes),
    )


@task
def add_up(parsed: list[tuple[str, Counts]]) -> dict[str, Counts]:
    """The counts of each top folder."""
    folders: dict[str, list[Counts]] = defaultdict(list)
    for folder, counts in parsed:
        folders[folder].append(counts)
    return {folder: total(folders[folder]) for folder in sorted(folders)}


@flow
def census(root: Path) -> Census | None:
    """Parse all Python files below `root`; None where there are none."""
    found = python_files(root)
    if not found:
        print(f"There are no Python files below {root}.")
        return None
    files = found + awkward_files()
    futures = parse.map([file.path for file in files])
    failures: dict[str, str] = {}
    parsed: list[tuple[str, Counts]] = []
    for file, future in zip(files, futures, strict=True):
        error = future.exception()
        if error is None:
            parsed.append((file.folder, future.result()))
        elif isinstance(error, NOT_PARSED):
            failures[file.name] = reason(error, file)
        else:
            raise error
    folders = add_up.submit(parsed).result()
    return Census(runtime.flow_run.name or "", len(files), folders, failures)


def python_files(root: Path) -> list[File]:
    """The files below `root`, sorted by folder and name; installed packages are left out."""
    files: list[File] = []
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).parts
        if "site-packages" not in parts and path.is_file():
            folder = parts[0] if len(parts) > 1 else "."
            files.append(File(printable(folder), printable("/".join(parts)), path))
    return sorted(files)


def awkward_files() -> list[File]:
    return [
        File(AWKWARD_NAME, f"{AWKWARD_NAME}/{file.name}", file.path)
        for file in python_files(AWKWARD)
    ]


def reason(error: BaseException, file: File) -> str:
    """Why a file did not parse, in the same words on every machine."""
    told = printable(f"{type(error).__name__}: {error}")
    return told.replace(printable(str(file.path)), file.name)


def printable(text: str) -> str:
    """File names may hold bytes that are no text; they come out as `\\udcff` and the like."""
    return text.encode(errors="backslashreplace").decode()


def total(counts: list[Counts]) -> Counts:
    return Counts(*map(sum, zip(*counts, strict=True)))


def write_csv(result: Census, out: Path) -> None:
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([folder, *counts] for folder, counts in result.folders.items())
        writer.writerow([])
        writer.writerow(["not parsed", "why"])
        writer.writerows(result.failures.items())


def show(result: Census, runner: str, out: Path) -> None:
    largest = sorted(result.folders.items(), key=lambda item: -item[1].lines)
    table = Table(title="Python files, the 15 largest folders")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "where" else "right")
    for folder, counts in largest[:15]:
        table.add_row(escape(folder), *(f"{number:,}" for number in counts))
    table.add_section()
    table.add_row("all", *(f"{number:,}" for number in total(list(result.folders.values()))))
    Console().print(table)
    print(f"{len(result.failures)} of {result.files} files could not be parsed:")
    for name, why in result.failures.items():
        print(f"  {name}: {why}")
    print(f"run {result.run_name} on {runner}; written to {out}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    library = Path(sysconfig.get_paths()["stdlib"])
    parser.add_argument("--root", type=Path, default=library, help="a folder of Python files")
    parser.add_argument(
        "--runner",
        default="threads",
        help="threads, processes, dask, ray, dask+tcp://HOST:PORT, ...",
    )
    parser.add_argument("--out", type=Path, default=Path("census.csv"), help="a CSV file")
    parser.add_argument("--resume", metavar="RUN", help="go on with this run, by its name or id")
    options = parser.parse_args()
    try:
        runner = task_runner(options.runner)
    except (UnknownTaskRunnerError, TaskRunnerOptionError) as error:
        parser.error(f"argument --runner: {error}")
    if not options.root.is_dir():
        parser.error(f"argument --root: {options.root} is not a folder")
    if options.out.is_dir() or not options.out.parent.is_dir():
        parser.error(f"argument --out: {options.out} is not a file in a folder that exists")

    # Why files failed stands below the table; the tracebacks, some 200 lines, would bury it.
    logging.getLogger("anabranch.runs").addFilter(lambda record: not record.exc_info)
    chosen = census.with_options(task_runner=runner)
    try:
        result = chosen(options.root) if options.resume is None else chosen.resume(options.resume)
    except (UnknownRunError, AlreadyCompletedError, StillOwnedError) as error:
        parser.error(f"argument --resume: {error}")
    if result is not None:
        write_csv(result, options.out)
        show(result, options.runner, options.out)


if __name__ == "__main__":
    main()
