"""`python -m benchmarks WHAT`.

`overhead`: microseconds a task, and the ratio to the bare executor. `startup`: from process start to
exit. `kills`: what is lost, and what runs again, after `kill -9`. `crowd`: ten processes on one store.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile

from benchmarks.crowd import crowd
from benchmarks.kills import kills
from benchmarks.overhead import overhead
from benchmarks.startup import startup


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("what", choices=["overhead", "startup", "kills", "crowd"])
    parser.add_argument("--tasks", type=int, default=20_000, help="tasks a measurement")
    parser.add_argument("--rounds", type=int, default=5, help="alternations; medians are shown")
    parser.add_argument("--only", default="", help="rows whose name contains this, or one runner")
    parser.add_argument("--seed", type=int, default=1, help="of the moments of the kills")
    parser.add_argument("--seconds", type=float, default=60, help="that a crowd is at it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="anabranch-benchmarks-") as home:
        os.environ["ANABRANCH_HOME"] = home
        if options.what == "overhead":
            overhead(options.tasks, options.rounds, options.only)
        elif options.what == "kills":
            runners = (options.only,) if options.only else ("threads", "processes")
            sys.exit(not kills(options.rounds, runners, options.tasks // 2, options.seed))
        elif options.what == "crowd":
            sys.exit(not crowd(10, options.seconds))
        else:
            startup(options.rounds)


if __name__ == "__main__":
    main()
