"""The contract that the package ships, over each runner of its own."""

from __future__ import annotations

from anabranch.task_runners import AsyncioTaskRunner, ThreadPoolTaskRunner
from anabranch.testing import RunnerContract


class TestInline(RunnerContract):
    runner = "inline"
    one_worker = "inline"
    beside_the_flow = False


class TestThreads(RunnerContract):
    runner = "threads"
    one_worker = "threads?max_workers=1"
    two_gpus = ThreadPoolTaskRunner(max_workers=8, resources={"gpu": 2})


class TestTwoThreads(RunnerContract):
    runner = "threads?max_workers=2"


class TestAsyncio(RunnerContract):
    runner = "asyncio"
    one_worker = "asyncio?max_concurrency=1"
    two_gpus = AsyncioTaskRunner(max_concurrency=8, resources={"gpu": 2})


class TestProcesses(RunnerContract):
    runner = "processes"
    one_worker = "processes?max_workers=1"
