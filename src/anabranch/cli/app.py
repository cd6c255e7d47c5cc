"""The commands put together, and what their errors look like."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from anabranch.cli import cache, config, doctor, run, runs
from anabranch.cli.output import exit_code, print_error
from anabranch.errors import AnabranchError


class Commands(TyperGroup):
    """Errors of ours end a command with a paragraph and a code, without a traceback."""

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
    help="Run flows, and look at their runs.",
)
app.command("run")(run.run)
app.add_typer(runs.app, name="runs")
app.add_typer(cache.app, name="cache")
app.add_typer(config.app, name="config")
app.command("doctor")(doctor.doctor)


@app.command()
def version() -> None:
    """Print the version."""
    from anabranch import __version__

    print(__version__)
