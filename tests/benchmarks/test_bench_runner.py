"""The run through a suite: resumed, recorded, never repeated."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import inference, runner, worker
from benchmarks.cases import TIMED, Case, Result
from benchmarks.store import Row, Store, newest
from benchmarks.suite import Suite

pytestmark = pytest.mark.usefixtures("without_network")
TINY = "FCOS_syncbn_bs32_c128_MNV2_FPN_1x"
TOO_LARGE = {
    6: Result("timed out", reason="too slow"),
    8: Result("out of memory", reason="too large"),
}
Processes = list[list[Case]]


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Processes:
    """The cases of each process that would have been started."""
    started: Processes = []

    def pretend(cases: Sequence[Case], timeout: float) -> Iterator[tuple[Case, Result]]:
        started.append(list(cases))
        for case in cases:
            values: dict[str, Any] = {}
            if case.metric in TIMED:
                times = inference.Timings(np.full((3, 1), 0.5 * case.batch))
                values = {"timings": times, "state": {"before": {}, "during": {}, "after": {}}}
            yield case, TOO_LARGE.get(case.batch, Result("measured", values, seconds=1.0))

    monkeypatch.setattr(worker, "run", pretend)
    return started


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., list[Row]]:
    """Run a suite of one small entry."""

    def measured(*metrics: str, fresh: bool = False, **settings: Any) -> list[Row]:
        suite = Suite([TINY], metrics=metrics, **settings)
        return runner.run(suite, Store(tmp_path / "r.jsonl"), fresh)

    return measured


def interrupt(monkeypatch: pytest.MonkeyPatch, when: Callable[[Case], bool]) -> None:
    """Let Ctrl-C end the run before the process of a case."""
    pretend = worker.run

    def interrupted(cases: Sequence[Case], timeout: float) -> Any:
        if when(cases[0]):
            raise KeyboardInterrupt
        return pretend(cases, timeout)

    monkeypatch.setattr(worker, "run", interrupted)


def test_done_cases_are_not_repeated_and_failed_ones_are(processes: Processes, run: Any) -> None:
    first = run("params", "throughput", batches=[1, 8])
    assert [row["status"] for row in first] == ["measured", "measured", "out of memory"]
    assert len(processes) == 1 + 4 + 1
    again = run("params", "throughput", batches=[1, 8])
    assert [case.batch for job in processes[6:] for case in job] == [8]
    assert again[:2] == first[:2]
    run("params", "throughput", batches=[1, 8], fresh=True)
    assert len(processes) == 13


def test_an_interrupted_run_is_continued(
    processes: Processes, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = ("params", "latency", "memory")
    with monkeypatch.context() as patch:
        interrupt(patch, lambda case: case.metric == "memory")
        with pytest.raises(KeyboardInterrupt):
            run(*metrics, processes=1)
    rows = Store(tmp_path / "r.jsonl").rows()
    assert [row["cell"]["metric"] for row in rows] == ["params", "latency"]
    run(*metrics, processes=1)
    assert [case.metric for job in processes for case in job] == list(metrics)


@pytest.mark.parametrize(("batch", "status"), [(8, "out of memory"), (6, "timed out")])
def test_a_larger_batch_than_one_that_did_not_fit_is_not_tried(
    batch: int, status: str, processes: Processes, run: Any
) -> None:
    rows = run("throughput", batches=[4, batch, 2 * batch], processes=1)
    assert [row["status"] for row in rows] == ["measured", status, "missing"]
    assert rows[2]["reason"] == f"batch {batch} already was {status}"
    assert [case.batch for job in processes for case in job] == [4, batch]


def test_a_time_is_measured_in_several_processes_that_take_turns(
    processes: Processes, run: Any, tmp_path: Path
) -> None:
    _, row = run("latency", "throughput", batches=[4], processes=3)
    # Every time has one process before any has two.
    assert [case.metric for job in processes for case in job] == ["latency", "throughput"] * 3
    assert row["values"]["processes"] == row["seconds"] == 3
    stored = Store(tmp_path / "r.jsonl").rows()
    assert [row["values"]["processes"] for row in stored] == [1, 1, 2, 2, 3, 3]
    assert row["values"]["median"] == 2000
    assert row["values"]["images_per_second"] == 2


def test_an_interrupted_time_counts_with_fewer_processes_and_is_completed_later(
    processes: Processes, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt(patch, lambda case: len(processes) == 2)
        with pytest.raises(KeyboardInterrupt):
            run("latency")
    [cut] = newest(Store(tmp_path / "r.jsonl").rows())
    assert cut["values"]["processes"] == 2
    assert run("latency", processes=2) == [cut]
    assert len(processes) == 2
    [whole] = run("latency")
    assert whole["values"]["processes"] == 4


def test_a_time_fails_where_one_of_its_processes_fails(
    processes: Processes, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend = worker.run

    def second_crashes(cases: Sequence[Case], timeout: float) -> Any:
        for case, result in pretend(cases, timeout):
            yield case, result if len(processes) != 2 else Result("crashed", reason="SIGSEGV")

    monkeypatch.setattr(worker, "run", second_crashes)
    [row] = run("latency")
    assert (row["status"], row["reason"], len(processes)) == ("crashed", "SIGSEGV", 2)


def test_missing_weights_start_no_process_and_say_how_to_get_them(
    processes: Processes, run: Any
) -> None:
    rows = run("memory", "ap", cached_only=True)
    assert [row["status"] for row in rows] == ["measured", "missing"]
    assert "`fcos-zoo download`" in rows[1]["reason"]
    assert len(processes) == 1
    assert run("latency", cached_only=True, random_weights=False)[0]["status"] == "missing"


@pytest.mark.parametrize(
    ("program", "rank", "command"),
    [
        ("/usr/bin/fcos-zoo", None, "fcos-zoo bench 'FCOS_*'"),
        ("/somewhere/tools/bench.py", "1", "python -m tools.bench bench 'FCOS_*' --shard=1/2"),
    ],
)
def test_a_row_states_a_command_that_repeats_it(
    program: str, rank: str | None, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [program, "bench", "FCOS_*"])
    for name, value in {"RANK": rank, "WORLD_SIZE": rank and "2"}.items():
        monkeypatch.delenv(name, raising=False)
        if value:
            monkeypatch.setenv(name, value)
    assert runner.command_line() == command


def test_times_are_shortened_to_a_share_of_the_budget(
    processes: Processes, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner.time, "monotonic", lambda: 100.0)
    run("latency", "throughput", processes=1, budget=40)
    shares = [job[0].timing.max_seconds for job in processes]
    assert shares == [40 / 2 / 4, 40 / 4]  # a quarter of the time that is left for each process
