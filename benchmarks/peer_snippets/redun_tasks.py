"""The default executor, 20 threads, and the default database, which `redun init` writes down."""

import logging
import time
from importlib.metadata import version

from measurement import COUNT, WARM_UP, report
from redun import Scheduler, task
from redun.config import Config

redun_namespace = "peers"


@task()
def inc(x):
    return x + 1


@task()
def mapped(numbers):
    return [inc(n) for n in numbers]


logging.getLogger("redun").setLevel("ERROR")
scheduler = Scheduler(Config({"backend": {"db_uri": "sqlite:///redun.db"}}))
scheduler.load()
scheduler.run(mapped([-n for n in range(1, WARM_UP)]))  # others, since results are cached
started = time.perf_counter()
results = scheduler.run(mapped(list(range(COUNT))))
report(version("redun"), time.perf_counter() - started, sum(results))
