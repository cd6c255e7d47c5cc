"""What loads when it is first used, and where it lives: the one table for our own rooms.

A run that needs none of these starts sooner. Libraries that load late are named in the functions
that need them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anabranch.explaining import explain as explain
    from anabranch.results.persistence import Persistence as Persistence
    from anabranch.results.persistence import keep_persistent as keep_persistent
    from anabranch.results.storages import storage as storage
    from anabranch.resuming import ResumeContext as ResumeContext
    from anabranch.resuming import resume_run as resume_run
    from anabranch.serializers import serializer as serializer
    from anabranch.store.caches import StoreCaches as StoreCaches
    from anabranch.store.migrating import migrate as migrate
    from anabranch.store.postgres import PostgresDatabase as PostgresDatabase
    from anabranch.store.recalling import recorded_calls as recorded_calls

_LATE = {
    "Persistence": "results.persistence",
    "PostgresDatabase": "store.postgres",
    "ResumeContext": "resuming",
    "StoreCaches": "store.caches",
    "explain": "explaining",
    "keep_persistent": "results.persistence",
    "migrate": "store.migrating",
    "recorded_calls": "store.recalling",
    "resume_run": "resuming",
    "serializer": "serializers",
    "storage": "results.storages",
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"anabranch.{_LATE[name]}"), name)
    globals()[name] = value
    return value
