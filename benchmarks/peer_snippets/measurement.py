"""How each of these scripts begins and ends: `COUNT` tasks of `x + 1`, and what they took as JSON."""

import json
import sys

COUNT = int(sys.argv[1])
WARM_UP = 20
"""Tasks before the clock runs; they make imports at first use, connections and workers."""


def report(version, seconds, total):
    """Print what `peers.py` reads; raises `AssertionError` for a wrong sum of the results."""
    if total != COUNT * (COUNT + 1) // 2:
        raise AssertionError(f"wrong answer: {total}")
    print(json.dumps({"tasks": COUNT, "seconds": seconds, "version": version}))
