"""`anabranch run`: a flow from a file or module, in this process."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, Any

import typer

import anabranch
from anabranch.cli.loading import load_flow, parse_parameters
from anabranch.cli.output import CANCELLED, EXIT_CODES, FAILED, shown
from anabranch.errors import AnabranchError

SIGTERM_EXIT = 143

Parameters = Annotated[
    list[str] | None,
    typer.Option(
        "--param", "-p", metavar="K=V", help="A parameter; JSON where it parses, else text."
    ),
]
Runner = Annotated[
    str | None,
    typer.Option("--runner", help="Where its tasks run, such as processes?max_workers=4."),
]

app = typer.Typer(add_completion=False)


@app.command()
def run(
    target: Annotated[
        str,
        typer.Argument(metavar="FILE:FLOW", help="FILE alone if it has one flow; or module:flow."),
    ],
    param: Parameters = None,
    runner: Runner = None,
) -> None:
    """Run a flow, here and now.

    Example: anabranch run census.py:census -p root=src --runner processes

    Exits with 0: completed, 1: failed, 2: wrong use, 3: cancelled, 4: crashed.
    """
    flow = loaded(load_flow, target)
    parameters = parse_parameters(param or ())
    if runner is not None:
        flow = flow.with_options(task_runner=runner)
    leave_with(lambda: flow(**parameters, return_state=True))


def loaded(load: Callable[[str], Any], target: str) -> Any:
    """The flow or task; an error of the file's own code is shown with its traceback, and ends the
    command."""
    try:
        return load(target)
    except AnabranchError:
        raise
    except Exception as error:
        _print_traceback(error)
        raise typer.Exit(FAILED) from None


def _print_traceback(error: BaseException) -> None:
    """Without the frames that are ours, or the import system's."""
    told = traceback.TracebackException.from_exception(error)
    each: traceback.TracebackException | None = told
    while each is not None:
        users = [frame for frame in each.stack if not _is_ours(frame.filename)]
        each.stack = traceback.StackSummary.from_list(users)
        each = each.__cause__ or each.__context__
    print(shown("".join(told.format())), end="", file=sys.stderr)


def _is_ours(filename: str) -> bool:
    ours = os.path.dirname(anabranch.__file__) + os.sep
    return filename.startswith((ours, "<frozen importlib")) or filename == importlib.__file__


def leave_with(call: Callable[[], Any]) -> None:
    """End the command with the code for the state that a run of a flow comes to."""
    try:
        state = call()
        if hasattr(state, "__await__"):
            import asyncio  # 25 ms that other flows need not spend

            state = asyncio.run(_awaited(state))
    except KeyboardInterrupt:  # recorded as cancelled by then
        raise typer.Exit(CANCELLED) from None
    except SystemExit as error:
        if error.code != SIGTERM_EXIT:
            raise
        raise typer.Exit(CANCELLED) from None
    error = state.data
    if isinstance(error, BaseException) and state.is_failed() and error.__traceback__ is not None:
        _print_traceback(error)
    raise typer.Exit(EXIT_CODES.get(state.type.value, FAILED))


async def _awaited(awaitable: Any) -> Any:
    return await awaitable
