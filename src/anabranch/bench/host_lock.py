"""A lock of this user on this host: a case that is measured alone holds it, others share it.

The kernel frees it with its process, however that ends.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def host_lock(alone: bool) -> Generator[None]:
    """Wait for the lock, and hold it for the length of the block; side by side with others unless
    `alone`. It counts over all suites: none can be measured well beside another."""
    path = os.path.join(tempfile.gettempdir(), f"anabranch-bench-{os.getuid()}.lock")
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # a forked child may hold the file open for longer
    finally:
        os.close(file)
