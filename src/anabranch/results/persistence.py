"""Results that a task or flow asks to be kept, whatever their size: where, how, under which key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from anabranch.errors import StorageKeyTemplateError
from anabranch.results.kept import Kept, stored
from anabranch.results.result_store import ResultStore
from anabranch.results.storage import Storage
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
    return stored(store, key, value, record.metadata.size)
