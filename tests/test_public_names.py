"""The names at the top of the package: users build on them, so this list changes on purpose only."""

from imports import loads_none_of

import anabranch

NAMES = [
    *("AnabranchError", "CancelledRun", "CrashedRun", "FailedRun", "Flow", "FutureList"),
    *("FutureStream", "State"),
    *("Task", "TaskFuture", "UpstreamTaskError", "allow_failure", "as_completed", "concurrency"),
    *("create_image_artifact", "create_link_artifact", "create_markdown_artifact"),
    *("create_progress_artifact", "create_table_artifact", "exponential_backoff", "flow"),
    *("get_run_logger", "opaque", "quote", "rate_limit", "runtime", "tags", "task", "transaction"),
    *("unmapped", "update_progress_artifact", "wait"),
]


def test_the_names_at_the_top() -> None:
    assert sorted(anabranch.__all__) == sorted(NAMES)
    for name in NAMES:
        assert getattr(anabranch, name) is not None


def test_a_sync_flow_loads_nothing_heavy() -> None:
    hello = "from anabranch import flow\n@flow\ndef hello(): return 1\nhello()"
    heavy = ("asyncio", "rich", "pydantic_settings", "dask", "ray", "sqlalchemy", "alembic")
    loads_none_of(hello, *heavy)
