"""Which schema a store has, and whether this release knows it."""

from __future__ import annotations

from anabranch.errors import NewerStoreError, NotAStoreError

HEAD = "0001"
"""The newest revision of the schema, as the migrations number them."""


def is_current(url: str, found: str) -> bool:
    """Whether a schema is this release's; False where it is older.

    Raises `NewerStoreError` where it is newer, `NotAStoreError` where another program numbered it.
    """
    if len(found) != len(HEAD) or not found.isdecimal():
        raise NotAStoreError(url, f"its schema {found!r} is another program's")
    if found > HEAD:
        raise NewerStoreError(url, found, HEAD)
    return found == HEAD
