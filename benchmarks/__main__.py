"""`python -m benchmarks overhead`: microseconds a task, and the ratio to the bare executor."""

from __future__ import annotations

import argparse
import os
import tempfile

from benchmarks.overhead import overhead
from benchmarks.startup import startup


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("what", choices=["overhead", "startup"])
    parser.add_argument("--tasks", type=int, default=20_000, help="tasks a measurement")
    parser.add_argument("--rounds", type=int, default=5, help="alternations; medians are shown")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="anabranch-benchmarks-") as home:
        os.environ["ANABRANCH_HOME"] = home
        if options.what == "overhead":
            overhead(options.tasks, options.rounds, options.only)
        else:
            startup(options.rounds)


if __name__ == "__main__":
    main()
