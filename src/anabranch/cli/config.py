"""`anabranch config`: each setting, its value, and where it comes from."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from anabranch.cli.output import console, plain_table, print_json, styled
from anabranch.settings import checked_settings, given_settings

MASK = "********"
_SECRET = re.compile("token|secret|password|key$")
_PASSWORD = re.compile(r"(://[^/@:]*:)[^@]*@")

app = typer.Typer(add_completion=False, no_args_is_help=True, help="See the settings.")


@app.callback()
def settings() -> None:
    """See the settings."""


@app.command()
def show(
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", min=1, help="At most so many.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """Show each setting, its value, and where it comes from.

    Example: anabranch config show --json
    """
    given = given_settings()
    found = [
        {
            "name": name,
            "value": shown_value(name, value),
            "source": given[name].source if name in given else "default",
        }
        for name, value in checked_settings(given)
    ][:limit]
    if json:
        print_json(found)
        return
    table = plain_table("SETTING", "VALUE", "FROM")
    for each in found:
        style = "dim" if each["source"] == "default" else ""
        value = "" if each["value"] is None else str(each["value"])
        table.add_row(styled(str(each["name"])), styled(value), styled(str(each["source"]), style))
    console().print(table)


def shown_value(name: str, value: Any) -> Any:
    """The value as JSON has it, secrets masked, also those within a URL."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if _SECRET.search(name):
        return MASK
    return _PASSWORD.sub(rf"\1{MASK}@", str(value))
