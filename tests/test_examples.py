"""Each example runs as its user would run it, with warnings as errors."""

from __future__ import annotations

import itertools
import re
import sqlite3
import subprocess
import sys
import sysconfig
from contextlib import closing
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
RUNNERS = ["inline", "threads", "asyncio", "processes"]


def run(script: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-X", "dev", str(script), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)


def run_example(name: str, *options: str) -> str:
    """What it prints; it ends well, and no warning stands in its log."""
    done = run(EXAMPLES / name, *options)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return done.stdout


# -- census ---------------------------------------------------------------------------------------


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
        assert "  ../awkward/null_byte.py: SyntaxError: source code " in told
        assert f" on {runner}; written to {out}\n" in told
        files.append(out.read_bytes())
    assert files == [files[0]] * len(RUNNERS)
    assert b"\r\n.,1,5,1,0,1\r\n" in files[0]
    assert b"\r\ninner,1,2,1,1,0\r\n" in files[0]


def test_census_tells_why_files_failed_without_tracebacks(tmp_path: Path, some_files: Path) -> None:
    out = tmp_path / "out.csv"
    done = run(EXAMPLES / "census.py", "--root", str(some_files), "--out", str(out))
    assert "'(' was never closed (unfinished.py, line 1)\n" in done.stdout
    assert "5 task runs did not complete: " in done.stderr
    assert "Traceback" not in done.stderr


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
    assert "\n.,1,5,1,0,1\n" in out.read_text()


def test_census_writes_no_path_of_this_machine(tmp_path: Path, some_files: Path) -> None:
    (some_files / "bad.py").write_bytes(b"# coding: no-such-codec\n")
    out = tmp_path / "out.csv"
    run_example("census.py", "--root", str(some_files), "--out", str(out))
    assert "bad.py" in out.read_text()
    assert str(tmp_path) not in out.read_text()
    assert str(EXAMPLES) not in out.read_text()


def test_census_keeps_its_awkward_files_apart(tmp_path: Path, some_files: Path) -> None:
    (some_files / "awkward").mkdir()
    (some_files / "awkward" / "bom.py").write_text("import this\n")
    out = tmp_path / "out.csv"
    run_example("census.py", "--root", str(some_files), "--out", str(out))
    text = out.read_text()
    assert "\nawkward,1,1,0,0,1\n" in text
    assert "\n../awkward,3,4,1,0,0\n" in text


def test_census_takes_odd_names(tmp_path: Path, some_files: Path) -> None:
    (some_files / "[bold]").mkdir()
    (some_files / "[bold]" / "one.py").write_text("import os\n")
    (some_files / "no_file.py").mkdir()
    try:
        (some_files / "b\udcffd.py").write_text("def (\n")
    except OSError:
        pytest.skip("file names have to be text here")
    out = tmp_path / "out.csv"
    told = run_example("census.py", "--root", str(some_files), "--out", str(out))
    assert "│ [bold] " in told
    assert "6 of 12 files could not be parsed:\n  b\\udcffd.py: SyntaxError: " in told
    assert "\nb\\udcffd.py," in out.read_text()


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--runner", "foo", "'foo' names no task runner. Known here: asyncio, dask, inline, "),
        ("--runner", "threads?max_workers=0", "max_workers='0' will not do"),
        ("--runner", "inline?max_workers=2", "inline: max_workers='2' will not do"),
        ("--root", "no/such/folder", "no/such/folder is not a folder"),
        ("--root", __file__, f"{__file__} is not a folder"),
        ("--out", "no/such/folder/out.csv", "is not a file in a folder that exists"),
    ],
)
def test_census_refuses_a_bad_option(tmp_path: Path, option: str, value: str, told: str) -> None:
    options = {"--root": str(tmp_path), "--out": str(tmp_path / "out.csv"), option: value}
    done = run(EXAMPLES / "census.py", *[text for pair in options.items() for text in pair])
    assert done.returncode == 2
    assert done.stderr.startswith("usage: census.py ")
    assert f"error: argument {option}: " in done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


# -- the others -----------------------------------------------------------------------------------


def rows(told: str) -> list[list[str]]:
    """The cells of a printed table, without its head."""
    lines = [line for line in told.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


def test_flaky_fetch_tries_again_only_where_that_can_help() -> None:
    told = run_example("flaky_fetch.py")
    assert rows(told) == [
        ["/rivers", "1", "Amazon, Nile"],
        ["/lakes", "3", "Baikal"],
        ["/deltas", "2", "Okavango"],
        ["/flood", "4", "Unavailable: /flood"],
        ["/nowhere", "1", "NotFound: /nowhere"],
    ]
    assert told.endswith("3 pages came; these did not: /flood, /nowhere\n")


def test_flaky_fetch_leaves_nothing_but_its_log() -> None:
    done = run(EXAMPLES / "flaky_fetch.py")
    assert "2 task runs did not complete: " in done.stderr.splitlines()[-1]
    for trace in ("never awaited", "was destroyed", "unclosed", "Unhandled"):
        assert trace not in done.stderr


def test_branches_halves_until_it_is_exact() -> None:
    told = run_example("branches.py")
    found = re.search(r"The area is (.*) after (.*) tasks; exact is (.*)\.\n", told)
    assert found is not None
    area, tasks, exact = map(float, found.groups())
    assert exact == pytest.approx(3.12159332)
    assert area == pytest.approx(exact, abs=1e-6)
    rounds = [[int(cell) for cell in row[:3]] for row in rows(told)]
    assert [number for number, _, _ in rounds] == list(range(1, len(rounds) + 1))
    assert tasks == sum(intervals for _, intervals, _ in rounds)
    assert rounds[0][1:] == [1, 0]
    for (_, intervals, good), (_, following, _) in itertools.pairwise(rounds):
        assert following == 2 * (intervals - good)
    assert rounds[-1][1] == rounds[-1][2]


def test_side_by_side_goes_on_without_the_subflow_that_fails() -> None:
    told = run_example("side_by_side.py")
    assert rows(told) == [
        ["harbour", "54.14"],
        ["summit", "could not convert string to float: 'broken'"],
        ["valley", "49.64"],
    ]
    assert told.endswith("The warmest of 2 stations is harbour; 1 failed.\n")


def test_every_runner_gives_the_same_result() -> None:
    told = run_example("every_runner.py")
    assert [row[:2] for row in rows(told)] == [[runner, "22,044"] for runner in RUNNERS]
    assert all(0 < float(seconds) < 30 for _, _, seconds in rows(told))
    assert told.endswith("All results are equal.\n")


def test_every_runner_needs_no_main_guard(tmp_path: Path) -> None:
    guarded = (EXAMPLES / "every_runner.py").read_text()
    script = tmp_path / "unguarded.py"
    script.write_text(
        guarded.replace('if __name__ == "__main__":\n    main()', "main()")
        .replace("RUNNERS = [", 'RUNNERS = ["processes"]\nALL = [')
        .replace("250_000", "25_000")
    )
    assert "__name__" not in script.read_text()
    done = run(script)
    assert done.returncode == 0, done.stderr
    assert [row[:2] for row in rows(done.stdout)] == [["processes", "2,762"]]


def test_the_list_of_examples_is_complete() -> None:
    listed = re.findall(
        r"`(?:python|anabranch bench) examples/(\w+\.py)", (EXAMPLES / "README.md").read_text()
    )
    assert sorted(listed) == sorted(path.name for path in EXAMPLES.glob("*.py"))


def test_a_killed_census_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANABRANCH_HOME", str(tmp_path))
    census = EXAMPLES / "census.py"
    root = Path(sysconfig.get_paths()["stdlib"]) / "asyncio"
    whole, resumed = tmp_path / "whole.csv", tmp_path / "resumed.csv"
    run_example("census.py", "--root", str(root), "--out", str(whole))
    with closing(sqlite3.connect(tmp_path / "anabranch.db")) as database:
        latest = "SELECT MAX(id) FROM flow_run"
        done = f"SELECT COUNT(*) FROM task_run WHERE flow_run = ({latest}) AND phase = 9"
        first = database.execute(latest).fetchone()
        process = subprocess.Popen(
            [sys.executable, str(census), "--root", str(root)], stderr=subprocess.DEVNULL
        )
        while (
            database.execute(latest).fetchone() == first or not database.execute(done).fetchone()[0]
        ):
            assert process.poll() is None, "it ended before it could be killed"
        process.kill()
        process.wait()
        (name,) = database.execute(f"SELECT name FROM flow_run WHERE id = ({latest})").fetchone()
    told = run(census, "--resume", name, "--out", str(resumed))
    assert "completed calls are handed back as they were recorded" in told.stderr
    assert resumed.read_text() == whole.read_text()
    told = run(census, "--resume", name)
    assert told.returncode == 2 and "has completed: nothing is left to do" in told.stderr


# -- on clusters ----------------------------------------------------------------------------------


@pytest.mark.parametrize("runner", ["dask?n_workers=2&threads_per_worker=1", "ray?num_cpus=2"])
def test_census_is_the_same_on_a_cluster(tmp_path: Path, some_files: Path, runner: str) -> None:
    on_threads, on_cluster = tmp_path / "threads.csv", tmp_path / "cluster.csv"
    run_example("census.py", "--root", str(some_files), "--out", str(on_threads))
    census = [sys.executable, str(EXAMPLES / "census.py"), "--root", str(some_files)]
    subprocess.run(
        [*census, "--out", str(on_cluster), "--runner", runner], check=True, capture_output=True
    )
    assert on_cluster.read_bytes() == on_threads.read_bytes()


def test_every_cluster_gives_the_same() -> None:
    told = subprocess.run(
        [sys.executable, str(EXAMPLES / "on_a_cluster.py")],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    sums = [line.split("│")[2].strip() for line in told.splitlines() if line.startswith("│")]
    assert len(sums) == 3 and len(set(sums)) == 1
