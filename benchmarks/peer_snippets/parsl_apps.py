"""The second argument is `threads` or `processes`."""

import sys
import time

import parsl
from measurement import COUNT, WARM_UP, report
from parsl import Config, HighThroughputExecutor, ThreadPoolExecutor, python_app
from parsl.providers import LocalProvider

EXECUTORS = {
    "threads": lambda: ThreadPoolExecutor(max_threads=8),
    "processes": lambda: HighThroughputExecutor(
        address="127.0.0.1",
        max_workers_per_node=2,
        provider=LocalProvider(init_blocks=1, max_blocks=1),
    ),
}


@python_app
def inc(x):
    return x + 1


with parsl.load(Config(executors=[EXECUTORS[sys.argv[2]]()], initialize_logging=False)):
    for future in [inc(n) for n in range(WARM_UP)]:
        future.result()
    started = time.perf_counter()
    futures = [inc(n) for n in range(COUNT)]
    total = sum(future.result() for future in futures)
    seconds = time.perf_counter() - started
report(parsl.__version__, seconds, total)
