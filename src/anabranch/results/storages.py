"""Storages: where results lie, each as one object under a key.

Keys are whatever text a user likes; `object_name` makes of each a name that is safe in a folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import re
import secrets
import time
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from urllib.parse import quote, unquote

from anabranch.errors import (
    MissingExtraError,
    MissingResultError,
    StorageKeyError,
    UnknownStorageError,
)

DRAFT_SECONDS = 24 * 3600.0
"""How old a draft is before it counts as left behind."""
_DRAFT = re.compile(r"\.[0-9a-f]{32}")
LONGEST_NAME = 200
"""Characters of an object's name; file systems take 255 bytes."""
_SHORTENED = re.compile(r"[\w.%-]{1,160}~[0-9a-f]{32}", re.ASCII)


@runtime_checkable
class Storage(Protocol):
    """Holds bytes under keys; callable from any thread, and picklable, as workers use it too."""

    def write(self, key: str, data: bytes) -> None:
        """Put these bytes there, in the place of any before: a reader finds one or the other."""
        ...

    def read(self, key: str, first: int | None = None) -> bytes:
        """The bytes, or the `first` so many; raises `MissingResultError` where there are none."""
        ...

    def exists(self, key: str) -> bool: ...

    def remove(self, key: str) -> None:
        """Remove what is there; it is no error if nothing is."""
        ...

    def keys(self, prefix: str = "") -> list[str]:
        """The keys that begin so, in order. Long ones come shortened, and are found by what is
        left of them; they can be used like the whole ones."""
        ...

    def location(self, key: str) -> str:
        """The path or URL of the object, for people."""
        ...


def object_name(key: str) -> str:
    """A name for the key that is safe in any folder: percent-quoted, and long ones shortened.

    Different keys have different names. Raises `StorageKeyError` for an empty key.
    """
    if _SHORTENED.fullmatch(key):  # as `Storage.keys` tells it
        return key
    if not key:
        raise StorageKeyError(key, "it is empty")
    name = _quoted(key)
    if len(name) > LONGEST_NAME:
        digest = hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
        name = f"{name[:160]}~{digest}"
    return name


def _quoted(key: str) -> str:
    name = quote(key, safe="", errors="surrogatepass").replace("~", "%7E")
    return "%2E" + name[1:] if name.startswith(".") else name  # no folder, and no draft


def key_of(name: str) -> str:
    """The key that gives this object's name, or the shortened one."""
    return name if "~" in name else unquote(name, errors="surrogatepass")


def _matching(names: list[str], prefix: str) -> list[str]:
    start = prefix if _SHORTENED.fullmatch(prefix) else _quoted(prefix)
    return sorted(
        key_of(name) for name in names if not name.startswith(".") and name.startswith(start)
    )


class LocalStorage:
    """A folder; what stands there survives a loss of power, and is never half written.

    Symbolic links inside of it are not followed.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(os.path.realpath(Path(folder).expanduser()))
        self._swept = False  # whether this writer has looked for old drafts

    def __repr__(self) -> str:
        return f"LocalStorage({str(self.folder)!r})"

    def write(self, key: str, data: bytes) -> None:
        path = self._path(key)
        draft = self.folder / f".{secrets.token_hex(16)}"
        with contextlib.suppress(FileExistsError):
            self.folder.mkdir(mode=0o700, parents=True)
        if not self._swept:
            self._swept = True
            self._sweep()
        try:
            file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(file, "wb", buffering=0) as raw:
                _write_all(raw.fileno(), data)
                os.fsync(file)
            os.replace(draft, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(draft)
            raise
        _sync_folder(self.folder)

    def read(self, key: str, first: int | None = None) -> bytes:
        path = self._path(key)
        try:
            file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise MissingResultError(key, str(path)) from None
        except OSError as error:
            if path.is_symlink():
                raise StorageKeyError(key, f"{path} is a symbolic link") from error
            raise
        with open(file, "rb") as stream:
            return stream.read() if first is None else stream.read(first)

    def exists(self, key: str) -> bool:
        path = self._path(key)
        return path.is_file() and not path.is_symlink()

    def remove(self, key: str) -> None:
        self._path(key).unlink(missing_ok=True)

    def keys(self, prefix: str = "") -> list[str]:
        try:
            with os.scandir(self.folder) as entries:
                names = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
        except FileNotFoundError:
            return []
        return _matching(names, prefix)

    def location(self, key: str) -> str:
        return str(self._path(key))

    def _path(self, key: str) -> Path:
        return self.folder / object_name(key)

    def _sweep(self) -> None:
        """Remove what a writer that was killed has left: drafts of more than a day ago."""
        before = time.time() - DRAFT_SECONDS
        with contextlib.suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                if _DRAFT.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                    with contextlib.suppress(OSError):  # another has removed it meanwhile
                        if entry.stat(follow_symlinks=False).st_mtime < before:
                            os.unlink(entry.path)


def _write_all(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def _sync_folder(folder: Path) -> None:
    """Make the new name in the folder last, too."""
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"} | dict.fromkeys(
    ("abfs", "abfss", "az"), "azure"
)
"""Object stores by the protocols of their URLs, with the extra that brings their library."""


class FsspecStorage:
    """Any place that fsspec can reach; `storage_options` are those of its file system.

    Object stores take an object whole or not at all; elsewhere a write that was cut off leaves a
    record whose signature does not fit. Raises `MissingExtraError` and `UnknownStorageError` when
    it is first used.
    """

    def __init__(self, url: str, **storage_options: Any) -> None:
        self.url = url
        self.storage_options = storage_options
        self._opened: tuple[Any, str] | None = None

    def __repr__(self) -> str:
        return f"FsspecStorage({_without_password(self.url)!r})"  # its options may hold secrets

    def __reduce__(self) -> tuple[Any, ...]:
        return _fsspec_storage, (self.url, self.storage_options)

    def write(self, key: str, data: bytes) -> None:
        files, root = self._open()
        if self.url.partition(":")[0] not in _EXTRAS:  # object stores have no folders
            files.makedirs(root, exist_ok=True)
        files.pipe_file(f"{root}/{object_name(key)}", data)

    def read(self, key: str, first: int | None = None) -> bytes:
        files, root = self._open()
        try:
            return bytes(files.cat_file(f"{root}/{object_name(key)}", end=first))
        except FileNotFoundError:
            raise MissingResultError(key, self.location(key)) from None

    def exists(self, key: str) -> bool:
        files, root = self._open()
        files.invalidate_cache()  # others write there, too
        return bool(files.isfile(f"{root}/{object_name(key)}"))

    def remove(self, key: str) -> None:
        files, root = self._open()
        with contextlib.suppress(FileNotFoundError):
            files.rm_file(f"{root}/{object_name(key)}")

    def keys(self, prefix: str = "") -> list[str]:
        files, root = self._open()
        files.invalidate_cache()  # as above
        try:
            found: list[dict[str, Any]] = files.ls(root, detail=True)
        except FileNotFoundError:
            return []
        names = [item["name"].rpartition("/")[2] for item in found if item["type"] == "file"]
        return _matching([name for name in names if name], prefix)

    def location(self, key: str) -> str:
        return f"{_without_password(self.url).rstrip('/')}/{object_name(key)}"

    def _open(self) -> tuple[Any, str]:
        """The file system, and the folder in it."""
        if self._opened is None:
            self._opened = _file_system(self.url, self.storage_options)
        return self._opened


def _fsspec_storage(url: str, storage_options: dict[str, Any]) -> FsspecStorage:
    return FsspecStorage(url, **storage_options)


def _file_system(url: str, storage_options: dict[str, Any]) -> tuple[Any, str]:
    shown = _without_password(url)
    protocol = url.partition(":")[0]
    extra = _EXTRAS.get(protocol, "storage")
    try:
        fsspec: Any = importlib.import_module("fsspec.core")  # an extra, and some 50 ms
    except ImportError as error:
        raise MissingExtraError(shown, "fsspec", f"anabranch[{extra}]") from error
    try:
        files, root = fsspec.url_to_fs(url, **storage_options)
    except ImportError as error:
        install = f"anabranch[{extra}]" if protocol in _EXTRAS else str(error.name or protocol)
        raise MissingExtraError(shown, str(error.name or protocol), install) from error
    except ValueError as error:
        raise UnknownStorageError(repr(shown), str(error)) from error
    return files, str(root).rstrip("/")


def _without_password(url: str) -> str:
    return re.sub(r"://([^/@:]*):[^/@]*@", r"://\1:***@", url)


def storage(given: Storage | Path | str) -> Storage:
    """The storage that a folder or a URL stands for; an object with the methods of one is itself.

    Raises `UnknownStorageError` for anything else.
    """
    if isinstance(given, Path):
        return LocalStorage(given)
    if isinstance(given, str):
        if given.startswith("file://"):
            return LocalStorage(unquote(given.removeprefix("file://")))
        if "://" in given:
            return FsspecStorage(given)
        if given.strip():
            return LocalStorage(given)
        raise UnknownStorageError(repr(given), "it is empty")
    if isinstance(given, Storage) and not isinstance(given, type):  # pyright: ignore[reportUnnecessaryIsInstance]  # users without a type checker
        return given
    raise UnknownStorageError(repr(given), f"{type(given).__name__} has not the methods of one")
