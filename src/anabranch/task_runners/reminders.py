"""Says why things wait, to whom waits for them."""

from __future__ import annotations

import logging
from time import monotonic

logger = logging.getLogger("anabranch.runs")

SAY_SECONDS = 2.0
SAY_AGAIN_SECONDS = 30.0


class Reminders:
    """Says why something waits: after a while, and again from time to time."""

    def __init__(self) -> None:
        self._next: dict[str, float] = {}

    def say(self, about: str, told: str) -> None:
        """Say this, if `about` has been so for a while."""
        now = monotonic()
        if now >= self._next.setdefault(about, now + SAY_SECONDS):
            self._next[about] = now + SAY_AGAIN_SECONDS
            logger.warning("%s", told)

    def settle(self, about: str) -> None:
        """It is so no more."""
        self._next.pop(about, None)
