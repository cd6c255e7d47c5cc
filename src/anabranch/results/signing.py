"""Signatures of what lies at rest: nothing is unpickled that this installation did not write.

A signature is BLAKE2b in its keyed mode (RFC 7693), over the key that the data stands under and
the data itself, so that a record cannot be moved to another key.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
import warnings
from pathlib import Path

from anabranch.errors import ResultSecretError, TamperedResultError
from anabranch.settings import load_settings

SECRET_SIZE = 32
SIGNATURE_SIZE = 32
_PURPOSE = b"anabranch result"  # keeps these apart from any other use of the same secret


def load_secret(home: Path | None = None) -> bytes:
    """The 32 bytes in `<home>/secret`, made at random where there are none yet.

    `home` is that of the settings if None. Of several processes that make it at once, one wins
    and the others read. Warns where other users can read it; raises `ResultSecretError` for a file
    that holds something else.
    """
    folder = load_settings().home if home is None else home
    path = folder / "secret"
    try:
        return _read(path)
    except FileNotFoundError:
        _make(path)
        return _read(path)


def _read(path: Path) -> bytes:
    with open(path, "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        secret = file.read(SECRET_SIZE + 1)
    if len(secret) != SECRET_SIZE:
        raise ResultSecretError(str(path), f"should hold {SECRET_SIZE} bytes and does not")
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        warnings.warn(
            f"Other users of this machine can get at {path}, which signs results: whoever has it "
            f"can run code here. Close it with: chmod 600 {path}",
            stacklevel=3,
        )
    return secret


def _make(path: Path) -> None:
    """Write it whole under another name, then give it its own, if nobody else has by now."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".secret.{secrets.token_hex(8)}")
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        try:
            os.write(file, secrets.token_bytes(SECRET_SIZE))
            os.fsync(file)
        finally:
            os.close(file)
        os.link(draft, path)
    except FileExistsError:  # another process was first
        pass
    finally:
        os.unlink(draft)


def signature(secret: bytes, key: str, *data: bytes | memoryview) -> bytes:
    """The 32 bytes that only someone with the secret can make for this data under this key; data
    in several parts counts as if they were joined."""
    name = key.encode("utf-8", "surrogatepass")
    mac = hashlib.blake2b(
        len(name).to_bytes(8, "big") + name,  # its length first: no other pair gives these bytes
        digest_size=SIGNATURE_SIZE,
        key=secret,
        person=_PURPOSE,
    )
    for part in data:
        mac.update(part)
    return mac.digest()


def sign(secret: bytes, key: str, data: bytes) -> bytes:
    """The data with its signature in front, for `verify`."""
    return signature(secret, key, data) + data


def verify(secret: bytes, key: str, signed: bytes, location: str = "the store") -> bytes:
    """The data that `sign` was given; raises `TamperedResultError` if anything differs."""
    data = signed[SIGNATURE_SIZE:]
    if not hmac.compare_digest(signed[:SIGNATURE_SIZE], signature(secret, key, data)):
        raise TamperedResultError(key, location)
    return data
