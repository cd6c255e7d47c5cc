"""`anabranch runs`: list runs, look at one, read its logs, resume, cancel and remove."""

from __future__ import annotations

import logging
import time
from typing import Annotated

import typer

from anabranch.cli.output import (
    clock_time,
    console,
    count_of,
    iso,
    note,
    print_json,
    print_json_line,
    run_json,
    runs_table,
    shown,
    styled,
)
from anabranch.cli.resuming import resume
from anabranch.cli.run_report import report, report_json
from anabranch.cli.run_view import draw
from anabranch.cli.stopping import cancel
from anabranch.cli.stores import OpenStore, opened_store
from anabranch.durations import parse_duration
from anabranch.store.burial import bury_the_dead
from anabranch.store.database import Database
from anabranch.store.log_queries import LogRow, logs
from anabranch.store.queries import FlowRunRow, find_flow_run, flow_runs
from anabranch.store.retention import removable_runs, remove_runs
from anabranch.store.sessions import Watch

FOLLOW_SECONDS = 0.5
"""Between two looks for new lines."""
LINES_AT_ONCE = 1000

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="List runs, look at one, resume or remove it."
)
app.command("resume")(resume)
app.command("cancel")(cancel)

Id = Annotated[str, typer.Argument(metavar="ID", help="An id, the start of one, or a name.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


@app.command("ls")
def list_runs(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 20,
    state: Annotated[str | None, typer.Option(help="Such as running or failed.")] = None,
    flow: Annotated[str | None, typer.Option(help="Of this flow, by its name.")] = None,
    since: Annotated[str | None, typer.Option(help="No older than, such as 12h or 7d.")] = None,
    subflows: Annotated[bool, typer.Option("--subflows", help="Those of subflows too.")] = False,
    json: Json = False,
) -> None:
    """List runs, the newest first.

    Example: anabranch runs ls --state failed --since 1d
    """
    age = None if since is None else parse_duration(since)
    with opened_store() as store:
        found = flow_runs(
            store.database,
            limit=limit,
            state=state,
            flow=flow,
            since=None if age is None else store.now - age,
            roots_only=not subflows,
        )
        if json:
            print_json([run_json(run) for run in found])
            return
        if not found:
            note(
                "No runs."
                if state or flow or since
                else "No runs yet. Start one: anabranch run FILE"
            )
            return
        out = console()
        out.print(runs_table(found, store.now, out.width))
        for run in found:
            tell_unseen(store, run)
        if len(found) == limit:
            note(f"The newest {limit}; --limit shows more.")


def tell_unseen(store: OpenStore, run: FlowRunRow) -> None:
    host = store.unseen_host(run.root)
    if host is not None:
        note(f"{run.name}: its process is on {host} and cannot be seen from here.")


@app.command()
def show(
    run: Id,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Lines of each section.")] = 10,
    json: Json = False,
) -> None:
    """Draw a run: when its tasks ran, what waits and why, what failed.

    Example: anabranch runs show quiet-heron
    """
    with opened_store() as store:
        found = find_flow_run(store.database, run)
        out = console()
        width = min(out.width, 120)
        about = report(store.database, found, store.now, limit)
        if json:
            print_json(report_json(about))
            return
        for part in draw(about, width):
            out.print(part, no_wrap=True, overflow="ellipsis")
        tell_unseen(store, found)


@app.command("logs")
def show_logs(
    run: Id,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what is written, until it ends.")
    ] = False,
    level: Annotated[str, typer.Option(help="This level and above.")] = "NOTSET",
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", min=1, help="Only the last so many.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="A line of JSON for each.")] = False,
) -> None:
    """Print the log lines of a run and all below it.

    Example: anabranch runs logs quiet-heron -f --level warning
    """
    least = _level(level)
    with opened_store() as store:
        found = find_flow_run(store.database, run)
        only = None if found.is_root else found.row
        printer = LinePrinter(json)
        newest = limit is not None
        while True:
            ended = not follow or _has_ended(store.database, found)
            while True:
                lines = logs(
                    store.database,
                    found.root,
                    after_id=printer.last,
                    min_level=least,
                    limit=limit if newest and limit is not None else LINES_AT_ONCE,
                    flow_run=only,
                    newest=newest,
                )
                printer.print(lines)
                if newest or len(lines) < LINES_AT_ONCE:
                    break
            newest = False
            if ended:
                return
            time.sleep(FOLLOW_SECONDS)


def _level(text: str) -> int:
    levels = logging.getLevelNamesMapping()
    found = levels.get(text.upper())
    if found is None:
        known = ", ".join(name.lower() for name in ("DEBUG", "INFO", "WARNING", "ERROR"))
        raise typer.BadParameter(f"{text!r} is no level; known: {known}", param_hint="--level")
    return found


def _has_ended(database: Database, run: FlowRunRow) -> bool:
    """Whether no more lines follow: seen before they are read, since the last come with the end."""
    bury_the_dead(database, Watch(), time.time())
    return find_flow_run(database, run.id).ended is not None


class LinePrinter:
    """Prints log lines, and knows the last one."""

    def __init__(self, json: bool) -> None:
        self.last = 0
        self._json = json
        self._console = console()

    def print(self, lines: list[LogRow]) -> None:
        for line in lines:
            self.last = line.id
            name = logging.getLevelName(line.level)
            if self._json:
                print_json_line(
                    {
                        "at": iso(line.at),
                        "level": name,
                        "run": line.run_name,
                        "logger": line.logger,
                        "message": line.message,
                    }
                )
                continue
            style = "red" if line.level >= logging.ERROR else ""
            style = style or ("yellow" if line.level >= logging.WARNING else "")
            told = f"{clock_time(line.at)} {name:<7} {shown(line.message)}"
            self._console.print(styled(told, style), soft_wrap=True)


@app.command("rm")
def remove(
    runs: Annotated[list[str] | None, typer.Argument(metavar="[ID]...")] = None,
    older_than: Annotated[
        str | None, typer.Option(help="All that ended longer ago than this, such as 30d.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove runs that have ended, with their logs and artifacts.

    Example: anabranch runs rm --older-than 30d
    """
    if bool(runs) == (older_than is not None):
        raise typer.BadParameter("give either ids or --older-than", param_hint="ID")
    age = None if older_than is None else parse_duration(older_than)
    with opened_store() as store:
        database = store.database
        found = [find_flow_run(database, each) for each in runs or ()]
        for run in found:
            if not run.is_root:
                problem = f"{run.name} is a subflow, which goes with the run that it is part of"
                raise typer.BadParameter(problem, param_hint="ID")
        ids = [run.id for run in found]
        doomed = removable_runs(database, older_than_seconds=age, ids=ids, now=store.now)
        if doomed and not yes:
            typer.confirm(f"Remove {count_of(len(doomed), 'run')}?", abort=True)
        removed = remove_runs(database, older_than_seconds=age, ids=ids, now=store.now)
        typer.echo(
            f"Removed {count_of(len(doomed), 'run')}, with "
            f"{count_of(removed.task_runs, 'task run')} and {count_of(removed.logs, 'log line')}."
        )
        for run in found:
            if run.id in removed.kept:
                note(f"{run.name} has not ended, or its process still owns it: it stays.")
        if removed.kept:
            raise typer.Exit(1)
