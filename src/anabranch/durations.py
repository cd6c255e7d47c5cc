"""Lengths of time as people write them: `30d`, `12h`, `1d12h`."""

from __future__ import annotations

import re
from typing import Final

from anabranch.errors import DurationError

SECONDS: Final = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
_WHOLE = re.compile(r"(?:\d+(?:\.\d+)?[wdhms])+", re.ASCII)
_PART = re.compile(r"(\d+(?:\.\d+)?)([wdhms])", re.ASCII)


def parse_duration(text: str) -> float:
    """Seconds in `1w`, `30d`, `12h`, `90m`, `45s`, or several of them in a row, such as `1d12h`.

    Raises `DurationError`.
    """
    plain = text.strip().lower().replace(" ", "")
    if not _WHOLE.fullmatch(plain):
        raise DurationError(text)
    return sum(float(number) * SECONDS[unit] for number, unit in _PART.findall(plain))
