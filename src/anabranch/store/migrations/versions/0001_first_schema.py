"""The first schema."""

from alembic import op
from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Text,
    UniqueConstraint,
    text,
)

revision = "0001"
down_revision = None

Id = BigInteger().with_variant(Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "artifact",
        Column("id", Text, nullable=False),
        Column("key", Text),
        Column("type", Text, nullable=False),
        Column("description", Text),
        Column("data", Text, nullable=False),
        Column("root", Id),
        Column("flow_run", Id),
        Column("task_run", Id),
        Column("created", Float, nullable=False),
        Column("updated", Float, nullable=False),
        PrimaryKeyConstraint("id"),
    )
    op.create_index("artifact_key", "artifact", ["key"])
    op.create_index("artifact_root", "artifact", ["root"])
    op.create_table(
        "cached",
        Column("key", Text, nullable=False),
        Column("task_key", Text, nullable=False),
        Column("created", Float, nullable=False),
        Column("expires", Float),
        Column("form", Text, nullable=False),
        Column("result", LargeBinary),
        Column("size", Id),
        Column("preview", Text),
        Column("task_run", Text),
        Column("parts", Text),
        PrimaryKeyConstraint("key"),
    )
    op.create_index("cached_task_key", "cached", ["task_key"])
    op.create_table(
        "cache_lock",
        Column("key", Text, nullable=False),
        Column("session", Id, nullable=False),
        PrimaryKeyConstraint("key"),
    )
    op.create_index("cache_lock_session", "cache_lock", ["session"])
    op.create_table(
        "concurrency_limit",
        Column("name", Text, nullable=False),
        Column("slots", Integer, nullable=False),
        Column("slots_per_second", Float),
        Column("used", Float, nullable=False),
        Column("at", Float, nullable=False),
        PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "dependency",
        Column("task_run", Id, autoincrement=False, nullable=False),
        Column("upstream", Id, autoincrement=False, nullable=False),
        PrimaryKeyConstraint("task_run", "upstream"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "flow_run",
        Column("id", Id, autoincrement=False, nullable=False),
        Column("run_id", Text, nullable=False),
        Column("root", Id, nullable=False),
        Column("parent", Id),
        Column("parent_task_run", Text),
        Column("name", Text, nullable=False),
        Column("flow_name", Text, nullable=False),
        Column("flow_key", Text, nullable=False),
        Column("flow_source", LargeBinary),
        Column("entrypoint", Text),
        Column("runner", Text),
        Column("tags", Text, nullable=False),
        Column("inputs", LargeBinary),
        Column("parameters", LargeBinary),
        Column("parameters_preview", Text),
        Column("not_resumable", Text),
        Column("state_type", Text, nullable=False),
        Column("state_name", Text, nullable=False),
        Column("message", Text),
        Column("created", Float, nullable=False),
        Column("started", Float),
        Column("ended", Float),
        Column("attempt", Integer, nullable=False),
        Column("form", Text),
        Column("result", LargeBinary),
        Column("preview", Text),
        PrimaryKeyConstraint("id"),
        UniqueConstraint("run_id"),
    )
    op.create_index("flow_run_created", "flow_run", ["created"])
    op.create_index("flow_run_root", "flow_run", ["root"])
    op.create_table(
        "lease",
        Column("id", Id, nullable=False),
        Column("name", Text, nullable=False),
        Column("session", Id, nullable=False),
        Column("slots", Integer, nullable=False),
        Column("taken", Float, nullable=False),
        PrimaryKeyConstraint("id"),
    )
    op.create_index("lease_name", "lease", ["name"])
    op.create_index("lease_session", "lease", ["session"])
    op.create_table(
        "log",
        Column("id", Id, nullable=False),
        Column("root", Id),
        Column("flow_run", Id),
        Column("task_run", Id),
        Column("at", Float, nullable=False),
        Column("level", Integer, nullable=False),
        Column("logger", Text, nullable=False),
        Column("run_name", Text),
        Column("message", Text, nullable=False),
        PrimaryKeyConstraint("id"),
    )
    op.create_index("log_root", "log", ["root", "id"])
    op.create_table(
        "session",
        Column("id", Id, nullable=False),
        Column("prefix", Text, nullable=False),
        Column("root", Id),
        Column("host", Text, nullable=False),
        Column("boot", Text, nullable=False),
        Column("pid", Integer, nullable=False),
        Column("process_start", Text, nullable=False),
        Column("beat", Integer, nullable=False),
        Column("opened", Float, nullable=False),
        Column("closed", Float),
        PrimaryKeyConstraint("id"),
        UniqueConstraint("prefix"),
        sqlite_autoincrement=True,
    )
    op.create_index("session_root", "session", ["root"])
    unowned = text("closed IS NULL")
    op.create_index(
        "session_owner",
        "session",
        ["root"],
        unique=True,
        sqlite_where=unowned,
        postgresql_where=unowned,
    )
    op.create_table(
        "submission",
        Column("id", Id, autoincrement=False, nullable=False),
        Column("flow_run", Id),
        Column("parent", Id),
        Column("task", Id, nullable=False),
        Column("count", Integer, nullable=False),
        Column("first_index", Integer, nullable=False),
        Column("map_id", Text),
        Column("submitted", Float, nullable=False),
        PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "task",
        Column("id", Id, nullable=False),
        Column("key", Text, nullable=False),
        Column("name", Text, nullable=False),
        Column("source", LargeBinary, nullable=False),
        PrimaryKeyConstraint("id"),
    )
    op.create_index("task_identity", "task", ["key", "name", "source"], unique=True)
    op.create_table(
        "task_run",
        Column("id", Id, autoincrement=False, nullable=False),
        Column("flow_run", Id),
        Column("task", Id, nullable=False),
        Column("number", Integer, nullable=False),
        Column("phase", Integer, nullable=False),
        Column("attempt", Integer, nullable=False),
        Column("started", Float),
        Column("ended", Float),
        Column("inputs", LargeBinary),
        Column("form", Text),
        Column("result", LargeBinary),
        Column("name", Text),
        Column("state_name", Text),
        Column("message", Text),
        Column("parent", Id),
        Column("preview", Text),
        Column("submitted", Float),
        PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "transition",
        Column("id", Id, nullable=False),
        Column("flow_run", Id),
        Column("task_run", Id),
        Column("at", Float, nullable=False),
        Column("state_type", Text, nullable=False),
        Column("state_name", Text, nullable=False),
        Column("message", Text),
        Column("attempt", Integer, nullable=False),
        PrimaryKeyConstraint("id"),
    )
    op.create_index("transition_flow_run", "transition", ["flow_run"])
    op.create_index("transition_task_run", "transition", ["task_run"])
