"""Results: how the values of tasks are kept, signed, shown, and had back.

A run that keeps its values inline needs a third of these rooms; each loads when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anabranch.lazy import lazy
from anabranch.outcomes import Kept as Kept

if TYPE_CHECKING:
    from anabranch.results.kept import keep_inline as keep_inline
    from anabranch.results.persistence import Persistence as Persistence
    from anabranch.results.persistence import keep_persistent as keep_persistent
    from anabranch.results.persistence import recover as recover
    from anabranch.results.previews import preview as preview
    from anabranch.results.result_store import ResultRecord as ResultRecord
    from anabranch.results.result_store import ResultRecordMetadata as ResultRecordMetadata
    from anabranch.results.result_store import ResultStore as ResultStore
    from anabranch.results.signing import load_secret as load_secret
    from anabranch.results.signing import sign as sign
    from anabranch.results.signing import verify as verify
    from anabranch.results.storages import FsspecStorage as FsspecStorage
    from anabranch.results.storages import LocalStorage as LocalStorage
    from anabranch.results.storages import Storage as Storage
    from anabranch.results.storages import storage as storage

_LAZY = {
    "keep_inline": "kept",
    "Persistence": "persistence",
    "keep_persistent": "persistence",
    "recover": "persistence",
    "preview": "previews",
    "ResultRecord": "result_store",
    "ResultRecordMetadata": "result_store",
    "ResultStore": "result_store",
    "load_secret": "signing",
    "sign": "signing",
    "verify": "signing",
    "FsspecStorage": "storages",
    "LocalStorage": "storages",
    "Storage": "storages",
    "storage": "storages",
}


__getattr__ = lazy(__name__, _LAZY, globals())
