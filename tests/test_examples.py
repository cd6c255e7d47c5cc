"""Each example runs as its user would run it."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
RUNNERS = ["inline", "threads", "asyncio"]


def run_example(name: str, *options: str) -> str:
    command = [sys.executable, str(EXAMPLES / name), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def some_files(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "inner").mkdir(parents=True)
    (root / "top.py").write_text("import os\n\n\ndef one():\n    return os\n")
    (root / "inner" / "two.py").write_text("class Two:\n    async def three(self): ...\n")
    return root


def test_census_gives_the_same_file_on_every_runner(tmp_path: Path, some_files: Path) -> None:
    files: list[bytes] = []
    for runner in RUNNERS:
        out = tmp_path / f"{runner}.csv"
        told = run_example(
            "census.py", "--root", str(some_files), "--runner", runner, "--out", str(out)
        )
        assert "5 of 10 files could not be parsed:" in told
        assert "awkward/null_byte.py: SyntaxError" in told
        assert f" on {runner}; written to " in told.replace("\n", " ")
        files.append(out.read_bytes())
    assert files[0] == files[1] == files[2]
    assert b"(top),1,5,1,0,1" in files[0]
    assert b"inner,1,2,1,1,0" in files[0]


def test_census_of_nothing_ends_early(tmp_path: Path) -> None:
    told = run_example("census.py", "--root", str(tmp_path), "--out", str(tmp_path / "out.csv"))
    assert told == f"There are no Python files below {tmp_path}.\n"
    assert not (tmp_path / "out.csv").exists()


def test_census_counts_below_site_packages_if_asked_to(tmp_path: Path, some_files: Path) -> None:
    root = tmp_path / "site-packages" / "some"
    root.parent.mkdir()
    some_files.rename(root)
    out = tmp_path / "out.csv"
    run_example("census.py", "--root", str(root), "--out", str(out))
    assert b"(top),1,5,1,0,1" in out.read_bytes()


def test_census_writes_no_path_of_this_machine(tmp_path: Path, some_files: Path) -> None:
    (some_files / "bad.py").write_bytes(b"# coding: no-such-codec\n")
    out = tmp_path / "out.csv"
    run_example("census.py", "--root", str(some_files), "--out", str(out))
    assert "bad.py" in out.read_text()
    assert str(tmp_path) not in out.read_text()
    assert str(EXAMPLES) not in out.read_text()
