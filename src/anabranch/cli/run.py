"""`anabranch run`: a flow from a file or module, in this process."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, Any

import typer

from anabranch.cli.loading import load_flow, parse_parameters
from anabranch.cli.output import CANCELLED, EXIT_CODES, FAILED
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


def run(
    target: Annotated[str, typer.Argument(metavar="FILE[:FLOW]", help="Or module:flow.")],
    param: Parameters = None,
    runner: Runner = None,
) -> None:
    """Run a flow, here and now.

    Example: anabranch run census.py:census -p root=src --runner processes

    Exits with 0 if it completed, 1 if it failed, 2 for a wrong use, 3 if it was cancelled, 4 if it
    crashed.
    """
    flow = loaded(target)
    parameters = parse_parameters(param or ())
    if runner is not None:
        flow = flow.with_options(task_runner=runner)
    leave_with(lambda: flow(**parameters, return_state=True))


def loaded(target: str) -> Any:
    """The flow; an error of the file's own code is shown with its traceback, and ends the command."""
    try:
        return load_flow(target)
    except AnabranchError:
        raise
    except Exception as error:
        _print_traceback(error)
        raise typer.Exit(FAILED) from None


def _print_traceback(error: BaseException) -> None:
    """From the user's code on: what led there is ours, and the import system's."""
    trace = error.__traceback__
    while trace is not None and _is_ours(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    traceback.print_exception(type(error), error, trace, file=sys.stderr)


def _is_ours(filename: str) -> bool:
    ours = (__file__, load_flow.__code__.co_filename, importlib.__file__)
    return filename.startswith("<frozen importlib") or filename in ours


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
    raise typer.Exit(EXIT_CODES.get(state.type.value, FAILED))


async def _awaited(awaitable: Any) -> Any:
    return await awaitable
