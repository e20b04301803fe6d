"""The run through a suite: resumed, recorded, never repeated."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import runner, timing, worker
from benchmarks.cases import TIMED, Case, Result
from benchmarks.store import Store, newest
from benchmarks.suite import Suite

TINY = "FCOS_syncbn_bs32_c128_MNV2_FPN_1x"


@pytest.fixture(autouse=True)
def without_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FCOS_ZOO_OFFLINE", "1")
    monkeypatch.setenv("FCOS_ZOO_HOME", str(tmp_path / "home"))


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[list[Case]]:
    """The cases of each process that would have been started."""
    started: list[list[Case]] = []

    def pretend(cases: Sequence[Case], timeout: float) -> Iterator[tuple[Case, Result]]:
        started.append(list(cases))
        for case in cases:
            yield case, RESULTS.get(case.batch, Result("measured", values(case), seconds=1.0))

    monkeypatch.setattr(worker, "run", pretend)
    return started


def values(case: Case) -> dict[str, Any]:
    """What a process would have given."""
    if case.metric not in TIMED:
        return {}
    times = timing.Timings(np.full((3, 1), 0.5 * case.batch))
    return {"timings": times, "state": {"before": {}, "during": {}, "after": {}}}


RESULTS: dict[int, Result] = {
    6: Result("timed out", reason="too slow"),
    8: Result("out of memory", reason="too large"),
}


def test_done_cases_are_not_repeated_and_failed_ones_are(
    processes: list[list[Case]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "r.jsonl")
    wanted = Suite([TINY], metrics=["params", "throughput"], batches=[1, 8])
    first = runner.run(wanted, store)
    assert [row["status"] for row in first] == ["measured", "measured", "out of memory"]
    assert len(processes) == 1 + wanted.processes + 1
    again = runner.run(wanted, store)
    assert [case.batch for job in processes[6:] for case in job] == [8]
    assert again[:2] == first[:2]
    runner.run(wanted, store, fresh=True)
    assert len(processes) == 13


def test_an_interrupted_run_is_continued(
    processes: list[list[Case]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "r.jsonl")
    wanted = Suite([TINY], metrics=["params", "latency", "memory"], processes=1)
    pretend = worker.run

    def interrupted(cases: Sequence[Case], timeout: float) -> Any:
        if cases[0].metric == "memory":
            raise KeyboardInterrupt
        return pretend(cases, timeout)

    monkeypatch.setattr(worker, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        runner.run(wanted, store)
    assert [row["cell"]["metric"] for row in store.rows()] == ["params", "latency"]
    monkeypatch.setattr(worker, "run", pretend)
    runner.run(wanted, store)
    assert [case.metric for job in processes for case in job] == ["params", "latency", "memory"]


@pytest.mark.parametrize(("batch", "status"), [(8, "out of memory"), (6, "timed out")])
def test_a_larger_batch_than_one_that_did_not_fit_is_not_tried(
    batch: int, status: str, processes: list[list[Case]], tmp_path: Path
) -> None:
    batches = [4, batch, 2 * batch]
    wanted = Suite([TINY], metrics=["throughput"], batches=batches, processes=1)
    rows = runner.run(wanted, Store(tmp_path / "r.jsonl"))
    assert [row["status"] for row in rows] == ["measured", status, "missing"]
    assert rows[2]["reason"] == f"batch {batch} already was {status}"
    assert [case.batch for job in processes for case in job] == [4, batch]


def test_a_time_is_measured_in_several_processes_that_take_turns(
    processes: list[list[Case]], tmp_path: Path
) -> None:
    wanted = Suite([TINY], metrics=["latency", "throughput"], batches=[4], processes=3)
    store = Store(tmp_path / "r.jsonl")
    _, row = runner.run(wanted, store)
    # Every time has one process before any has two.
    assert [case.metric for job in processes for case in job] == ["latency", "throughput"] * 3
    assert row["values"]["processes"] == row["seconds"] == 3
    assert [row["values"]["processes"] for row in store.rows()] == [1, 1, 2, 2, 3, 3]
    assert row["values"]["median"] == 2000
    assert row["values"]["images_per_second"] == 2
    with pytest.raises(ValueError, match="at least 1, not 0"):
        Suite([TINY], processes=0)


def test_an_interrupted_time_counts_with_fewer_processes_and_is_completed_later(
    processes: list[list[Case]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, pretend = Store(tmp_path / "r.jsonl"), worker.run

    def interrupted(cases: Sequence[Case], timeout: float) -> Any:
        if len(processes) == 2:
            raise KeyboardInterrupt
        return pretend(cases, timeout)

    monkeypatch.setattr(worker, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        runner.run(Suite([TINY], metrics=["latency"]), store)
    [cut] = newest(store.rows())
    assert cut["values"]["processes"] == 2
    monkeypatch.setattr(worker, "run", pretend)
    assert runner.run(Suite([TINY], metrics=["latency"], processes=2), store) == [cut]
    assert len(processes) == 2
    [whole] = runner.run(Suite([TINY], metrics=["latency"]), store)
    assert whole["values"]["processes"] == 4


def test_a_time_fails_where_one_of_its_processes_fails(
    processes: list[list[Case]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend = worker.run

    def second_crashes(cases: Sequence[Case], timeout: float) -> Any:
        for case, result in pretend(cases, timeout):
            yield case, result if len(processes) != 2 else Result("crashed", reason="SIGSEGV")

    monkeypatch.setattr(worker, "run", second_crashes)
    [row] = runner.run(Suite([TINY], metrics=["latency"]), Store(tmp_path / "r.jsonl"))
    assert (row["status"], row["reason"], len(processes)) == ("crashed", "SIGSEGV", 2)


def test_missing_weights_cost_no_process_and_say_how_to_get_them(
    processes: list[list[Case]], tmp_path: Path
) -> None:
    wanted = Suite(["FCOS_R_50_1x"], metrics=["memory", "ap"], cached_only=True)
    rows = runner.run(wanted, Store(tmp_path / "r.jsonl"))
    assert [row["status"] for row in rows] == ["measured", "missing"]
    assert "`fcos-zoo download`" in rows[1]["reason"]
    assert len(processes) == 1
    never = Suite(["FCOS_R_50_1x"], metrics=["latency"], cached_only=True, random_weights=False)
    assert runner.run(never, Store(tmp_path / "s.jsonl"))[0]["status"] == "missing"


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


def test_nothing_is_started_once_the_time_is_up(
    processes: list[list[Case]], tmp_path: Path
) -> None:
    rows = runner.run(Suite([TINY], metrics=["params"], budget=1e-9), Store(tmp_path / "r.jsonl"))
    assert rows[0]["reason"] == "not started: the suite's 0 s were over"
    assert processes == []


def test_times_are_shortened_before_cases_are_left_out(
    processes: list[list[Case]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner.time, "monotonic", lambda: 100.0)
    wanted = Suite([TINY], metrics=["latency", "throughput"], processes=1, budget=40)
    rows = runner.run(wanted, Store(tmp_path / "r.jsonl"))
    shares = [job[0].timing.max_seconds for job in processes]
    assert shares == [40 / 2 / 4, 40 / 4]  # a quarter of the time that is left for each process
    assert [row["key"] for row in rows] == [case.key for case in wanted.cases()]
