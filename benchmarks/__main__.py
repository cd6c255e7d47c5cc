"""`python -m benchmarks [WHAT]`, each table with the targets beside the figures.

`short`, which is what you get without saying: all that has a target and fits into five minutes, on
this machine, or with `--runner` on a cluster. `overhead`: microseconds a task, and the ratio to the
bare executor. `makespan`: tasks of some length on two workers, over the ideal. `memory`: of runs that
are kept. `million`: so many items streamed, memory over time, and what a kill at half costs. `growth`:
what a task costs among 1,000 to 1,000,000. `startup`: from process start to exit. `kills`: what is
lost, and what runs again, after `kill -9`. `crowd`: ten processes on one store. `peers`: what a task
costs in other task runners, each in an environment that is made for it.

On clusters, `--runner dask` or `ray` for one of this machine, `dask+tcp://HOST:PORT` or
`ray?address=HOST:PORT` for one that is there (short, overhead): `lost-workers`, `lost-head`: what a
kill does. `results`: a gigabyte between tasks. `recursion`: 50 deep on one CPU. `logs`: what tasks
say, where a worker is terminated.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from itertools import chain
from pathlib import Path

from benchmarks import rows
from benchmarks.cluster_overhead import cluster_overhead
from benchmarks.crowd import crowd
from benchmarks.growth import growth
from benchmarks.intermediate_results import intermediate_results
from benchmarks.kills import kills
from benchmarks.lost_head import lost_head
from benchmarks.lost_workers import lost_workers
from benchmarks.makespan import CLUSTERS, LOCAL, makespan
from benchmarks.memory import memory
from benchmarks.million import million
from benchmarks.overhead import overhead
from benchmarks.peers import peers
from benchmarks.recursion import recursion
from benchmarks.startup import startup
from benchmarks.worker_logs import worker_logs

CLUSTER_TASKS = 4_000
ON_CLUSTERS: dict[str, Callable[[str, int | None, int], bool]] = {
    "lost-workers": lambda kind, tasks, rounds: lost_workers(kind, tasks or 2_000, min(rounds, 2)),
    "lost-head": lambda kind, tasks, _: lost_head(kind, tasks or 2_000),
    "results": lambda kind, tasks, _: intermediate_results(kind, tasks or 100),
    "recursion": lambda kind, tasks, _: recursion(kind, tasks or 50),
    "logs": lambda kind, tasks, _: worker_logs(kind, tasks or 100),
}
ANYWHERE = ("short", "overhead", "makespan", "million", "growth")
HERE = ("memory", "startup", "kills", "crowd", "peers")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = [*ANYWHERE, *HERE, *ON_CLUSTERS]
    parser.add_argument("what", choices=what, nargs="?", default="short", metavar="WHAT")
    parser.add_argument("--runner", help="dask or ray, or the address of a cluster")
    parser.add_argument("--tasks", type=int, help="tasks a measurement")
    parser.add_argument("--rounds", type=int, help="alternations; medians are shown")
    parser.add_argument("--only", default="", help="rows whose name contains this, or one runner")
    parser.add_argument("--seed", type=int, default=1, help="of the moments of the kills")
    parser.add_argument("--seconds", type=float, default=60, help="that a crowd is at it")
    parser.add_argument("--envs", type=Path, help="the folder of the peers' environments")
    parser.add_argument("--plot", help="a file for the picture, of what has one")
    options = parser.parse_args()
    kind, address = _cluster_of(parser, options.runner)
    if options.runner is None and options.what in ON_CLUSTERS:
        parser.error(f"{options.what} is measured on a cluster: give --runner")
    if options.runner is not None and options.what in HERE:
        parser.error(f"{options.what} is measured without --runner")
    if address is not None and options.what not in ("short", "overhead"):
        parser.error(f"{options.what} needs a cluster of its own: give --runner {kind}")
    with tempfile.TemporaryDirectory(prefix="anabranch-benchmarks-") as home:
        os.environ["ANABRANCH_HOME"] = home
        sys.exit(not _measure(options, kind, address))


def _cluster_of(parser: argparse.ArgumentParser, runner: str | None) -> tuple[str, str | None]:
    """The kind and the address, as a task runner's string says them."""
    if runner is None or runner in ("dask", "ray"):
        return runner or "", None
    if runner.startswith("dask+"):
        return "dask", runner.removeprefix("dask+")
    if runner.startswith("ray?address="):
        return "ray", runner.removeprefix("ray?address=")
    parser.error(
        f"--runner {runner} is none: dask, ray, dask+tcp://HOST:PORT, ray?address=HOST:PORT"
    )


def _measure(options: argparse.Namespace, kind: str, address: str | None) -> bool:
    """Print what was asked for; whether all is as it should be."""
    what, tasks, rounds = options.what, options.tasks, options.rounds or 5
    if what in ON_CLUSTERS:
        return ON_CLUSTERS[what](kind, tasks, rounds)
    if what == "kills":
        runners = (options.only,) if options.only else ("threads", "processes")
        return kills(rounds, runners, (tasks or 20_000) // 2, options.seed)
    if what == "crowd":
        return crowd(10, options.seconds)
    if what == "peers":
        envs: Path = options.envs or _cache() / "anabranch-peers"
        peers(tasks, rounds, options.only, envs.absolute())
        return True
    if what == "million":
        return million(kind or "threads", tasks or 1_000_000, options.plot)
    if what == "growth":
        return growth(kind or "threads", tasks or 1_000_000, options.plot)
    if what == "short":
        return _short(options, kind, address)
    title = "medians of the ratios of rounds, both sides by turns"
    if what == "makespan":
        chosen = kind or options.only
        kinds = (chosen,) if chosen else (*LOCAL, *CLUSTERS)
        measured = makespan(tasks or 400, options.rounds or 1, kinds)
    elif what == "memory":
        measured = memory(rounds)
    elif what == "startup":
        measured = startup(rounds)
    elif kind:
        measured = cluster_overhead(kind, tasks or CLUSTER_TASKS, rounds, address, options.only)
    else:
        measured = overhead(tasks or 20_000, rounds, options.only)
    rows.show(title, measured)
    return True


def _cache() -> Path:
    """The user's own, as the XDG base directories say."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _short(options: argparse.Namespace, kind: str, address: str | None) -> bool:
    rounds, tasks = options.rounds or 5, options.tasks or CLUSTER_TASKS
    if kind:
        measured = cluster_overhead(kind, tasks, rounds, address)
    else:
        measured = chain(
            overhead(20_000, options.rounds or 9),
            memory(1),
            startup(rounds),
            cluster_overhead("dask", tasks, rounds, only="map"),
            cluster_overhead("ray", tasks, rounds, only="map"),
            makespan(400, 1, ("threads", "dask", "ray"), ("of 50 ms",), ("auto",)),
        )
    rows.show("The targets: medians of the ratios of rounds, both sides by turns", measured)
    return True


if __name__ == "__main__":
    main()
