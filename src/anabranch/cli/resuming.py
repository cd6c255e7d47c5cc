"""`anabranch runs resume`: go on with a run that did not complete."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from anabranch.cli.loading import load_flow, parse_parameters
from anabranch.cli.run import Parameters, Runner, leave_with, loaded
from anabranch.cli.stores import opened_store
from anabranch.errors import AlreadyCompletedError, FlowFileError
from anabranch.store.queries import find_flow_run


def resume(
    run: Annotated[str, typer.Argument(metavar="ID", help="An id, its start, or a name.")],
    entrypoint: Annotated[
        str | None, typer.Option(metavar="FILE:FLOW", help="Where its flow is now.")
    ] = None,
    param: Parameters = None,
    runner: Runner = None,
) -> None:
    """Go on with a run that failed, crashed or was cancelled; what it completed stays.

    Example: anabranch runs resume quiet-heron

    Exits as `anabranch run` does.
    """
    with opened_store() as store:
        found = find_flow_run(store.database, run)
    if found.state == "COMPLETED":
        raise AlreadyCompletedError(found.name)
    place = entrypoint or found.entrypoint
    if place is None:
        problem = "it is not recorded where its flow is. Say so with --entrypoint FILE:FLOW."
        raise FlowFileError(found.name, problem)
    try:
        flow: Any = loaded(load_flow, place)
    except FlowFileError as error:
        if entrypoint is not None:
            raise
        problem = f"its flow is not where it was: {error} Say where with --entrypoint FILE:FLOW."
        raise FlowFileError(found.name, problem) from None
    if runner is not None:
        flow = flow.with_options(task_runner=runner)
    parameters = parse_parameters(param or ())
    leave_with(lambda: flow.resume(found.id, return_state=True, parameters=parameters))
