"""Classes of a script in what is recorded: whoever has the script gets its own class back."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

SCRIPT = """
    import os, sys
    from dataclasses import dataclass
    from enum import Enum
    from anabranch import flow, task

    class Color(Enum):
        RED = 1

    class Base:
        def twice(self):
            return type(self)(self.x * 2, self.color)

    @dataclass
    class Point(Base):
        x: int
        color: Color

        def again(self):
            return Point(self.x, self.color)

    class Outer:
        class Inner:
            pass

    def is_ours(point):
        return isinstance(point, Point) and isinstance(point, Base) and point.color is Color.RED

    @task(persist_result=True)
    def moved(point):
        assert point.color is Color.RED
        with open("told.txt", "a") as file:
            print("moved", file=file)
        return point.twice(), Outer.Inner(), Color

    @flow(flow_run_name="the-run", task_runner=RUNNER)
    def pipeline(point: Point, times: int):
        assert is_ours(point)
        found, inner, color = moved.submit(point).result()
        assert is_ours(found) and found == Point(2, Color.RED) and found.again() == found
        assert type(inner) is Outer.Inner and color is Color
        with open("told.txt", "a") as file:
            print(__name__, file=file)
        if open("told.txt").read().count("\\n") - 1 < times:
            raise ValueError("not yet")
        return found

    if __name__ == "__main__":
        if len(sys.argv) == 1:
            pipeline(Point(1, Color.RED), 4)
        else:
            assert is_ours(pipeline.resume(sys.argv[1]))
"""

LOADER = """
    import importlib.util, sys
    spec = importlib.util.spec_from_file_location("script", sys.argv[1])
    module = sys.modules["script"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.is_ours(module.pipeline.resume(sys.argv[2]))
"""

FIND = """
    from anabranch.settings import load_settings
    from anabranch.store.opening import open_store
    settings = load_settings()
    database = open_store(settings.database_url, settings.home, False)
    print(database.read("SELECT run_id FROM flow_run WHERE name = 'the-run'")[0][0])
    database.close()
"""


@pytest.mark.parametrize("runner", ["threads", "processes?max_workers=1"])
def test_each_process_finds_its_own_class(tmp_path: Path, runner: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT).replace("RUNNER", repr(runner)))
    home = {**os.environ, "ANABRANCH_HOME": str(tmp_path / "home")}

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *args],
            env=home,
            cwd=tmp_path,
            timeout=50,
            capture_output=True,
            text=True,
        )

    def told(last: str) -> None:
        lines = (tmp_path / "told.txt").read_text().split("\n")
        assert (lines[0], lines[-2]) == ("moved", last)

    assert "not yet" in run("script.py").stderr
    told("__main__")
    run_id = run("-c", textwrap.dedent(FIND)).stdout.strip()
    assert "not yet" in run("-c", textwrap.dedent(LOADER), "script.py", run_id).stderr
    told("script")
    assert "not yet" in run("script.py", run_id).stderr
    told("__main__")
    ended = run("-c", textwrap.dedent(LOADER), "script.py", run_id)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "told.txt").read_text().count("moved") == 1


@pytest.mark.parametrize("runner", ["threads", "processes?max_workers=1"])
def test_what_was_recorded_by_a_loaded_script_is_read_where_it_is_main(
    tmp_path: Path, runner: str
) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT).replace("RUNNER", repr(runner)))
    starts = LOADER.replace(
        "module.pipeline.resume(sys.argv[2])",
        "module.pipeline(module.Point(1, module.Color.RED), 2)",
    )
    home = {**os.environ, "ANABRANCH_HOME": str(tmp_path / "home")}

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *args],
            env=home,
            cwd=tmp_path,
            timeout=50,
            capture_output=True,
            text=True,
        )

    assert "not yet" in run("-c", textwrap.dedent(starts), "script.py").stderr
    run_id = run("-c", textwrap.dedent(FIND)).stdout.strip()
    ended = run("script.py", run_id)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "told.txt").read_text() == "moved\nscript\n__main__\n"
