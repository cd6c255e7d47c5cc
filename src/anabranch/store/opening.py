"""Which database the store is in."""

from __future__ import annotations

from pathlib import Path

from anabranch.store.database import Database
from anabranch.store.sqlite import SqliteDatabase, open_sqlite

NAME = "anabranch.db"


def store_url(url: str | None, home: Path) -> str:
    """Where the store is, for people; `url` is the setting."""
    return url or f"sqlite:///{home / NAME}"


def open_store(url: str | None, home: Path, durable: bool = False) -> Database:
    if url == "sqlite:///:memory:":
        return SqliteDatabase(None)
    if url is not None and url.startswith("sqlite:///"):
        return open_sqlite(Path(url.removeprefix("sqlite:///")), durable)
    return open_sqlite(home / NAME, durable)
