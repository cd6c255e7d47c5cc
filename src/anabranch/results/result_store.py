"""The store of results at rest: one signed record for each, which describes itself.

A record is a line of JSON and the serializer's bytes. The line begins with the signature over the
key, the rest of the line and the bytes, which is checked before anything else is believed.
"""

from __future__ import annotations

import hmac
import json
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import anabranch
from anabranch.errors import (
    MissingResultError,
    OptionError,
    TamperedResultError,
    UnknownSerializerError,
    UnreadableResultError,
)
from anabranch.results.signing import SIGNATURE_SIZE, load_secret, signature
from anabranch.results.storages import Storage, object_name, storage
from anabranch.serializers import Serializer, serializer
from anabranch.settings import load_settings

_BEGIN = b'{"mac":"'
_SIGNED_FROM = len(_BEGIN) + 2 * SIGNATURE_SIZE
_HEAD_SIZE = 4096
"""Bytes in which nearly every record's first line fits."""


class ResultRecordMetadata(NamedTuple):
    """What a record says of itself. Times have a time zone; `size` is that of the value in bytes,
    as its serializer wrote it."""

    storage_key: str
    serializer: str
    created: datetime
    expiration: datetime | None
    size: int
    anabranch_version: str
    python_version: str


class ResultRecord(NamedTuple):
    """A result, with what is known about it."""

    key: str
    value: Any
    metadata: ResultRecordMetadata


class ResultStore:
    """Keeps results under keys in a storage; picklable, but for a `now` that is not.

    What is None comes from the settings `result_storage` and `result_serializer`, and from the
    file `secret` in ANABRANCH_HOME. `now` gives seconds since the epoch.
    """

    def __init__(
        self,
        storage: Storage | Path | str | None = None,
        serializer: Serializer | str | None = None,
        secret: bytes | None = None,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.storage = _storage(storage)
        self.serializer = _serializer(serializer)
        self._secret = secret
        self._now = now

    def __repr__(self) -> str:
        return f"ResultStore({self.storage!r}, {self.serializer.name!r})"

    def write(self, key: str, value: Any, expiration: datetime | None = None) -> ResultRecord:
        """Keep the value under the key, in the place of any before, until it expires.

        Raises `UnserializableResult`, and `OptionError` for an expiration without a time zone.
        """
        if expiration is not None and expiration.tzinfo is None:
            raise OptionError(
                "ResultStore.write", "expiration", expiration, "a datetime with a time zone"
            )
        data = self.serializer.dumps(value)
        metadata = ResultRecordMetadata(
            storage_key=key,
            serializer=self.serializer.name,
            created=datetime.fromtimestamp(self._now(), UTC),
            expiration=expiration,
            size=len(data),
            anabranch_version=anabranch.__version__,
            python_version=platform.python_version(),
        )
        head = _head(metadata)
        self.storage.write(key, b"".join((self._begin(key, head, data), head, data)))
        return ResultRecord(key, value, metadata)

    def read(self, key: str) -> ResultRecord:
        """The result under the key.

        Raises `MissingResultError` where there is none or it has expired, `TamperedResultError`
        before anything of a record that is not ours is loaded, and `UnreadableResultError`.
        """
        record = self.storage.read(key)
        location = self.storage.location(key)
        begin = self._begin(key, memoryview(record)[_SIGNED_FROM:])
        if not hmac.compare_digest(record[:_SIGNED_FROM], begin):
            raise TamperedResultError(key, location)
        end = record.index(b"\n") + 1
        metadata = _metadata(record[:end])
        if self._has_expired(metadata):
            raise MissingResultError(key, location, f"it expired at {metadata.expiration}")
        return ResultRecord(key, self._value(key, record[end:], metadata), metadata)

    def exists(self, key: str) -> bool:
        """Whether there is a result under the key that has not expired; `read` looks closer."""
        try:
            head = self.storage.read(key, _HEAD_SIZE)
            if b"\n" not in head:
                head = self.storage.read(key)
            return not self._has_expired(_metadata(head[: head.index(b"\n")]))
        except (MissingResultError, ValueError, KeyError, TypeError):  # none, or damaged
            return False

    def delete(self, key: str) -> None:
        """Remove the result under the key, if there is one."""
        self.storage.remove(key)

    def secret(self) -> bytes:
        """What the records are signed with."""
        if self._secret is None:
            self._secret = load_secret()
        return self._secret

    def _begin(self, key: str, *signed: bytes | memoryview) -> bytes:
        """The first bytes of a record, up to its signature."""
        return _BEGIN + signature(self.secret(), object_name(key), *signed).hex().encode()

    def _has_expired(self, metadata: ResultRecordMetadata) -> bool:
        until = metadata.expiration
        return until is not None and until.timestamp() <= self._now()

    def _value(self, key: str, data: bytes, metadata: ResultRecordMetadata) -> Any:
        writer, reader = metadata.serializer, self.serializer
        try:
            if writer != reader.name:
                reader = serializer(writer)
            return reader.loads(data)
        except UnknownSerializerError:
            reason = f"the serializer {writer!r} is not known here, and was not given to the store"
            cause = None
        except Exception as error:  # of a class that is gone or changed, or another Python's
            reason, cause = f"{type(error).__name__}: {error}", error
        raise UnreadableResultError(
            f"The result with the key {key!r} at {self.storage.location(key)}",
            reason,
            f"anabranch {metadata.anabranch_version} on Python {metadata.python_version}",
            f"anabranch {anabranch.__version__} on Python {platform.python_version()}",
        ) from cause


def _storage(given: Storage | Path | str | None) -> Storage:
    if given is None:
        settings = load_settings()
        given = settings.result_storage or settings.home / "storage"
    return storage(given)


def _serializer(given: Serializer | str | None) -> Serializer:
    return serializer(load_settings().result_serializer if given is None else given)


def _head(metadata: ResultRecordMetadata) -> bytes:
    """The rest of the first line, behind the signature."""
    told = metadata._asdict()
    told["created"] = metadata.created.isoformat()
    if metadata.expiration is not None:
        told["expiration"] = metadata.expiration.isoformat()
    return b'",' + json.dumps(told).encode()[1:] + b"\n"


def _metadata(line: bytes) -> ResultRecordMetadata:
    told: dict[str, Any] = json.loads(line)
    told["created"] = datetime.fromisoformat(told["created"])
    if told["expiration"] is not None:
        told["expiration"] = datetime.fromisoformat(told["expiration"])
    return ResultRecordMetadata(**{name: told[name] for name in ResultRecordMetadata._fields})
