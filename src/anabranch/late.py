"""What loads when it is first used, and where it lives: the one table for our own rooms.

A run that needs none of these starts sooner. Libraries that load late are named in the functions
that need them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anabranch.lazy import lazy

if TYPE_CHECKING:
    from anabranch.cli.benchmark_suite import benchmark_suite as benchmark_suite
    from anabranch.cli.benchmark_suite import find_benchmarks as find_benchmarks
    from anabranch.cli.benchmark_suite import list_cases as list_cases
    from anabranch.engine.cache_desk import CacheDesk as CacheDesk
    from anabranch.engine.desk import EngineDesk as EngineDesk
    from anabranch.engine.slot_keeper import SlotKeeper as SlotKeeper
    from anabranch.engine.tag_gate import TagGate as TagGate
    from anabranch.explaining import explain as explain
    from anabranch.lent_transactions import LentBlocks as LentBlocks
    from anabranch.remote_transactions import RemoteAround as RemoteAround
    from anabranch.remote_transactions import RemoteBlock as RemoteBlock
    from anabranch.results.persistence import Persistence as Persistence
    from anabranch.results.persistence import find_persistent as find_persistent
    from anabranch.results.persistence import keep_persistent as keep_persistent
    from anabranch.results.storages import storage as storage
    from anabranch.resuming import ResumeContext as ResumeContext
    from anabranch.resuming import resume_run as resume_run
    from anabranch.serializers import serializer as serializer
    from anabranch.store.caches import StoreCaches as StoreCaches
    from anabranch.store.migrating import migrate as migrate
    from anabranch.store.postgres import PostgresDatabase as PostgresDatabase
    from anabranch.store.recalling import recorded_calls as recorded_calls
    from anabranch.store.slots import StoreSlots as StoreSlots
    from anabranch.store.slots import open_slots as open_slots
    from anabranch.task_runners.cluster_runner import cluster_at_work as cluster_at_work
    from anabranch.task_runners.dask_cluster import DaskCluster as DaskCluster
    from anabranch.task_runners.dask_connection import open_dask_client as open_dask_client
    from anabranch.task_runners.ray_cluster import RayCluster as RayCluster
    from anabranch.task_runners.ray_connection import connected_ray as connected_ray

_LATE = {
    "CacheDesk": "engine.cache_desk",
    "DaskCluster": "task_runners.dask_cluster",
    "EngineDesk": "engine.desk",
    "LentBlocks": "lent_transactions",
    "Persistence": "results.persistence",
    "PostgresDatabase": "store.postgres",
    "RayCluster": "task_runners.ray_cluster",
    "RemoteAround": "remote_transactions",
    "RemoteBlock": "remote_transactions",
    "ResumeContext": "resuming",
    "SlotKeeper": "engine.slot_keeper",
    "StoreCaches": "store.caches",
    "StoreSlots": "store.slots",
    "TagGate": "engine.tag_gate",
    "benchmark_suite": "cli.benchmark_suite",
    "cluster_at_work": "task_runners.cluster_runner",
    "connected_ray": "task_runners.ray_connection",
    "explain": "explaining",
    "find_benchmarks": "cli.benchmark_suite",
    "find_persistent": "results.persistence",
    "keep_persistent": "results.persistence",
    "list_cases": "cli.benchmark_suite",
    "migrate": "store.migrating",
    "open_dask_client": "task_runners.dask_connection",
    "open_slots": "store.slots",
    "recorded_calls": "store.recalling",
    "resume_run": "resuming",
    "serializer": "serializers",
    "storage": "results.storages",
}


__getattr__ = lazy(__name__, _LATE, globals(), "anabranch")
