"""`anabranch version`."""

from __future__ import annotations

import typer

from anabranch import __version__

app = typer.Typer(add_completion=False)


@app.command()
def version() -> None:
    """Print the version.

    Example: anabranch version
    """
    print(__version__)
