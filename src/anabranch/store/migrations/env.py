"""Alembic runs this for each migration: on the connection, and in the transaction, of `migrating`."""

from typing import Any

from alembic import context

from anabranch.failpoints import MID_MIGRATION, failpoint
from anabranch.store.schema import metadata


def pass_failpoint(*_: Any, **__: Any) -> None:
    failpoint(MID_MIGRATION)


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite changes a table by making it anew
    on_version_apply=pass_failpoint,
)
context.run_migrations()
