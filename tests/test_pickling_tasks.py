"""Tasks and flows travel by name where that can be imported, and by value from a script."""

import pickle
import subprocess
import sys
from pathlib import Path

from anabranch import flow, task


@task
def here(x: int) -> int:
    return x + 1


@flow
def flow_here() -> int:
    return here(1)


def test_what_can_be_imported_travels_as_its_name() -> None:
    assert pickle.loads(pickle.dumps(here)) is here
    assert pickle.loads(pickle.dumps(flow_here)) is flow_here


def test_a_script_whose_tasks_know_each_other_travels_by_value(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        """
import cloudpickle
from anabranch import flow, task

@task
def one(): return 1

@task
def down(n): return one() if n == 0 else down(n - 1)

@flow
def both(): return one() + down(3)

assert cloudpickle.loads(cloudpickle.dumps(down))(3) == 1
assert cloudpickle.loads(cloudpickle.dumps(both))() == 2
"""
    )
    subprocess.run([sys.executable, str(script)], check=True, timeout=30, capture_output=True)
