"""Opens the store that the settings name."""

from __future__ import annotations

from pathlib import Path

from anabranch import late
from anabranch.errors import StoreUrlError
from anabranch.store.database import Database, shown_url
from anabranch.store.sqlite import SqliteDatabase, open_sqlite

FILE = "anabranch.db"
POSTGRES = frozenset({"postgresql", "postgres", "postgresql+psycopg"})


def store_url(url: str | None, home: Path) -> str:
    """Where the store is, for people; `url` is the setting."""
    return shown_url(url) if url else f"sqlite:///{home / FILE}"


def open_store(url: str | None, home: Path, durable: bool = False) -> Database:
    """The store at a URL, or the file `anabranch.db` in `home` where there is none; made or migrated
    if need be. `durable` waits for the disk at each commit.

    Raises `StoreUrlError` for a URL of another kind, and other `StoreError`s for a store that cannot
    be used.
    """
    if url is None:
        return open_sqlite(home / FILE, durable)
    scheme, _, rest = url.partition("://")
    if scheme in POSTGRES:
        return late.PostgresDatabase(f"postgresql://{rest}", durable)
    if scheme != "sqlite":
        raise StoreUrlError(shown_url(url), "it begins with no kind of store")
    if not rest.startswith("/"):
        raise StoreUrlError(shown_url(url), "SQLite has no host, so that a third slash is missing")
    path = rest[1:]
    if path == ":memory:":
        return SqliteDatabase(None, durable)
    if not path or "?" in path:
        problem = "SQLite takes no options here" if path else "it names no file"
        raise StoreUrlError(shown_url(url), problem)
    return open_sqlite(Path(path), durable)
