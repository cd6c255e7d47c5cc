"""`anabranch limits`: named limits on how much runs at once, and how often."""

from __future__ import annotations

from typing import Annotated

import typer

from anabranch import concurrency
from anabranch.cli.output import console, note, plain_table, print_json, styled
from anabranch.errors import UnknownLimitError

app = typer.Typer(no_args_is_help=True, help="See and set limits on how much runs at once.")


@app.command("ls")
def list_limits(
    json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """List the limits, and how many of their slots are in use.

    Example: anabranch limits ls
    """
    found = concurrency.limits()
    if json:
        print_json([limit._asdict() for limit in found])
        return
    if not found:
        note("There are no limits. Make one with: anabranch limits set NAME SLOTS")
        return
    table = plain_table("NAME", "IN USE", "SLOTS", "PER SECOND")
    for limit in found:
        rate = "" if limit.slots_per_second is None else f"{limit.slots_per_second:g}"
        table.add_row(styled(limit.name), f"{limit.in_use:g}", str(limit.slots), rate)
    console().print(table)


@app.command("set")
def set_limit(
    name: Annotated[str, typer.Argument(help="Of the limit; tag:NAME for tasks with a tag.")],
    slots: Annotated[int, typer.Argument(min=0, help="How many at once.")],
    per_second: Annotated[
        float | None,
        typer.Option("--per-second", help="For rate_limit: how many slots come back in a second."),
    ] = None,
) -> None:
    """Make a limit, or change it.

    Example: anabranch limits set database 10
    """
    concurrency.set_limit(name, slots, per_second)
    rate = "" if per_second is None else f", {per_second:g} of them back in a second"
    print(f"Limit {name} has {slots} slots{rate}.")


@app.command("rm")
def remove_limit(
    name: Annotated[str, typer.Argument(help="Of the limit.")],
) -> None:
    """Remove a limit.

    Example: anabranch limits rm database
    """
    if not concurrency.remove_limit(name):
        raise UnknownLimitError(name)
    print(f"Removed limit {name}.")
