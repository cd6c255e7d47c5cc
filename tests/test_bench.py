"""Benchmark suites: the decorator and its cases, measuring, and `anabranch bench` as a process."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyperf
import pytest
from dask_clusters import dask_processes
from imports import loads_none_of
from typer.testing import CliRunner, Result
from waits import until

from anabranch import flow
from anabranch.bench import Benchmark, benchmark, run_suite
from anabranch.bench.comparing import compare, geometric_mean, left_out, unlike
from anabranch.bench.grids import Case, find_cases
from anabranch.bench.host_lock import host_lock
from anabranch.bench.measuring import SAMPLE_SECONDS, measure
from anabranch.bench.plotting import draw_plots, lines_over, numeric_param
from anabranch.bench.result_files import read_results, write_results
from anabranch.bench.results import (
    FAILED,
    MEASURED,
    TIMED_OUT,
    WRONG,
    CaseResult,
    mean_text,
)
from anabranch.bench.statistics import Mean, is_significant, mean_of
from anabranch.bench.time_limits import call_in_time
from anabranch.cli.app import app
from anabranch.errors import (
    BenchmarkFileError,
    MissingFlowError,
    OptionError,
    RunTimedOut,
    WrongAnswerError,
)

SUITE = """
import asyncio, time
from helpers import nothing_here  # beside it, and not on the workers of a cluster
from anabranch.bench import benchmark

FACTOR = 2

def sizes():
    yield from (10, 100)

def numbers(size, rng):
    return [rng.random() for _ in range(size)]

def is_right(result, size):
    return len(result) == FACTOR * size

@benchmark(params={"size": sizes, "kind": ["list", "tuple"]}, setup=numbers, check=is_right,
           min_repeats=3, time_limit=0.1)
def doubling(data, kind):
    return {"list": list, "tuple": tuple}[kind](data * FACTOR)

@benchmark(min_repeats=3, time_limit=0.1)
async def naps():
    await asyncio.sleep(0.002)

@benchmark(check=lambda result: result == 2)
def wrong():
    return 1

@benchmark
def bad():
    raise ValueError("no\\ngood")

@benchmark(params=lambda: 1 / 0)
def no_cases(size):
    pass

@benchmark
def leaves():
    raise SystemExit(3)

@benchmark(timeout_seconds=0.3)
def slow():
    while True:
        pass

@benchmark(timeout_seconds=0.3)
async def slow_naps():
    await asyncio.sleep(60)
"""
MEASURED_NAMES = [
    "doubling[size=10,kind=list]",
    "doubling[size=10,kind=tuple]",
    "doubling[size=100,kind=list]",
    "doubling[size=100,kind=tuple]",
    "naps",
]
LEFT = {
    "wrong": (WRONG, "the check gave False"),
    "bad": (FAILED, "ValueError: no good (bench_mixed:"),
    "no_cases": (FAILED, "its params: ZeroDivisionError: division by zero"),
    "leaves": (FAILED, "SystemExit: 3 (bench_mixed:"),
    "slow": (TIMED_OUT, "after 0.3 s"),
    "slow_naps": (TIMED_OUT, "after 0.3 s"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the suite, which is the current one; a home and a host's lock of its own."""
    monkeypatch.setenv("ANABRANCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    place = tmp_path / "suite"
    place.mkdir()
    monkeypatch.chdir(place)
    (place / "bench_mixed.py").write_text(SUITE)
    (place / "helpers.py").write_text("nothing_here = None\n")
    return place


def bench(*args: str, code: int = 0, **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "anabranch", "bench", *args],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        **options,
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    return done


def invoked(*args: str, code: int) -> Result:
    result = CliRunner().invoke(app, ["bench", *args])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def names(found: Benchmark[..., Any]) -> list[str]:
    return [case.name for case in find_cases(found)]


def result_of(name: str, values: list[float], **metadata: Any) -> CaseResult:
    return CaseResult(name, name, {}, MEASURED, values=tuple(values), metadata=metadata)


# -- cases ----------------------------------------------------------------------------------------


def test_a_bare_benchmark_is_its_function_with_one_case() -> None:
    @benchmark
    def nothing(x: int = 2) -> int:
        return 2 * x

    assert nothing(4) == 8
    assert nothing.__name__ == "nothing"
    assert names(nothing) == ["nothing"]


def test_params_are_the_product_of_lists_generators_and_functions() -> None:
    def sizes() -> Iterator[int]:
        yield from (1, 2)

    @benchmark(params={"a": sizes, "b": (str(x) for x in range(2)), "c": [None]})
    def product(a: int, b: str, c: None) -> None: ...

    assert names(product) == [
        f"product[a={a},b={b},c=None]" for a, b in [(1, 0), (1, 1), (2, 0), (2, 1)]
    ]


ROWS = [{"a": 1, "b": 2}, {"a": 3, "b": 2}]


@pytest.mark.parametrize(
    "params", [ROWS, iter(ROWS), lambda: ROWS, lambda: iter(ROWS), lambda: {"a": [1, 3], "b": [2]}]
)
def test_params_may_be_given_for_each_case(params: Any) -> None:
    @benchmark(params=params)
    def each(a: int, b: int) -> None: ...

    assert names(each) == ["each[a=1,b=2]", "each[a=3,b=2]"]


def test_values_that_are_told_alike_get_names_of_their_own() -> None:
    @benchmark(params={"a": [1, "1", max, "x\n" * 60]})
    def alike(a: Any) -> None: ...

    told = names(alike)
    assert told[:3] == ["alike[a=1]", "alike[a=1]#2", "alike[a=max]"]
    assert len(told[3]) == len("alike[a=]") + 40 and told[3].endswith("…]")


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"b": [1]}, "also 'a', which the function needs"),
        ({"a": [1], "z": [1]}, "unlike 'z'"),
        ({"a": "text"}, "params['a']='text' will not do; it takes a list or generator of values"),
        ([{"b": 1}], "also 'a'"),
        ([1], "something that gives a dict for each case"),
        (lambda: 3, "a dict of lists, or something that gives a dict"),
    ],
)
def test_params_that_do_not_fit_are_refused(params: Any, expected: str) -> None:
    def takes(a: int, b: int = 0) -> None: ...

    with pytest.raises(OptionError) as caught:
        find_cases(Benchmark(takes, params=params))
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"warmup": -1}, "a whole number from 0"),
        ({"min_repeats": 1}, "a whole number from 2 to 5000"),
        ({"min_repeats": 9, "max_repeats": 8}, "a whole number from 9 to 5000"),
        ({"max_repeats": 10**6}, "to 5000"),
        ({"confidence": 0}, "a share of the mean"),
        ({"time_limit": float("nan")}, "seconds, more than 0"),
        ({"timeout_seconds": True}, "seconds, more than 0"),
        ({"seed": "x"}, "a whole number"),
        ({"exclusive": 1}, "True or False"),
        ({"setup": 3}, "a function"),
        ({"setup_each": True}, "given with a setup"),
        ({"setup": dict}, "left out where all of the function's parameters are params"),
    ],
)
def test_options_out_of_range_are_refused(options: Any, expected: str) -> None:
    with pytest.raises(OptionError, match="Benchmark 'nothing'") as caught:

        @benchmark(**options)
        def nothing() -> None: ...

    assert expected in str(caught.value)


def test_generators_and_async_setups_of_sync_functions_are_refused() -> None:
    def items() -> Iterator[int]:
        yield 1

    async def setup() -> None: ...

    with pytest.raises(OptionError, match="that is no generator"):
        benchmark(items)
    with pytest.raises(OptionError, match="only where the benchmark is one"):
        Benchmark(lambda data: data, setup=setup)


# -- measuring ------------------------------------------------------------------------------------


def measured(fn: Any, **options: Any) -> Any:
    found: Benchmark[..., Any] = Benchmark(fn, **{"min_repeats": 2, "max_repeats": 2, **options})
    return measure(found.plan, find_cases(found)[0])


def test_setup_gets_the_params_and_a_seed_of_the_case() -> None:
    got: list[Any] = []

    def setup(size: int, rng: random.Random, seed: int) -> tuple[int, float, int]:
        return size, rng.random(), seed

    def run(data: Any, kind: str) -> None:
        got.append((data, kind))

    for seed in (0, 0, 1):
        measured(run, setup=setup, params={"size": [3], "kind": ["x"]}, seed=seed)
    (first, again, other) = sorted(set(got), key=got.index)[:1] * 2 + [got[-1]]
    assert first == again != other
    assert first[0][0] == 3 and first[1] == "x"


def test_one_setup_a_case_or_one_a_sample() -> None:
    made: list[list[int]] = []

    def setup() -> list[int]:
        made.append([])
        return made[-1]

    def grow(data: list[int]) -> None:
        data.append(1)

    once = measured(grow, setup=setup)
    assert len(made) == 1 and once.loops > 1
    made.clear()
    each = measured(grow, setup=setup, setup_each=True, warmup=3)
    assert made == [[1]] * 5
    assert each.loops == 1 and len(each.warmups) == 3


def test_quick_functions_run_in_loops_and_slow_ones_do_not() -> None:
    quick = measured(lambda: None)
    assert quick.loops > 100
    loops, seconds = quick.warmups[-1]
    assert loops == quick.loops and loops * seconds >= SAMPLE_SECONDS
    slow = measured(lambda: time.sleep(0.002))
    assert slow.loops == 1 and all(value >= 0.002 for value in slow.values)


def test_a_first_call_that_is_slow_does_not_set_the_loops() -> None:
    turns = iter([0.01])
    assert measured(lambda: time.sleep(next(turns, 0.0))).loops > 1


def test_repeats_end_with_confidence_time_or_number() -> None:
    steady = measured(lambda: time.sleep(0.002), confidence=0.9, max_repeats=50)
    assert len(steady.values) == 2
    noisy = iter(range(10**6))

    def jumps() -> None:
        time.sleep(0.002 * (next(noisy) % 5 == 0) + 0.001)

    assert len(measured(jumps, confidence=1e-9, max_repeats=7).values) == 7
    began = time.monotonic()
    measured(jumps, confidence=1e-9, max_repeats=5000, time_limit=0.05)
    assert time.monotonic() - began < 5


def test_the_clock_sees_the_function_alone() -> None:
    def setup() -> None:
        time.sleep(0.02)

    def check(result: Any) -> bool:
        time.sleep(0.02)
        return True

    found = measured(lambda data: None, setup=setup, setup_each=True, check=check)
    assert max(found.values) < 0.01


def test_async_functions_have_one_loop_and_async_setups() -> None:
    loops: set[int] = set()

    async def setup() -> int:
        loops.add(id(asyncio.get_running_loop()))
        return 4

    async def run(data: int) -> int:
        loops.add(id(asyncio.get_running_loop()))
        await asyncio.sleep(0.002)
        return data

    async def check(result: int) -> bool:
        return result == 4

    found = measured(run, setup=setup, check=check)
    assert len(loops) == 1
    assert min(found.values) >= 0.002


@pytest.mark.parametrize("answer", [False, 0, None, ValueError("off by one")])
def test_a_check_that_is_not_content_is_a_wrong_answer(answer: Any) -> None:
    def check(result: int, size: int) -> Any:
        assert (result, size) == (1, 5)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with pytest.raises(WrongAnswerError, match=r"\[size=5\] gave a wrong answer: "):
        measured(lambda size: 1, check=check, params={"size": [5]}, setup=None)


# -- figures --------------------------------------------------------------------------------------


def test_the_interval_is_that_of_students_t() -> None:
    mean = mean_of([1.0, 2.0, 3.0, 4.0, 5.0])
    assert mean.value == 3
    assert mean.half_width == pytest.approx(2.776 * 2.5**0.5 / 5**0.5)


def test_significance_takes_samples_of_any_number() -> None:
    rng = random.Random(1)

    def sample(mean: float, count: int) -> list[float]:
        return [rng.gauss(mean, 0.1) for _ in range(count)]

    assert is_significant(sample(1, 10), sample(2, 50))
    assert not is_significant(sample(1, 10), sample(1, 50))
    assert is_significant([1, 1], [2, 2]) and not is_significant([1, 1], [1, 1, 1])
    false = sum(is_significant(sample(1, 8), sample(1, 30)) for _ in range(2000))
    assert 50 < false < 160  # 5 % of them


@pytest.mark.parametrize(
    ("mean", "half", "told"),
    [
        (1.234567, 0.0123, "1.235 ± 0.012 s"),
        (1.2e-3, 4.1e-5, "1.200 ± 0.041 ms"),
        (6.6e-7, 9.2e-8, "660 ± 92 ns"),
        (5e-6, 0.0, "5.0000 ± 0.0000 µs"),
        (3e-10, 1e-10, "0.30 ± 0.10 ns"),
    ],
)
def test_means_are_told_as_exactly_as_they_are_known(mean: float, half: float, told: str) -> None:
    assert mean_text(Mean(mean, half)) == told


def test_a_comparison_says_ratio_and_significance() -> None:
    base = [result_of("a", [2.0, 2.1, 1.9], hostname="x"), result_of("gone", [1.0, 1.1])]
    base.append(CaseResult("b", "b", {}, FAILED, "ValueError: no"))
    now = [result_of("a", [1.0, 1.01, 0.99], hostname="y"), result_of("b", [1.0, 1.1])]
    compared = compare(now, base)
    assert compared[0].ratio == pytest.approx(0.5) and compared[0].significant
    assert compared[1].ratio is None and compared[1].base == base[-1]
    assert geometric_mean(compared) == pytest.approx(0.5)
    assert unlike(compared) == ["hostname x, now y"]
    assert left_out(now, base) == ["gone"]


def test_results_come_back_from_their_file(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    whole = CaseResult(
        "f[size=3,kind=]",
        "f",
        {"size": 3, "kind": "''"},
        MEASURED,
        None,
        (1.0, 2.0),
        5,
        ((1, 3.0),),
    )
    failed = CaseResult("g", "g", {}, WRONG, "it is", metadata={"hostname": "h"})
    write_results(path, [whole, failed])
    back = read_results(path)
    assert [each._replace(metadata={}, warmups=()) for each in back] == [
        whole._replace(metadata={}, warmups=()),
        failed._replace(metadata={}),
    ]
    assert pyperf.BenchmarkSuite.load(str(path)).get_benchmark("f[size=3,kind=]").get_loops() == 5
    write_results(path, [failed])
    assert read_results(path) == [failed]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"benchmarks": [{}], "version": "1.0"}'])
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "base.json").write_text(text)
    with pytest.raises(BenchmarkFileError, match="cannot be read as results"):
        read_results(tmp_path / "base.json")


def test_plots_are_curves_over_numbers_or_bars(tmp_path: Path) -> None:
    def case(size: Any, kind: str, seconds: float) -> CaseResult:
        values = (seconds, 1.1 * seconds, 1.2 * seconds)
        name, params = f"f[{size},{kind}]", {"size": size, "kind": kind}
        return CaseResult(name, "f/1", params, MEASURED, values=values)

    curve = [case(10**power, kind, 10.0**-power) for power in range(4) for kind in "ab"]
    assert numeric_param(curve) == "size"
    lines = lines_over("size", ["kind"], curve)
    assert [line.label for line in lines] == ["a", "b"]
    assert [size for size, _ in lines[0].points] == [1, 10, 100, 1000]
    assert draw_plots(tmp_path / "new", curve, curve) == [tmp_path / "new" / "f_1.png"]
    bars = [case("x", kind, seconds) for kind, seconds in [("a", 1.0), ("b", 1e-3)]]
    assert numeric_param(bars) is None
    (path,) = draw_plots(tmp_path, [*bars, CaseResult("g", "g", {}, FAILED, "no")], bars[:1])
    assert path.read_bytes().startswith(b"\x89PNG")


# -- time limits ------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_main_thread", [True, False])
def test_a_time_limit_insists_where_an_interrupt_is_swallowed(in_main_thread: bool) -> None:
    swallowed: list[BaseException] = []

    def swallows() -> None:
        while True:
            try:
                while True:
                    time.sleep(0.001)
            except BaseException as error:
                swallowed.append(error)
                if len(swallowed) == 2:
                    raise

    told: list[Any] = []

    def run() -> None:
        for seconds, call in ((0.1, swallows), (5, lambda: "done")):
            try:
                told.append(call_in_time(call, "it", seconds))
            except RunTimedOut as error:
                told.append(error.seconds)

    if in_main_thread:
        run()
    else:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert told == [0.1, "done"] and len(swallowed) == 2


# -- a host's lock ---------------------------------------------------------------------------------


def test_the_lock_is_for_one_or_for_those_that_share_it(folder: Path) -> None:
    order: list[str] = []

    def hold(alone: bool, name: str) -> None:
        with host_lock(alone):
            order.append(name)

    with host_lock(False):
        with host_lock(False):
            other = threading.Thread(target=hold, args=(True, "alone"))
            other.start()
        time.sleep(0.05)
        order.append("shared")
    other.join()
    assert order == ["shared", "alone"]


# -- suites ---------------------------------------------------------------------------------------


def test_a_suite_in_a_flow_of_ones_own(folder: Path) -> None:
    @benchmark(params={"x": [1, 2]}, min_repeats=2, max_repeats=2)
    def twice(x: int) -> int:
        return 2 * x

    told: list[str] = []

    @flow
    def mine() -> list[CaseResult]:
        return run_suite([twice], lambda name: "2" in name, lambda each: told.append(each.name))

    (result,) = mine()
    assert result.is_measured and told == ["twice[x=2]"]
    assert result.metadata["runner"] == "threads"
    with pytest.raises(MissingFlowError):
        run_suite([twice])


def checked(results: list[CaseResult], runner: str) -> None:
    """All of the mixed suite is there, in order, and is what it has to be."""
    assert [each.name for each in results if each.is_measured] == MEASURED_NAMES
    for each in results:
        if each.is_measured:
            assert each.metadata["runner"] == runner and each.metadata["cpu_count"]
            assert each.metadata["hostname"] and each.metadata["memory_bytes"]
            assert "load_avg_1min" in each.metadata and "pyperf" in str(each.metadata["packages"])
            assert 0 < each.mean.value < 0.1
    left = {each.name: each for each in results if not each.is_measured}
    assert left.keys() == LEFT.keys()
    for name, (status, error) in LEFT.items():
        assert left[name].status == status
        assert (left[name].error or "").startswith(error)


@pytest.mark.parametrize("runner", ["threads", "processes?max_workers=2"])
def test_a_suite_with_all_that_can_happen(folder: Path, runner: str) -> None:
    done = bench("bench_mixed.py", "--runner", runner, "--json", "now.json", code=1)
    checked(read_results(folder / "now.json"), runner.partition("?")[0])
    for name in (*MEASURED_NAMES, *LEFT):
        assert f"\n{name} " in done.stdout
    assert "6 cases of 11 could not be measured." in done.stderr
    assert "Traceback" not in done.stderr


def test_a_suite_on_dask_workers_that_do_not_have_it(folder: Path, tmp_path: Path) -> None:
    (folder / "bench_mixed.py").write_text(SUITE.replace("from helpers", "# from helpers"))
    with dask_processes(tmp_path, {"TMPDIR": str(tmp_path)}) as cluster:
        cluster.worker()
        cluster.worker()
        cluster.wait_for(2)
        runner = f"dask+{cluster.address}"
        bench("bench_mixed.py", "--runner", runner, "--json", "now.json", code=1)
    checked(read_results(folder / "now.json"), "dask")


def test_compare_and_pyperf_read_what_was_written(folder: Path) -> None:
    (folder / "bench_pair.py").write_text(
        "import os, time\nfrom anabranch.bench import benchmark\n"
        "@benchmark(min_repeats=8, time_limit=0.1)\n"
        "def nap(): time.sleep(float(os.environ['NAP']))\n"
        "@benchmark\n"
        "def fails(): assert os.environ['NAP'] != '0.002'\n"
    )
    place = ("--filter", "a", "--runner", "inline")
    slow, quick = ({**os.environ, "NAP": nap} for nap in ("0.002", "0.001"))
    bench("bench_pair.py", *place, "--json", "a.json", env=slow, code=1)
    options = ("--json", "b.json", "--compare", "a.json", "--plots", "plots")
    told = bench("bench_pair.py", *place, *options, env=quick)
    nap = next(line for line in told.stdout.splitlines() if line.startswith("nap "))
    assert "x faster" in nap and nap.endswith(" significant")
    assert "failed in base" in told.stdout
    assert "Geometric mean of 1 ratio: " in told.stdout
    assert "Not measured alike" not in told.stderr
    assert sorted(each.name for each in (folder / "plots").iterdir()) == ["fails.png", "nap.png"]
    for command in (["compare_to", "a.json", "b.json"], ["stats", "b.json"], ["show", "b.json"]):
        done = subprocess.run(
            [sys.executable, "-m", "pyperf", *command], capture_output=True, text=True, check=True
        )
        assert "nap" in done.stdout or command[0] == "compare_to"
    suite = json.loads((folder / "a.json").read_text())
    suite["metadata" if "hostname" in suite["metadata"] else "none"]["hostname"] = "elsewhere"
    (folder / "a.json").write_text(json.dumps(suite))
    told = bench("bench_pair.py", *place, "--fast", "--compare", "a.json", env=quick)
    assert "Not measured alike" in told.stderr and "hostname elsewhere, now " in told.stderr


COUNTED = """
import pathlib, time
from anabranch.bench import benchmark

def note(n):
    with pathlib.Path("began").open("a") as file:
        file.write(f"{n}\\n")
    return n

def hold(result, n):
    while n == 3 and not pathlib.Path("go").exists():
        time.sleep(0.01)
    return True

@benchmark(params={"n": range(5)}, setup=note, check=hold, min_repeats=2, max_repeats=2)
def counted(value):
    time.sleep(0.001)
"""


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


@pytest.mark.parametrize("way", ["bench", "runs"])
def test_a_killed_suite_goes_on(folder: Path, way: str) -> None:
    (folder / "bench_counted.py").write_text(COUNTED)
    command = [sys.executable, "-m", "anabranch", "bench", "bench_counted.py", "--json", "now.json"]
    process = subprocess.Popen(
        [*command, "--runner", "processes?max_workers=1"], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    told = ""
    while "counted[n=2]: " not in told:
        told += process.stderr.readline()
    until(lambda: "3" in lines(folder / "began"), "the case that holds")
    time.sleep(0.3)  # until what was completed is in the store
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (folder / "now.json").exists()
    (folder / "go").touch()
    name = told.partition("--resume ")[2].split()[0]
    if way == "runs":
        resume = [sys.executable, "-m", "anabranch", "runs", "resume", name]
        done = subprocess.run(resume, capture_output=True, text=True, timeout=50, check=True)
    else:
        done = bench("bench_counted.py", "--resume", name)
        assert done.stdout.count("counted[n=") == 5
        again = bench("bench_counted.py", "--resume", name, code=2)
        assert "has completed" in again.stderr
    assert "3 completed calls are handed back as they were recorded" in done.stderr
    assert lines(folder / "began") == ["0", "1", "2", "3", "3", "4"]
    assert len(read_results(folder / "now.json")) == 5


def test_an_interrupted_suite_says_how_to_go_on(folder: Path) -> None:
    (folder / "bench_counted.py").write_text(COUNTED)
    process = subprocess.Popen(
        [sys.executable, "-m", "anabranch", "bench", "bench_counted.py"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "ANABRANCH_CANCEL_GRACE": "0.1"},
    )
    until(lambda: "3" in lines(folder / "began"), "the case that holds")
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 3
    assert "It has not completed. Go on with it: anabranch bench bench_counted.py --resume " in told


SPANS = """
import pathlib, time
from anabranch.bench import benchmark

def note(word):
    with pathlib.Path("spans").open("a") as file:
        file.write(f"{word} {time.monotonic()}\\n")

def begin():
    note("begin")

def end(result):
    note("end")
    return True

@benchmark(params={"n": range(4)}, setup=begin, check=end, setup_each=True, min_repeats=2,
           max_repeats=2)
def spans(nothing, n=0):
    time.sleep(0.02)
"""


PLACES = ["threads?max_workers=4", "processes?max_workers=2"]


@pytest.mark.parametrize("runner", PLACES)
def test_a_case_has_its_host_alone(folder: Path, runner: str) -> None:
    (folder / "bench_spans.py").write_text(SPANS)
    bench("bench_spans.py", "--runner", runner)
    spans = [line.split() for line in (folder / "spans").read_text().splitlines()]
    words = [word for word, _ in sorted(spans, key=lambda each: float(each[1]))]
    assert words == ["begin", "end"] * 12  # four cases, the first call of each and two repeats


MEETING = """
import pathlib, time
from anabranch.bench import benchmark

def meet(n):
    pathlib.Path(f"here-{n}").touch()
    deadline = time.monotonic() + 20
    while len(list(pathlib.Path().glob("here-*"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)

@benchmark(params={"n": range(2)}, setup=meet, min_repeats=2, max_repeats=2, exclusive=False)
def meets(nothing, n): pass
"""


@pytest.mark.parametrize("runner", PLACES)
def test_cases_that_are_not_exclusive_share_it(folder: Path, runner: str) -> None:
    (folder / "bench_meeting.py").write_text(MEETING)
    bench("bench_meeting.py", "--runner", runner)


def test_a_folder_is_one_suite_with_names_that_differ(folder: Path) -> None:
    (folder / "other_bench.py").write_text(
        "from anabranch.bench import benchmark\n@benchmark\ndef naps(): pass\n"
        "@benchmark(params={'size': [1]})\ndef more(size): pass\n"
    )
    (folder / "bench_mixed.py").write_text(SUITE.replace("1 / 0", "[]"))
    told = bench(".", "--list", "--filter", "n").stdout.split()
    assert "bench_mixed.naps" in told and "other_bench.naps" in told
    assert "more[size=1]" not in told


def test_wrong_uses_are_told_at_once(folder: Path) -> None:
    (folder / "base.json").write_text("{}")
    (folder / "empty.py").write_text("")
    for args, expected in (
        (("nope.py",), "there is no such file"),
        (("empty.py",), "there is no benchmark in it"),
        (("..",), "no bench_*.py"),
        (("empty.py", "--compare", "base.json"), "cannot be read as results"),
        (("empty.py", "--json", "no/such.json"), "there is no folder no"),
        (("empty.py", "--list", "--fast"), "--fast says nothing beside it"),
    ):
        assert expected in " ".join(invoked(*args, code=2).output.replace("│", "").split())


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    told = invoked("bench_mixed.py", "--plots", "plots", code=1).output
    assert "matplotlib" in told and 'pip install "anabranch[bench]"' in told
    monkeypatch.setitem(sys.modules, "pyperf", None)
    assert 'pip install "anabranch[bench]"' in invoked("bench_mixed.py", code=1).output


def test_help_and_the_package_load_none_of_it() -> None:
    heavy = ("pyperf", "matplotlib", "psutil", "numpy", "anabranch.tasks")
    loads_none_of("import anabranch, anabranch.cli.bench", *heavy)


def test_the_example_lists_its_cases() -> None:
    example = Path(__file__).parent.parent / "examples" / "benchmark_suite.py"
    told = bench(str(example), "--list").stdout
    assert "compressing[codec=lzma,level=9,size=" in told and "sorting[size=" in told
    done = bench(str(example), "--fast", "--filter", "level=1,", "--runner", "inline").stdout
    assert done.count("compressing[") == 3


def test_a_case_has_the_same_seed_everywhere() -> None:
    assert find_cases(benchmark(lambda: None)) == [Case("<lambda>", {}, 3760844401)]
