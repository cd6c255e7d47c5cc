"""The second argument says where runs are recorded: in `memory`, the default of
`execute_in_process`, or in SQLite files at `home`."""

import os
import sys
import time

import dagster
from dagster import DagsterInstance, DynamicOut, DynamicOutput, OpExecutionContext, job, op
from measurement import COUNT, WARM_UP, report

times = []


@op(out=DynamicOut(int), config_schema=int)
def numbers(context: OpExecutionContext):
    times.append(time.perf_counter())
    for n in range(context.op_config):
        yield DynamicOutput(n, mapping_key=str(n))


@op
def inc(x: int) -> int:
    return x + 1


@op
def total(results: list[int]) -> int:
    times.append(time.perf_counter())
    return sum(results)


@job
def mapped():
    total(numbers().map(inc).collect())


def run(count, instance):
    config = {
        "ops": {"numbers": {"config": count}},
        "loggers": {"console": {"config": {"log_level": "ERROR"}}},
    }
    return mapped.execute_in_process(config, instance=instance).output_for_node("total")


if sys.argv[2] == "home":
    os.environ["DAGSTER_HOME"] = os.getcwd()
    instance = DagsterInstance.get()
else:
    instance = DagsterInstance.ephemeral()
with instance:
    run(WARM_UP, instance)
    result = run(COUNT, instance)
report(dagster.__version__, times[-1] - times[-2], result)
