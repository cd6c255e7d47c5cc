"""Results that a task or flow asks to be kept, whatever their size; and any kept one had back."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from anabranch.errors import ResultNotKeptError, StorageKeyTemplateError, UnreadableResultError
from anabranch.execution.pickling import loads
from anabranch.outcomes import JSON, NOT_KEPT, STORED, Kept
from anabranch.results.previews import preview
from anabranch.results.result_store import ResultStore
from anabranch.results.storages import Storage
from anabranch.serializers import Serializer


@dataclass(frozen=True, slots=True)
class Persistence:
    """The options `result_storage`, `result_serializer` and `result_storage_key` of a task.

    Picklable, for worker processes. What is None is the settings' business, and the storage key
    the caller's.
    """

    result_storage: Storage | Path | str | None = None
    result_serializer: Serializer | str | None = None
    result_storage_key: str | None = None

    def store(self, secret: bytes | None = None) -> ResultStore:
        """The store that these options stand for; raises what `ResultStore` does."""
        return ResultStore(self.result_storage, self.result_serializer, secret)

    def storage_key(self, parameters: Mapping[str, Any], **known: Any) -> str | None:
        """The key from the template; `known` is `flow_run=`, `task_run=`, `task=` and the like.

        Raises `StorageKeyTemplateError` where the template uses what is not known.
        """
        template = self.result_storage_key
        if template is None:
            return None
        try:
            return template.format_map({"parameters": parameters, **known})
        except (KeyError, IndexError, AttributeError, ValueError, TypeError) as error:
            names = ["parameters[" + name + "]" for name in parameters] + list(known)
            raise StorageKeyTemplateError(template, str(error) or repr(error), names) from None


def keep_persistent(
    value: Any,
    key: str,
    persistence: Persistence,
    secret: bytes | None,
    expiration: datetime | None = None,
) -> Kept:
    """Keep the value under the key in the storage that the task asks for.

    Raises `UnserializableResult` where that cannot be, and what the storage raises.
    """
    store = persistence.store(secret)
    record = store.write(key, value, expiration)
    return _stored(store, key, value, record.metadata.size)


def find_persistent(
    key: str, persistence: Persistence, secret: bytes | None
) -> tuple[Any, Kept] | None:
    """The value that is kept under the key in that storage, if there is one."""
    store = persistence.store(secret)
    if not store.exists(key):
        return None
    record = store.read(key)
    return record.value, _stored(store, key, record.value, record.metadata.size)


def _stored(store: ResultStore, key: str, value: Any, size: int) -> Kept:
    """What is left of a value that the store has under the key."""
    where = {
        "location": store.storage.location(key),
        "key": key,
        "serializer": store.serializer.name,
    }
    return Kept(STORED, json.dumps(where).encode(), size, preview(value), None)


def recover(
    kept: Kept, store: ResultStore | None = None, serializer: Serializer | str | None = None
) -> Any:
    """The value again; a pickle is loaded as it is, so check its signature first.

    What is stored is read through `store`, or from where it says itself, if that is a folder or a
    URL, by `serializer` if that wrote it. Raises `ResultNotKeptError`, `UnreadableResultError`, and all that `ResultStore.read` does.
    """
    if kept.form == NOT_KEPT or kept.data is None:
        raise ResultNotKeptError(kept.reason or "nothing says why")
    if kept.form == JSON:
        return json.loads(kept.data)
    if kept.form == STORED:
        where: dict[str, str] = json.loads(kept.data)
        if store is None:
            folder = where["location"].rpartition("/")[0]
            store = ResultStore(folder, where["serializer"] if serializer is None else serializer)
        return store.read(where["key"]).value
    try:
        return loads(kept.data)
    except Exception as error:  # of a class that is gone or changed
        reason = f"{type(error).__name__}: {error}"
        writer, reader = "code or versions other than these", f"Python {platform.python_version()}"
        raise UnreadableResultError("The result of a run", reason, writer, reader) from error
