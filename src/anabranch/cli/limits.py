"""`anabranch limits`: named limits on how much runs at once, and how often."""

from __future__ import annotations

import json as json_text
from typing import Annotated

import typer

from anabranch import concurrency
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
        print(json_text.dumps([limit._asdict() for limit in found], indent=2))
        return
    if not found:
        print("There are no limits. Make one with: anabranch limits set NAME SLOTS")
        return
    rows = [("NAME", "IN USE", "SLOTS", "PER SECOND")]
    rows += [
        (
            limit.name,
            f"{limit.in_use:g}",
            str(limit.slots),
            "" if limit.slots_per_second is None else f"{limit.slots_per_second:g}",
        )
        for limit in found
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *counts in rows:
        cells = [cell.rjust(width) for cell, width in zip(counts, widths[1:], strict=True)]
        print("  ".join([name.ljust(widths[0]), *cells]).rstrip())


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
