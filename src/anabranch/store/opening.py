"""Which store the settings mean, opened."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from anabranch.errors import StoreError
from anabranch.settings import Settings
from anabranch.store.database import Database
from anabranch.store.sqlite import MEMORY, SqliteDatabase, open_sqlite

FILE_NAME: Final = "anabranch.db"
_SQLITE = "sqlite:///"


def store_url(settings: Settings) -> str:
    return settings.database_url or f"{_SQLITE}{settings.home.expanduser() / FILE_NAME}"


def open_store(settings: Settings) -> Database:
    """The store, made or migrated if need be. Raises `StoreError`."""
    url = store_url(settings)
    if url == MEMORY:
        return SqliteDatabase(None)
    if url.startswith(_SQLITE):
        return open_sqlite(Path(url.removeprefix(_SQLITE)).expanduser())
    raise StoreError(url, "its URL does not begin with sqlite:///")
