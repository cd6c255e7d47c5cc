"""The command line: run flows, and look at what the store knows of runs."""

from __future__ import annotations


def main() -> None:
    """Run the command that the process was started with."""
    from anabranch.cli.app import app  # typer, 80 ms that an import of the package need not spend

    app()
