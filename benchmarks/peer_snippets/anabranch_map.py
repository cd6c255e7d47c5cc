"""The second argument is the task runner. The clock runs from the flow's call to its end, when all
is committed."""

import logging
import sys
import time

from measurement import COUNT, WARM_UP, report

from anabranch import __version__, flow, task


@task
def inc(x):
    return x + 1


@flow(task_runner=sys.argv[2])
def mapped(count):
    return sum(inc.map(range(count)).result())


if __name__ == "__main__":  # child processes import this file
    logging.getLogger("anabranch").setLevel("ERROR")
    mapped(WARM_UP)
    started = time.perf_counter()
    total = mapped(COUNT)
    report(__version__, time.perf_counter() - started, total)
