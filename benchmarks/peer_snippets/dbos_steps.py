"""A step is run and committed before the next begins."""

import time
from importlib.metadata import version

from dbos import DBOS
from measurement import COUNT, WARM_UP, report

DBOS(
    config={
        "name": "peers",
        "system_database_url": "sqlite:///peers.sqlite",
        "log_level": "ERROR",
    }
)


@DBOS.step()
def inc(x):
    return x + 1


@DBOS.workflow()
def mapped(count):
    started = time.perf_counter()
    total = sum(inc(n) for n in range(count))
    return time.perf_counter() - started, total


DBOS.launch()
mapped(WARM_UP)
seconds, total = mapped(COUNT)
DBOS.destroy()
report(version("dbos"), seconds, total)
