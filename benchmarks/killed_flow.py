"""A map that notes each call in a file beside it, so that one can count how often each item ran."""

import os
import time
from pathlib import Path

from anabranch import flow, task

FOLDER = Path(os.environ.get("KILLED_FLOW_FOLDER", "."))
SECONDS = 0.002


@task
def work(x: int) -> int:
    file = os.open(FOLDER / "calls", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, b"%d\n" % x)
    os.close(file)
    time.sleep(SECONDS)
    return x * 2


@flow
def main(count: int = 10_000) -> int:
    answer = sum(work.map(range(count)).result())
    (FOLDER / "answer").write_text(str(answer))
    return answer
