"""The tables of the store: the source that `schema.sql` and the migrations are checked against.

Only migrations and tests import this: a run makes a fresh store from `schema.sql`, and speaks to the
database's driver.

Ids of runs are integers: the session that made the run, shifted by 32 bits, and the run's number in
it. So the runs of a session stand side by side in the table, and need no index to be found.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    text,
)

metadata = MetaData()

Id = BigInteger().with_variant(Integer, "sqlite")

session = Table(
    "session",
    metadata,
    Column("id", Id, primary_key=True),  # grows: the fencing epoch of what it owns
    Column("prefix", Text, nullable=False, unique=True),  # of its runs' ids, 20 hex digits
    Column("root", Id),  # the flow run that it owns, once there is one
    Column("host", Text, nullable=False),
    Column("boot", Text, nullable=False),  # which start of the host
    Column("pid", Integer, nullable=False),
    Column("process_start", Text, nullable=False),  # tells processes of one pid apart
    Column("beat", Integer, nullable=False),  # counts up while it lives
    Column("opened", Float, nullable=False),
    Column("closed", Float),  # when it ended, or lost what it owned
    Index("session_root", "root"),
    Index(  # a run has one owner
        "session_owner",
        "root",
        unique=True,
        sqlite_where=text("closed IS NULL"),
        postgresql_where=text("closed IS NULL"),
    ),
    sqlite_autoincrement=True,
)

flow_run = Table(
    "flow_run",
    metadata,
    Column("id", Id, primary_key=True, autoincrement=False),
    Column("run_id", Text, nullable=False, unique=True),
    Column("root", Id, nullable=False),
    Column("parent", Id),
    Column("parent_task_run", Text),
    Column("name", Text, nullable=False),
    Column("flow_name", Text, nullable=False),
    Column("flow_key", Text, nullable=False),
    Column("flow_source", LargeBinary),
    Column("entrypoint", Text),
    Column("runner", Text),
    Column("tags", Text, nullable=False),  # JSON
    Column("inputs", LargeBinary),
    Column("parameters", LargeBinary),  # pickled and signed
    Column("parameters_preview", Text),  # JSON
    Column("not_resumable", Text),  # why
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
    Index("flow_run_created", "created"),
    Index("flow_run_root", "root"),
)

task = Table(
    "task",
    metadata,
    Column("id", Id, primary_key=True),
    Column("key", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("source", LargeBinary, nullable=False),
    Index("task_identity", "key", "name", "source", unique=True),
)

submission = Table(
    "submission",
    metadata,
    Column("id", Id, primary_key=True, autoincrement=False),  # that of its first task run
    Column("flow_run", Id),
    Column("parent", Id),
    Column("task", Id, nullable=False),
    Column("count", Integer, nullable=False),
    Column("first_index", Integer, nullable=False),
    Column("map_id", Text),
    Column("submitted", Float, nullable=False),
)

task_run = Table(
    "task_run",
    metadata,
    Column("id", Id, primary_key=True, autoincrement=False),
    Column("flow_run", Id),
    Column("task", Id, nullable=False),
    Column("number", Integer, nullable=False),  # which of the task's runs, for its name
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
)

dependency = Table(
    "dependency",
    metadata,
    Column("task_run", Id, primary_key=True, autoincrement=False),
    Column("upstream", Id, primary_key=True, autoincrement=False),
    sqlite_with_rowid=False,
)

transition = Table(
    "transition",
    metadata,
    Column("id", Id, primary_key=True),
    Column("flow_run", Id),
    Column("task_run", Id),
    Column("at", Float, nullable=False),
    Column("state_type", Text, nullable=False),
    Column("state_name", Text, nullable=False),
    Column("message", Text),
    Column("attempt", Integer, nullable=False),
    Index("transition_flow_run", "flow_run"),
    Index("transition_task_run", "task_run"),
)

log = Table(
    "log",
    metadata,
    Column("id", Id, primary_key=True),
    Column("root", Id),
    Column("flow_run", Id),
    Column("task_run", Id),
    Column("at", Float, nullable=False),
    Column("level", Integer, nullable=False),
    Column("logger", Text, nullable=False),
    Column("run_name", Text),
    Column("message", Text, nullable=False),
    Index("log_root", "root", "id"),
)

artifact = Table(
    "artifact",
    metadata,
    Column("id", Text, primary_key=True),
    Column("key", Text),
    Column("type", Text, nullable=False),
    Column("description", Text),
    Column("data", Text, nullable=False),  # JSON
    Column("root", Id),
    Column("flow_run", Id),
    Column("task_run", Id),
    Column("created", Float, nullable=False),
    Column("updated", Float, nullable=False),
    Index("artifact_key", "key"),
    Index("artifact_root", "root"),
)

cached = Table(
    "cached",
    metadata,
    Column("key", Text, primary_key=True),
    Column("task_key", Text, nullable=False),
    Column("created", Float, nullable=False),
    Column("expires", Float),
    Column("form", Text, nullable=False),
    Column("result", LargeBinary),
    Column("size", Id),  # bytes
    Column("preview", Text),
    Column("task_run", Text),  # the id of the run that computed it
    Column("parts", Text),  # JSON: what the key is made of
    Index("cached_task_key", "task_key"),
)

cache_lock = Table(
    "cache_lock",
    metadata,
    Column("key", Text, primary_key=True),
    Column("session", Id, nullable=False),
    Index("cache_lock_session", "session"),
)

lease = Table(
    "lease",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", Text, nullable=False),
    Column("session", Id, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("taken", Float, nullable=False),
    Index("lease_name", "name"),
    Index("lease_session", "session"),
)

concurrency_limit = Table(
    "concurrency_limit",
    metadata,
    Column("name", Text, primary_key=True),
    Column("slots", Integer, nullable=False),
    Column("slots_per_second", Float),  # how fast taken ones come back by themselves
    Column("used", Float, nullable=False),  # of those, at `at`
    Column("at", Float, nullable=False),
)
