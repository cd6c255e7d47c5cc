"""Failpoints: named places where tests let this process die, as a power cut or `kill -9` would.

`ANABRANCH_FAILPOINT` names one, or one and the passing at which it strikes: `mid-batch:3`.
"""

from __future__ import annotations

import os
import signal
from typing import Final

from anabranch.errors import SettingError

VARIABLE: Final = "ANABRANCH_FAILPOINT"

RESULT_STORED: Final = "result-stored"
MID_BATCH: Final = "mid-batch"
BEFORE_COMMIT: Final = "before-commit"
AFTER_COMMIT: Final = "after-commit"
MID_MIGRATION: Final = "mid-migration"

FAILPOINTS: Final = {
    RESULT_STORED: "a result was written to its storage, the state that tells of it was not",
    MID_BATCH: "task runs were written in a transaction, what belongs to them was not",
    BEFORE_COMMIT: "a transaction was written whole, and not committed",
    AFTER_COMMIT: "a transaction was committed, and nobody was told",
    MID_MIGRATION: "the tables of a migration were changed, and not committed",
}


def read_failpoint(text: str | None) -> tuple[str, int] | None:
    """The failpoint and its passing, from 1; raises `SettingError` for one that there is not."""
    if not text:
        return None
    name, _, count = text.partition(":")
    if name not in FAILPOINTS:
        known = "; ".join(f"{each}: {what}" for each, what in FAILPOINTS.items())
        problem = f"there is no such failpoint; known: {known}"
    elif count and (not count.isdecimal() or int(count) < 1):
        problem = "after the colon stands at which passing it strikes, from 1"
    else:
        return name, int(count or 1)
    raise SettingError("failpoint", text, f"the environment variable {VARIABLE}", problem)


_ARMED: Final = read_failpoint(os.environ.get(VARIABLE))
_passed = 0


def failpoint(name: str) -> None:
    """Die here if this is the failpoint that is armed."""
    if _ARMED is None:
        return
    global _passed
    if name == _ARMED[0]:
        _passed += 1
        if _passed == _ARMED[1]:
            os.kill(os.getpid(), signal.SIGKILL)
