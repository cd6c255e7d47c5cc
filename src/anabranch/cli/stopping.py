"""`anabranch runs cancel`: ask the process of a run to end it."""

from __future__ import annotations

import os
import signal
import time
from typing import Annotated

import typer

from anabranch.cli.output import CANCELLED, COMPLETED, FAILED, note
from anabranch.cli.stores import opened_store
from anabranch.settings import load_settings
from anabranch.store.burial import bury_the_dead
from anabranch.store.database import Database
from anabranch.store.queries import FlowRunRow, find_flow_run
from anabranch.store.sessions import Watch

LOOK_SECONDS = 0.1
SPARE_SECONDS = 10.0
"""How long after its grace period a run gets to record its end."""


def cancel(
    run: Annotated[str, typer.Argument(metavar="ID", help="An id, its start, or a name.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """End a running run; it can be resumed later.

    Its process gets SIGTERM, and has to be on this host.

    Example: anabranch runs cancel quiet-heron
    """
    with opened_store() as store:
        found = find_flow_run(store.database, run)
        if found.ended is not None:
            note(f"{found.name} has ended already: {found.state_name}.")
            return
        owner = next((each for each in store.sessions.alive if each.root == found.root), None)
        if owner is None:
            host = store.unseen_host(found.root)
            where = f"is on {host}: cancel it from there" if host else "cannot be found"
            note(f"{found.name} cannot be cancelled from here: its process {where}.")
            raise typer.Exit(FAILED)
        others = [
            each
            for each in store.sessions.alive
            if each.process == owner.process and each.root != found.root
        ]
        if (others or not found.is_root) and not yes:
            typer.confirm(
                f"Process {owner.pid} runs other flows too, which end with it. Go on?", abort=True
            )
        os.kill(owner.pid, signal.SIGTERM)
        note(f"Asked process {owner.pid} to end {found.name}.")
        _tell_end(_wait_for_end(store.database, found))


def _wait_for_end(database: Database, run: FlowRunRow) -> FlowRunRow:
    until = time.monotonic() + load_settings().cancel_grace + SPARE_SECONDS
    while time.monotonic() < until:
        bury_the_dead(database, Watch(), time.time())
        run = find_flow_run(database, run.id)
        if run.ended is not None:
            break
        time.sleep(LOOK_SECONDS)
    return run


def _tell_end(run: FlowRunRow) -> None:
    if run.state == "CANCELLED":
        print(f"{run.name} is Cancelled. `anabranch runs resume {run.short_id}` goes on with it.")
        raise typer.Exit(COMPLETED)
    if run.ended is None:
        note(f"{run.name} has not ended yet: {run.state_name}.")
        raise typer.Exit(FAILED)
    print(f"{run.name} is {run.state_name}.")
    raise typer.Exit(COMPLETED if run.state == "COMPLETED" else CANCELLED)
