"""`anabranch cache`: what is cached, and clearing it."""

from __future__ import annotations

from typing import Annotated

import typer

from anabranch.cli.loading import load_task, parse_parameters
from anabranch.cli.output import (
    clock_time,
    console,
    count_of,
    iso,
    note,
    one_line,
    plain_table,
    print_json,
    shown,
    styled,
)
from anabranch.cli.run import Parameters, loaded
from anabranch.cli.stores import opened_store
from anabranch.results.previews import size_text
from anabranch.store.cache_queries import cached, clear_cache

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="See what is cached, and clear it."
)


@app.command("ls")
def list_cached(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 20,
    task: Annotated[str | None, typer.Option(help="Of this task, by its key.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """List cached results, the newest first.

    Example: anabranch cache ls --limit 50
    """
    with opened_store() as store:
        found = cached(store.database, limit=limit, task_key=task)
        if json:
            print_json(
                [
                    {
                        "key": each.key,
                        "task": each.task_key,
                        "created": iso(each.created),
                        "expires": iso(each.expires),
                        "size": each.size,
                        "preview": each.preview,
                        "task_run": each.task_run,
                    }
                    for each in found
                ]
            )
            return
        if not found:
            note("Nothing is cached.")
            return
        table = plain_table("KEY", "TASK", "CREATED", "EXPIRES", "SIZE", "VALUE")
        for each in found:
            expired = each.expires is not None and each.expires <= store.now
            table.add_row(
                styled(one_line(each.key)[:16]),
                styled(one_line(each.task_key)),
                clock_time(each.created, store.now),
                "expired" if expired else clock_time(each.expires, store.now) or "never",
                "" if each.size is None else size_text(each.size),
                styled(one_line(each.preview), "dim"),
            )
        console().print(table)


@app.command()
def explain(
    target: Annotated[str, typer.Argument(metavar="FILE:TASK", help="Or module:task.")],
    param: Parameters = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """Say whether a call would find its result, under which key, and why not; runs nothing.

    Example: anabranch cache explain census.py:parse -p path=a.py
    """
    task = loaded(load_task, target)
    explained = task.explain_cache(**parse_parameters(param or ()))
    if json:
        print_json({**explained._asdict(), "parts": dict(explained.parts)})
        return
    print(shown(str(explained)))


@app.command()
def clear(
    keys: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY]...", help="Or their starts.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of it.")] = False,
    expired: Annotated[bool, typer.Option("--expired", help="What has expired.")] = False,
) -> None:
    """Forget cached results, so that their tasks run again.

    Example: anabranch cache clear --expired
    """
    if bool(keys) + everything + expired != 1:
        raise typer.BadParameter("give keys, or --all, or --expired", param_hint="KEY")
    with opened_store() as store:
        count = clear_cache(
            store.database, keys=keys or (), expired_at=store.now if expired else None
        )
    print(f"Forgot {count_of(count, 'cached result')}.")
    if keys and not count:
        raise typer.Exit(1)
