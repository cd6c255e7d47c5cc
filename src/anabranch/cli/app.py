"""The commands put together, each loaded when it is asked for, and what their errors look like."""

from __future__ import annotations

import importlib
from typing import Any, Final

import typer
from typer.core import TyperGroup

from anabranch.cli.output import exit_code, print_error
from anabranch.errors import AnabranchError

COMMANDS: Final = ("run", "runs", "bench", "limits", "cache", "config", "doctor", "version")
"""Each is the `app` of the module of its name."""


class Commands(TyperGroup):
    """Errors of ours end a command with a paragraph and a code, without a traceback."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        command = typer.main.get_command(importlib.import_module(f"anabranch.cli.{cmd_name}").app)
        command.name = cmd_name
        return command

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except AnabranchError as error:
            print_error(error)
            raise typer.Exit(exit_code(error)) from None


app = typer.Typer(
    name="anabranch",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def anabranch() -> None:
    """Run flows, and look at their runs.

    Example: anabranch run census.py, then anabranch runs ls
    """
