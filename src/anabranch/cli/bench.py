"""`anabranch bench`: measure a suite of benchmarks, as one flow, on any task runner."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from anabranch import late
from anabranch.bench.plotting import draw_plots
from anabranch.bench.pyperf_library import load_pyperf, require_matplotlib
from anabranch.bench.result_files import read_results
from anabranch.bench.results import CaseResult
from anabranch.cli.bench_report import print_results
from anabranch.cli.output import COMPLETED, FAILED, note
from anabranch.cli.run import Runner, leave_with, loaded

app = typer.Typer(add_completion=False)


@app.command()
def bench(
    path: Annotated[
        Path,
        typer.Argument(help="A file, or a folder with bench_*.py, *_bench.py, benchmark_*.py."),
    ],
    runner: Runner = None,
    text: Annotated[
        str | None, typer.Option("--filter", metavar="TEXT", help="Cases with this in their names.")
    ] = None,
    json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write pyperf's JSON there.")
    ] = None,
    compare: Annotated[
        Path | None, typer.Option("--compare", metavar="BASE.json", help="Results to compare with.")
    ] = None,
    plots: Annotated[
        Path | None, typer.Option("--plots", metavar="FOLDER", help="Draw each benchmark there.")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option("--resume", metavar="ID", help="Go on with this run: an id, or a name."),
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="Three repeats or a fifth of a second for each case.")
    ] = False,
    lists: Annotated[bool, typer.Option("--list", help="Print the cases' names alone.")] = False,
) -> None:
    """Measure the benchmarks of a suite, each case as a task run of one flow.

    Example: anabranch bench bench_sorting.py --json now.json --compare before.json

    A case that fails, times out or gives a wrong answer is a line of the table. Exits with
    0: all measured, 1: some not, 2: wrong use, 3: cancelled, 4: crashed.
    """
    load_pyperf()
    if plots is not None:
        require_matplotlib()
    if lists:
        given = {"--runner": runner, "--json": json, "--compare": compare, "--plots": plots}
        _refuse_beside_list({**given, "--resume": resume, "--fast": fast or None})
        names: list[str] = loaded(lambda _: late.list_cases(path, text or ""), str(path))
        typer.echo("\n".join(names))
        return
    if json is not None and not json.absolute().parent.is_dir():
        raise typer.BadParameter(f"there is no folder {json.parent}", param_hint="--json")
    base = None if compare is None else read_results(compare)
    loaded(lambda _: late.find_benchmarks(path), str(path))  # what is wrong with it is told at once
    parameters: dict[str, Any] = {"path": str(path.absolute())}
    parameters |= {} if text is None else {"text": text}
    parameters |= {"fast": True} if fast else {}
    parameters |= {} if json is None else {"json": str(json.absolute())}
    results = _measured(path, runner, resume, parameters)
    print_results(results, base)
    if plots is not None:
        for file in draw_plots(plots, results, base or ()):
            note(f"Drawn: {file}")
    if not all(each.is_measured for each in results):
        raise typer.Exit(FAILED)


def _refuse_beside_list(options: dict[str, Any]) -> None:
    for name, value in options.items():
        if value is not None:
            raise typer.BadParameter(f"{name} says nothing beside it", param_hint="--list")


def _measured(
    path: Path, runner: str | None, resume: str | None, parameters: dict[str, Any]
) -> list[CaseResult]:
    """The results of the flow; one that did not complete ends the command, and says how to go on."""
    flow: Any = late.benchmark_suite
    if runner is not None:
        flow = flow.with_options(task_runner=runner)
    runs: list[str] = []
    results: list[CaseResult] = []
    options = "" if runner is None else f" --runner {shlex.quote(runner)}"

    def began(flow: Any, run: Any, state: Any) -> None:
        runs.append(f"anabranch bench {shlex.quote(str(path))}{options} --resume {run.name}")
        note(f"To go on with it if it ends early: {runs[0]}")

    def call() -> Any:
        noted = flow.with_options(on_running=[began])
        if resume is None:
            state = noted(**parameters, return_state=True)
        else:
            state = noted.resume(resume, return_state=True, parameters=parameters)
        if state.is_completed():
            results.extend(state.result())
        return state

    try:
        leave_with(call)
    except typer.Exit as left:
        if left.exit_code != COMPLETED:
            if runs:
                note(f"It has not completed. Go on with it: {runs[0]}")
            raise
    return results
