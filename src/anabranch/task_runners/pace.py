"""How many workers calls are worth: of those that take microseconds one, of all others as many as there
may be. Pure: told what has ended whenever somebody looks.

Threads that take turns for a few microseconds each gain nothing, and keep the store's writer, and each
other, from their own.
"""

from __future__ import annotations

MANY = 100
"""Where so many calls come at a time one worker begins, and others follow once calls are not quick."""
QUICK = 50
"""Calls are quick while each worker at work ends so many from one look to the next."""
LOOKS = 2
"""It takes so many looks to tell, since a thread may have had no turn at the interpreter before the
first."""


class Pace:
    """That of one pool. `is_quick` says of the last look whether calls are; `holds_back` whether more
    workers may be wanted, which a look will tell."""

    def __init__(self) -> None:
        self.is_quick = False
        self.holds_back = False
        self._ended = 0
        self._looks_left = 0

    def hold_back(self, looks: int) -> None:
        """Calls wait for workers: at most so many looks, if calls are not quick. Those of calls that
        wait already go on counting."""
        self._looks_left = min(self._looks_left, looks) if self.holds_back else looks
        self.holds_back = True

    def look(self, ended: int, at_work: int) -> bool:
        """`ended` calls have so far, and so many workers are at work; whether more are wanted now."""
        self.is_quick = ended - self._ended >= QUICK * max(1, at_work)
        self._ended = ended
        self._looks_left = LOOKS if self.is_quick else self._looks_left - 1
        if not self.holds_back or self._looks_left > 0:
            return False
        self.holds_back = False
        return True

    def rest(self) -> None:
        """Nobody looks from here on, until calls are held back again."""
        self.is_quick = self.holds_back = False
