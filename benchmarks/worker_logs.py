"""5,000 log lines of tasks on a cluster, one of whose workers is terminated: are all there."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections import defaultdict

from rich.console import Console

from anabranch import flow, get_run_logger, task
from benchmarks.clusters import cluster

LINES = 50


@task
def talk(number: int) -> tuple[int, int]:
    logger = get_run_logger()
    for line in range(LINES):
        logger.info("%d %d %d", number, os.getpid(), line)
        time.sleep(0.001)
    return number, os.getpid()


@flow
def talking(count: int) -> list[tuple[int, int]]:
    return talk.map(range(count)).result()


class Lines(logging.Handler):
    """What tasks said, by task and process."""

    def __init__(self) -> None:
        super().__init__()
        self.said: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        self.half = threading.Event()
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        parts = record.getMessage().rpartition(" | ")[2].split()
        if len(parts) == 3 and all(part.isdigit() for part in parts):
            number, process, line = map(int, parts)
            self.said[number, process].append(line)
            self.count += 1


def worker_logs(kind: str, tasks: int) -> bool:
    """Print how many lines came; whether all of each task that ended, in order."""
    console = Console(width=110)
    lines = Lines()
    logger = logging.getLogger("anabranch")
    logger.addHandler(lines)
    logger.setLevel("INFO")
    logger.propagate = False
    ended: list[tuple[int, int]] = []
    with console.status(f"starting {kind}") as status, cluster(kind, 2) as made:
        status.update(f"{tasks * LINES:,} lines on {kind}")
        run = talking.with_options(task_runner=made.runner)
        thread = threading.Thread(target=lambda: ended.extend(run(tasks)))
        thread.start()
        while lines.count < tasks * LINES / 2 and thread.is_alive():
            time.sleep(0.01)
        victim = next(reversed(lines.said))[1]
        os.kill(victim, signal.SIGTERM)
        thread.join()
    whole = sum(lines.said[each] == list(range(LINES)) for each in ended)
    others = sum(len(said) for each, said in lines.said.items() if each not in ended)
    console.print(
        f"{kind}: {len(ended)} tasks ended, of {whole} of them all {LINES} lines are there, in order "
        f"({whole * LINES:,} lines); worker {victim} got SIGTERM midway, and {others} lines are of "
        "what it had begun"
    )
    return len(ended) == whole == tasks
