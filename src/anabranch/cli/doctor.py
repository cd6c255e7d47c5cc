"""`anabranch doctor`: whether all is well with the store and what is installed, and the way out."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import time
from collections.abc import Generator
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import typer

from anabranch import __version__
from anabranch.cli.config import shown_value
from anabranch.cli.output import console, count_of, plain_table, print_json, shown, styled
from anabranch.errors import AnabranchError
from anabranch.results.previews import size_text
from anabranch.settings import Settings, load_settings
from anabranch.store.burial import bury_the_dead
from anabranch.store.database import Database
from anabranch.store.opening import open_store, store_url
from anabranch.store.sessions import Watch
from anabranch.store.sqlite import SqliteDatabase, is_networked

FREE_WANTED: Final = 500_000_000
"""Bytes below which a disk is told to be nearly full."""
EXTRAS: Final = ("dask", "distributed", "ray", "psycopg", "sqlalchemy", "fsspec", "s3fs")

app = typer.Typer(add_completion=False)


class Finding(NamedTuple):
    """What was found; a `problem` says the way out."""

    name: str
    value: str
    problem: str | None = None


@app.command()
def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """Check the store, the disk and what is installed; exits with 1 if there is a problem.

    Example: anabranch doctor
    """
    findings = list(examine())
    problems = [each for each in findings if each.problem is not None]
    if json:
        print_json([each._asdict() for each in findings])
    else:
        out = console()
        table = plain_table("CHECK", "FOUND")
        for each in findings:
            table.add_row(each.name, styled(each.value, "red" if each.problem else ""))
        out.print(table)
        for each in problems:
            out.print(f"{each.name}: {shown(each.problem or '')}", style="red")
        out.print("" if problems else "All is well.", style="green", end="" if problems else "\n")
    if problems:
        raise typer.Exit(1)


def examine() -> Generator[Finding]:
    """All findings, in the order in which they are read."""
    yield Finding("anabranch", __version__)
    yield Finding("Python", f"{platform.python_version()} on {platform.system()}")
    installed = {name: version_of(name) for name in EXTRAS}
    told = [f"{name} {version}" for name, version in installed.items() if version]
    yield Finding("extras", ", ".join(told) or "none")
    try:
        settings = load_settings()
    except AnabranchError as error:
        yield Finding("settings", "wrong", str(error))
        return
    yield Finding(
        "store", str(shown_value("database_url", store_url(settings.database_url, settings.home)))
    )
    try:
        database = open_store(settings.database_url, settings.home)
    except AnabranchError as error:
        yield Finding("open", "no", str(error))
        return
    try:
        yield from _store(database)
    finally:
        database.close()
    yield from _disk(settings, database)


def version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _store(database: Database) -> Generator[Finding]:
    try:
        yield Finding("schema", database.read("SELECT version_num FROM alembic_version")[0][0])
        yield Finding("size", size_text(database.size()))
        yield from _integrity(database)
        with database.transaction() as transaction:  # changes nothing, and takes the lock to write
            transaction.changed("UPDATE alembic_version SET version_num = version_num WHERE 1 = 0")
        yield Finding("writable", "yes")
        found = bury_the_dead(database, Watch(), time.time())
        if found.buried:
            yield Finding("sessions buried", f"{len(found.buried)}, whose processes had died")
        unseen = f", {len(found.unseen)} on other hosts" if found.unseen else ""
        yield Finding("sessions", f"{len(found.alive)} alive{unseen}")
        yield Finding("runs", _runs(database))
    except AnabranchError as error:
        yield Finding("use", "no", str(error))


def _integrity(database: Database) -> Generator[Finding]:
    """SQLite looks through its own file; it takes about a second for a gigabyte."""
    if not isinstance(database, SqliteDatabase):
        return
    found = database.read("PRAGMA quick_check(1)")[0][0]
    way_out = f"SQLite finds it damaged: {found}. Move the file away; a new one is made."
    yield Finding("file", found, None if found == "ok" else way_out)


def _runs(database: Database) -> str:
    counts = database.read(
        "SELECT state_type, count(*) FROM flow_run WHERE id = root GROUP BY state_type ORDER BY 1"
    )
    total = sum(count for _, count in counts)
    told = ", ".join(f"{count:,} {state.lower()}" for state, count in counts)
    return count_of(total, "run") + (f": {told}" if told else "")


def _disk(settings: Settings, database: Database) -> Generator[Finding]:
    if not isinstance(database, SqliteDatabase) or database.path is None:
        return
    path: Path = database.path
    networked = is_networked(path)
    way_out = (
        "SQLite cannot be shared between hosts there. Set ANABRANCH_HOME to a folder on a disk of "
        "this host, or ANABRANCH_DATABASE_URL to a PostgreSQL server."
    )
    yield Finding(
        "file system", "network" if networked else "local", way_out if networked else None
    )
    free = shutil.disk_usage(path.parent).free
    full = f"Make room on the disk of {settings.home}, or set ANABRANCH_HOME to another."
    yield Finding("free space", size_text(free), full if free < FREE_WANTED else None)
