"""The second argument says until when the clock runs: `results`, or `recorded`, when the server's
database holds all task runs as completed."""

import sys
import time

import prefect
from measurement import COUNT, WARM_UP, report
from prefect import flow, get_client, task
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner


@task
def inc(x):
    return x + 1


@flow(task_runner=ThreadPoolTaskRunner(max_workers=8))
def mapped(count):
    started = time.perf_counter()
    total = sum(inc.map(range(count)).result())
    return flow_run.id, started, time.perf_counter(), total


def wait_until_recorded(flow_run_id, count):
    wanted = {
        "flow_runs": {"id": {"any_": [flow_run_id]}},
        "task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
    }
    with get_client(sync_client=True) as client:
        while client.request("POST", "/task_runs/count", json=wanted).json() < count:
            time.sleep(0.25)


warm_up = mapped(WARM_UP)  # which starts the server
wait_until_recorded(warm_up[0], WARM_UP)
flow_run_id, started, ended, total = mapped(COUNT)
if sys.argv[2] == "recorded":
    wait_until_recorded(flow_run_id, COUNT)
    ended = time.perf_counter()
report(prefect.__version__, ended - started, total)
