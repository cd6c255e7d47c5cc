"""`python -m benchmarks WHAT`.

`overhead`: microseconds a task, and the ratio to the bare executor. `startup`: from process start to
exit. `kills`: what is lost, and what runs again, after `kill -9`. `crowd`: ten processes on one store.

On clusters, `--runner dask` or `ray`: `overhead`, beside the engine itself. `lost-workers`,
`lost-head`: what a kill does. `results`: a gigabyte between tasks. `recursion`: 50 deep on one CPU.
`logs`: what tasks say, where a worker is terminated.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile

from benchmarks.cluster_overhead import cluster_overhead
from benchmarks.crowd import crowd
from benchmarks.intermediate_results import intermediate_results
from benchmarks.kills import kills
from benchmarks.lost_head import lost_head
from benchmarks.lost_workers import lost_workers
from benchmarks.overhead import overhead
from benchmarks.recursion import recursion
from benchmarks.startup import startup
from benchmarks.worker_logs import worker_logs

LOCAL = ("overhead", "startup", "kills", "crowd")
CLUSTER = ("lost-workers", "lost-head", "results", "recursion", "logs")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("what", choices=[*LOCAL, *CLUSTER])
    parser.add_argument("--runner", choices=["dask", "ray"], help="on a cluster of this kind")
    parser.add_argument("--tasks", type=int, help="tasks a measurement")
    parser.add_argument("--rounds", type=int, default=5, help="alternations; medians are shown")
    parser.add_argument("--only", default="", help="rows whose name contains this, or one runner")
    parser.add_argument("--seed", type=int, default=1, help="of the moments of the kills")
    parser.add_argument("--seconds", type=float, default=60, help="that a crowd is at it")
    options = parser.parse_args()
    if (options.runner is None) == (options.what in CLUSTER) and options.what != "overhead":
        parser.error(
            f"{options.what} is measured {'on a cluster: give --runner' if options.runner is None else 'without --runner'}"
        )
    with tempfile.TemporaryDirectory(prefix="anabranch-benchmarks-") as home:
        os.environ["ANABRANCH_HOME"] = home
        tasks: int = options.tasks or 20_000
        if options.runner is not None:
            sys.exit(not _on_cluster(options.what, options.runner, options.tasks, options.rounds))
        elif options.what == "overhead":
            overhead(tasks, options.rounds, options.only)
        elif options.what == "kills":
            runners = (options.only,) if options.only else ("threads", "processes")
            sys.exit(not kills(options.rounds, runners, tasks // 2, options.seed))
        elif options.what == "crowd":
            sys.exit(not crowd(10, options.seconds))
        else:
            startup(options.rounds)


def _on_cluster(what: str, kind: str, tasks: int | None, rounds: int) -> bool:
    if what == "overhead":
        cluster_overhead(kind, tasks or 5_000, rounds)
        return True
    if what == "lost-workers":
        return lost_workers(kind, tasks or 2_000, min(rounds, 2))
    if what == "lost-head":
        return lost_head(kind, tasks or 2_000)
    if what == "results":
        return intermediate_results(kind, tasks or 100)
    if what == "recursion":
        return recursion(kind, tasks or 50)
    return worker_logs(kind, tasks or 100)


if __name__ == "__main__":
    main()
