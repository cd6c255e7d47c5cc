"""Which schema a store has, and what is done about one that is not this release's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from anabranch.errors import CorruptStoreError, NewerStoreError, StoreError
from anabranch.store.database import Database

HEAD = "0001"
"""The newest revision of the schema, as the migrations number them."""

D = TypeVar("D", bound=Database)


def check_version(database: D, version: Callable[[], str]) -> D:
    """The same database once its schema is current, migrated if it is older.

    Raises `NewerStoreError` where this release does not know the schema.
    """
    try:
        found = version()
    except StoreError as error:
        if isinstance(error, CorruptStoreError) or "no such table" not in str(error):
            raise
        raise CorruptStoreError(database.url, "it has no version of its schema") from error
    if found > HEAD:
        raise NewerStoreError(database.url, found, HEAD)
    return database
