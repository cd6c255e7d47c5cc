"""A census of Python files: how many lines, functions, classes and imports, and where.

    python examples/census.py --root SOME_FOLDER --runner threads --out census.csv

The files are found at run time, and each is parsed by a task of its own. A small folder of awkward
files is always counted too: some of them do not parse, which is told and stops nothing.
"""

from __future__ import annotations

import argparse
import ast
import csv
import sysconfig
import tokenize
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from anabranch import flow, runtime, task

AWKWARD = Path(__file__).parent / "awkward"
COLUMNS = ("where", "files", "lines", "functions", "classes", "imports")


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
    return {
        folder: Counts(*map(sum, zip(*folders[folder], strict=True))) for folder in sorted(folders)
    }


@flow
def census(root: Path) -> Census | None:
    """Parse all Python files below `root`; None where there are none."""
    found = python_files(root)
    if not found:
        print(f"There are no Python files below {root}.")
        return None
    files = {**found, **{f"awkward/{name}": path for name, path in python_files(AWKWARD).items()}}
    futures = parse.map(list(files.values()))
    futures.wait()
    failures: dict[str, str] = {}
    parsed: list[tuple[str, Counts]] = []
    for name, future in zip(files, futures, strict=True):
        error = future.exception()
        if error is None:
            parsed.append((name.split("/")[0] if "/" in name else "(top)", future.result()))
        else:
            reason = str(error).replace(str(files[name]), name)  # the same text on every machine
            failures[name] = f"{type(error).__name__}: {reason}"
    folders = add_up.submit(parsed).result()
    return Census(runtime.flow_run.name or "", len(files), folders, failures)


def python_files(root: Path) -> dict[str, Path]:
    """Paths by their names below `root`, sorted; installed packages are left out."""
    paths = {path.relative_to(root).as_posix(): path for path in root.rglob("*.py")}
    kept = {name: path for name, path in paths.items() if "site-packages" not in name.split("/")}
    return dict(sorted(kept.items()))


def write_csv(result: Census, out: Path) -> None:
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([folder, *counts] for folder, counts in result.folders.items())
        writer.writerow([])
        writer.writerow(["not parsed", "why"])
        writer.writerows(result.failures.items())


def show(result: Census, runner: str, out: Path) -> None:
    console = Console()
    largest = sorted(result.folders.items(), key=lambda item: -item[1].lines)
    table = Table(title="Python files, the 15 largest folders")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "where" else "right")
    for folder, counts in largest[:15]:
        table.add_row(folder, *(f"{number:,}" for number in counts))
    table.add_section()
    total = Counts(*map(sum, zip(*result.folders.values(), strict=True)))
    table.add_row("all", *(f"{number:,}" for number in total))
    console.print(table)
    console.print(f"{len(result.failures)} of {result.files} files could not be parsed:")
    for name, why in result.failures.items():
        console.print(f"  {name}: {why}", markup=False, highlight=False)
    console.print(f"run {result.run_name} on {runner}; written to {out}", highlight=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path(sysconfig.get_paths()["stdlib"]))
    parser.add_argument("--runner", default="threads", help="such as inline, threads or asyncio")
    parser.add_argument("--out", type=Path, default=Path("census.csv"), help="a CSV file")
    options = parser.parse_args()
    result = census.with_options(task_runner=options.runner)(options.root)
    if result is not None:
        write_csv(result, options.out)
        show(result, options.runner, options.out)


if __name__ == "__main__":
    main()
