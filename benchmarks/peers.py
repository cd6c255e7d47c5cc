"""What a task costs in other task runners, each in an environment of its own, beside ours."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.clusters import MARK, Cluster

SNIPPETS = Path(__file__).with_name("peer_snippets")
MOST_ROUNDS = 3
INSTALL_SECONDS = 900.0
RUN_SECONDS = 300.0
QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_LOGGING_LEVEL": "ERROR",
    "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
    "DAGSTER_DISABLE_TELEMETRY": "yes",
}
"""No log lines of what goes well, nobody is told anything, and Prefect starts its own server."""
CAPTION = (
    "From the first submission to the last result, after a few tasks as warm-up, so without the"
    " start of an engine or its workers. anabranch's figures hold more: the flow's whole call, with"
    " the start of its runner, until all is committed. A step of DBOS is committed before the next"
    " begins; anabranch commits groups of tasks while others run; later: the server has most still"
    " to record when the results are there. Each run has a fresh home on the disk of temporary"
    " files. Medians; the ratios are each to a run of anabranch on threads right before. Machines"
    " are noisy: compare only what one table shows."
)


class Peer(NamedTuple):
    """A row: `requirement` is what pip installs, nothing for what runs on this Python."""

    name: str
    records: str
    tasks: int
    requirement: str
    script: str
    arguments: tuple[str, ...] = ()


OURS = Peer("anabranch, 8 threads", "SQLite", 20_000, "", "anabranch_map.py", ("threads?max_workers=8",))  # fmt: skip
PEERS = (
    Peer("ThreadPoolExecutor(8)", "nothing", 20_000, "", "bare_threads.py"),
    OURS,
    Peer("anabranch, 2 processes", "SQLite", 20_000, "", "anabranch_map.py", ("processes?max_workers=2",)),
    Peer("joblib, 2 processes (loky)", "nothing", 20_000, "joblib", "joblib_parallel.py", ("loky", "2")),
    Peer("joblib, 8 threads", "nothing", 20_000, "joblib", "joblib_parallel.py", ("threading", "8")),
    Peer("Parsl, 8 threads", "nothing", 5_000, "parsl", "parsl_apps.py", ("threads",)),
    Peer("Parsl, 2 processes (HighThroughput)", "nothing", 3_000, "parsl", "parsl_apps.py", ("processes",)),
    Peer("DBOS, steps one by one", "SQLite", 2_000, "dbos", "dbos_steps.py"),
    Peer("redun, 20 threads", "SQLite", 1_000, "redun", "redun_tasks.py"),
    Peer("Prefect, 8 threads", "SQLite, later", 500, "prefect>=3,<4", "prefect_threads.py", ("results",)),
    Peer("Prefect, until all is recorded", "SQLite", 500, "prefect>=3,<4", "prefect_threads.py", ("recorded",)),
    Peer("Dagster, dynamic outputs in process", "in memory", 200, "dagster", "dagster_dynamic.py", ("memory",)),
    Peer("Dagster, with a DAGSTER_HOME", "SQLite", 200, "dagster", "dagster_dynamic.py", ("home",)),
)  # fmt: skip


class Measurement(NamedTuple):
    """What a run of a snippet reports."""

    tasks: int
    seconds: float
    version: str

    @property
    def microseconds(self) -> float:
        """A task."""
        return self.seconds / self.tasks * 1e6


class Skipped(Exception):
    """A peer can't be installed or run; the message is the reason, in one line."""


Pairs = list[tuple[Measurement, Measurement]]
"""A row's measurements, each after one of anabranch on threads that stands beside it."""


def peers(tasks: int | None, rounds: int, only: str, envs: Path) -> None:
    """Print the table of the peers whose name has `only` in it, beside anabranch on threads, whose
    number of tasks stays, so that ratios do too; environments are made and kept in `envs`.

    A row that can't be measured says why. Raises `Skipped` if anabranch on threads itself can't be.
    """
    chosen = [
        peer if peer is OURS or tasks is None else peer._replace(tasks=tasks)
        for peer in PEERS
        if peer is OURS or only.lower() in peer.name.lower()
    ]
    progress = Console(stderr=True)
    with progress.status("starting") as status:

        def say(words: str) -> None:
            status.update(words)
            if not progress.is_terminal:
                progress.print(words)

        pythons = _pythons([peer.requirement for peer in chosen], envs, say)
        rows = _measurements(chosen, pythons, min(rounds, MOST_ROUNDS), say)
    Console(width=118).print(_table(rows))


def _pythons(
    requirements: list[str], envs: Path, say: Callable[[str], None]
) -> dict[str, str | Skipped]:
    """The interpreter that has each requirement."""
    pythons: dict[str, str | Skipped] = {"": sys.executable}
    for requirement in requirements:
        if requirement not in pythons:
            try:
                pythons[requirement] = _environment(requirement, envs, say)
            except Skipped as reason:
                pythons[requirement] = reason
    return pythons


def _environment(requirement: str, envs: Path, say: Callable[[str], None]) -> str:
    """The Python of the requirement's environment, which is made unless it is there complete;
    raises `Skipped`."""
    name = requirement.partition(">")[0]
    place = envs / f"{name}-python{sys.version_info.major}.{sys.version_info.minor}"
    python, complete = place / "bin" / "python", place / "complete"
    if python.exists() and complete.exists() and complete.read_text() == requirement:
        return str(python)
    say(f"installing {requirement} in {place}, which takes up to some minutes, once")
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(place)],
        [str(python), "-m", "pip", "install", "--quiet", requirement],
    ):
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, env=outside, timeout=INSTALL_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise Skipped(f"not installed in {INSTALL_SECONDS:.0f} s") from None
        if done.returncode != 0:
            raise Skipped(_reason(done.stderr or done.stdout))
    complete.write_text(requirement)
    return str(python)


def _measurements(
    chosen: list[Peer],
    pythons: Mapping[str, str | Skipped],
    rounds: int,
    say: Callable[[str], None],
) -> dict[Peer, Pairs | Skipped]:
    rows: dict[Peer, Pairs | Skipped] = {}
    for turn in range(rounds):
        for number, peer in enumerate(chosen, 1):
            pairs, python = rows.setdefault(peer, []), pythons[peer.requirement]
            if isinstance(pairs, Skipped):
                continue
            say(f"round {turn + 1} of {rounds}, row {number} of {len(chosen)}: {peer.name}")
            beside = _measurement(OURS, sys.executable)
            try:
                if isinstance(python, Skipped):
                    raise python
                pairs.append((beside, beside if peer is OURS else _measurement(peer, python)))
            except Skipped as reason:
                rows[peer] = reason
    return rows


def _measurement(peer: Peer, python: str) -> Measurement:
    """Of one run of the peer's snippet in a process and with a home of its own; raises
    `Skipped`."""
    command = [python, str(SNIPPETS / peer.script), str(peer.tasks), *peer.arguments]
    started = Cluster(runner="", address="", mark=uuid.uuid4().hex)
    with tempfile.TemporaryDirectory(prefix="peer-", ignore_cleanup_errors=True) as home:
        output, errors = Path(home, "output"), Path(home, "errors")
        environment = {
            "HOME": home,
            "PATH": f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": "" if peer.requirement else os.pathsep.join(sys.path),
            MARK: started.mark,
            **QUIET,
        }
        with output.open("wb") as stdout, errors.open("wb") as stderr:
            process = subprocess.Popen(
                command,
                cwd=home,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
            )
            try:
                code = process.wait(RUN_SECONDS)
            except subprocess.TimeoutExpired:
                raise Skipped(f"not done in {RUN_SECONDS:.0f} s") from None
            finally:
                process.kill()
                for left in started.processes():
                    _kill(left)
                process.wait()
        if code != 0:
            raise Skipped(_reason(errors.read_text(errors="replace")))
        lines = output.read_text(errors="replace").splitlines()
    for line in reversed(lines):
        if line.startswith('{"tasks"'):
            return Measurement(**json.loads(line))
    raise Skipped("its snippet reported nothing")


def _kill(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _reason(output: str) -> str:
    """The line of the output that says why."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("ERROR:")] or lines[-1:]
    return said[-1].removeprefix("ERROR: ")[:120] if said else "it failed and said nothing"


def _table(rows: Mapping[Peer, Pairs | Skipped]) -> Table:
    table = Table(title="tasks of x + 1", caption=CAPTION, caption_justify="left")
    for column in ("what", "version", "records", "tasks", "µs a task", "least to most", "ratio"):
        left = column in ("what", "version", "records")
        table.add_column(column, justify="left" if left else "right")
    for peer, pairs in rows.items():
        if isinstance(pairs, Skipped):
            table.add_row(escape(f"{peer.name}\nskipped: {pairs}"))
            continue
        costs = [measured.microseconds for _, measured in pairs]
        if peer is OURS:
            costs = [
                beside.microseconds
                for others in rows.values()
                if not isinstance(others, Skipped)
                for beside, _ in others
            ]
        ratio = statistics.median(
            measured.microseconds / beside.microseconds for beside, measured in pairs
        )
        table.add_row(
            peer.name,
            pairs[0][1].version,
            peer.records,
            f"{peer.tasks:,}",
            _shown(statistics.median(costs)),
            f"{_shown(min(costs))} to {_shown(max(costs))}",
            _shown(ratio),
        )
    return table


def _shown(figure: float) -> str:
    """With three digits or more."""
    digits = 2 if figure < 10 else 1 if figure < 100 else 0
    return f"{figure:,.{digits}f}"
