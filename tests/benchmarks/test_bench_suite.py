"""Which cases a suite has, and the run through them: resumed, recorded, never repeated."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import zoo
from benchmarks import runner, suite, timing, weights, worker
from benchmarks.cases import TIMED, Case, Result, Weights
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


@pytest.mark.parametrize(
    "name", ["quick", "backbones", "published", "speed", "memory", "accuracy", "gpu"]
)
def test_every_suite_of_the_configs_is_one(name: str) -> None:
    wanted = Suite(**suite.load(name))
    assert wanted.names() or all(Suite(**part).names() for part in wanted.parts)


@pytest.mark.parametrize("name", ["published", "speed", "memory"])
def test_speed_and_memory_are_measured_on_a_hundred_images_and_ap_on_all(name: str) -> None:
    wanted = Suite(**{**suite.load(name), "entries": ["FCOS_shapes_tiny"], "baselines": []})
    for case in wanted.cases():
        assert case.limit == (100 if case.metric in ("latency", "throughput", "memory") else None)


def test_a_suite_takes_overrides_and_refuses_unknown_words() -> None:
    assert suite.load("quick", ["limit=2", "timing.min_rounds=5"])["timing"].min_rounds == 5
    with pytest.raises(LookupError, match="choose from accuracy, backbones, "):
        suite.load("quickest")
    with pytest.raises(ValueError, match="speed"):
        suite.load("quick", ["+speed=11"])
    with pytest.raises(ValueError, match="unknown 'beauty'"):
        Suite([TINY], metrics=["beauty"])
    with pytest.raises(ValueError, match="unknown device 'tpu'; choose cpu, cuda or cuda:N"):
        Suite([TINY], device="tpu")
    with pytest.raises(LookupError, match="did you mean"):
        Suite(["FCOS_R_50_1"]).names()


def test_a_case_has_only_the_settings_that_matter_to_it() -> None:
    wanted = Suite(
        [TINY],
        metrics=["params", "training_memory", "latency", "throughput", "ap"],
        precisions=["fp32", "bf16"],
        batches=[1, 4],
        size=(64, 96),
        threads=2,
    )
    by_metric: dict[str, list[Case]] = {}
    for case in wanted.cases():
        by_metric.setdefault(case.metric, []).append(case)
    counts = {metric: len(cases) for metric, cases in by_metric.items()}
    assert counts == {"params": 1, "training_memory": 2, "latency": 2, "throughput": 4, "ap": 2}
    assert by_metric["params"][0] == Case(TINY, "params")
    assert by_metric["latency"][0].size == (64, 96)


def test_torch_s_own_choice_of_threads_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = Suite([TINY], baselines=["torchvision"], metrics=["latency"])
    for count in (1, 2):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=count: count)
        assert [case.threads for case in wanted.cases()] == [count, count]


def test_a_test_size_is_only_made_smaller() -> None:
    assert suite.smaller(zoo.card("FCOS_R_50_1x").config["resize"], (256, 427)) == (256, 427)
    assert suite.smaller(zoo.card("FCOS_RT_MS_R_50_4x").config["resize"], (600, 700)) == (512, 700)
    assert suite.smaller(zoo.card("FCOS_RT_MS_R_50_4x").config["resize"], (800, 1333)) is None


def test_metrics_that_nothing_disturbs_share_a_process_and_timed_ones_have_their_own() -> None:
    wanted = Suite([TINY, "FCOS_R_50_1x"], metrics=["params", "flops", "latency", "memory"])
    shapes = [[case.metric for case in job] for job in wanted.jobs(wanted.cases())]
    assert shapes == [["params", "flops"], ["latency"], ["memory"]] * 2


def test_training_memory_that_a_gpu_is_measured_for_has_a_process_of_its_own() -> None:
    wanted = Suite([TINY], metrics=["params", "flops", "training_memory"], device="cuda")
    shapes = [[case.metric for case in job] for job in wanted.jobs(wanted.cases())]
    assert shapes == [["params", "flops"], ["training_memory"]]


@pytest.mark.parametrize("seed", range(5))
def test_batches_of_a_sweep_grow_in_one_shard_whatever_the_order_of_sweeps(seed: int) -> None:
    def part(shard: int, shards: int) -> Suite:
        swept = {"precisions": ("fp32", "bf16"), "batches": (4, 1, 2), "shard": shard}
        entries = [TINY, "FCOS_R_50_1x"]
        return Suite(entries, metrics=["throughput"], seed=seed, shards=shards, **swept)

    cases = part(0, 1).cases()
    sweeps = []
    for shard in range(3):
        jobs = part(shard, 3).jobs(cases)
        flat = [case for job in jobs for case in job]
        assert [case.batch for case in flat] == [1, 2, 4] * (len(flat) // 3)
        sweeps += [(one.entry, one.precision) for one in flat[::3]]
    assert len(set(sweeps)) == len(sweeps) == 4


def test_shards_and_seeds_leave_nothing_out() -> None:
    wanted = Suite(["FCOS_R_50_*"], metrics=["params", "latency"])
    cases = wanted.cases()
    whole = {id(case) for job in wanted.jobs(cases) for case in job}
    parts = [
        Suite(["FCOS_R_50_*"], seed=1, shard=shard, shards=3).jobs(cases) for shard in range(3)
    ]
    assert sorted(id(c) for part in parts for job in part for c in job) == sorted(whole)
    with pytest.raises(ValueError, match="shard 3"):
        Suite([TINY], shard=3, shards=3)


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


def test_an_interrupted_run_goes_on_where_it_stopped(
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


def test_a_time_is_measured_in_several_processes_and_is_their_joined_one(
    processes: list[list[Case]], tmp_path: Path
) -> None:
    wanted = Suite([TINY], metrics=["throughput"], batches=[4], processes=3)
    store = Store(tmp_path / "r.jsonl")
    [row] = runner.run(wanted, store)
    assert len(processes) == row["values"]["processes"] == row["seconds"] == 3
    assert [row["values"]["processes"] for row in store.rows()] == [1, 2, 3]
    assert row["values"]["median"] == 2000
    assert row["values"]["images_per_second"] == 2
    with pytest.raises(ValueError, match="at least 1, not 0"):
        Suite([TINY], processes=0)


def test_every_time_has_one_process_before_any_has_two(
    processes: list[list[Case]], tmp_path: Path
) -> None:
    wanted = Suite([TINY], metrics=["params", "latency", "throughput"], processes=3)
    runner.run(wanted, Store(tmp_path / "r.jsonl"))
    metrics = [case.metric for job in processes for case in job]
    assert metrics == ["params", *["latency", "throughput"] * 3]


def test_a_time_that_was_cut_short_stands_with_fewer_processes_and_is_measured_again(
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


def test_a_time_of_which_one_process_fails_is_none(
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
def test_a_row_s_command_can_be_typed_again(
    program: str, rank: str | None, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [program, "bench", "FCOS_*"])
    for name, value in {"RANK": rank, "WORLD_SIZE": rank and "2"}.items():
        monkeypatch.delenv(name, raising=False)
        if value:
            monkeypatch.setenv(name, value)
    assert runner.command_line() == command


def test_nothing_is_started_when_the_time_is_over(
    processes: list[list[Case]], tmp_path: Path
) -> None:
    rows = runner.run(Suite([TINY], metrics=["params"], budget=1e-9), Store(tmp_path / "r.jsonl"))
    assert rows[0]["reason"] == "not started: the suite's 0 s were over"
    assert processes == []


def test_weights_come_from_the_user_first(tmp_path: Path) -> None:
    file = tmp_path / "FCOS_R_50_1x.pth"
    file.write_bytes(b"weights")
    by_folder = Suite(["FCOS_R_50_1x"], metrics=["ap"], weights_folder=tmp_path).cases()[0].weights
    by_name = Suite(["FCOS_R_50_1x"], metrics=["ap"], weights_files={"FCOS_R_50_1x": file})
    assert by_folder == by_name.cases()[0].weights
    assert by_folder == Weights("file", str(file), by_folder.digest)
    lost = Suite(["FCOS_R_50_1x"], metrics=["ap"], weights_files={"FCOS_R_50_1x": tmp_path / "x"})
    with pytest.raises(FileNotFoundError, match="no such weights file"):
        lost.cases()


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("FCOS_R_50_6l_2x", "no weights were ever published"),
        (
            "FCOS_R_50_5l_2x",
            "no host serves the weights any more "
            "(withdrawn by its authors: it was the original FCOS_R_50_FPN_1x)",
        ),
    ],
)
def test_why_there_are_no_weights_is_told_whole(entry: str, why: str) -> None:
    assert weights.resolve(entry) == Weights(note=why)


def test_the_parts_of_a_suite_follow_each_other_without_repetition() -> None:
    parts = ({"precisions": ("bf16",)}, {"precisions": ("fp32", "bf16")})
    cases = Suite([TINY], metrics=["latency"], parts=parts).cases()
    assert [case.precision for case in cases] == ["bf16", "fp32"]


def test_a_gpu_is_first_measured_beside_torchvision() -> None:
    wanted = Suite(**suite.load("gpu", ["+device=cuda"]))
    cases = wanted.cases()
    assert [(case.entry.split(":")[0], case.precision) for case in cases[:8]] == [
        (entry, precision)
        for entry in ("FCOS_R_50_1x", "benchmarks.baselines")
        for precision in ("bf16", "fp32", "tf32", "fp16")
    ]
    assert {case.metric for case in cases[8:12]} == {"training_memory"}


def test_times_are_shortened_before_cases_are_left_out(
    processes: list[list[Case]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner.time, "monotonic", lambda: 100.0)
    wanted = Suite([TINY], metrics=["latency", "throughput"], processes=1, budget=40)
    rows = runner.run(wanted, Store(tmp_path / "r.jsonl"))
    shares = [job[0].timing.max_seconds for job in processes]
    assert shares == [40 / 2 / 4, 40 / 4]  # a quarter of the time that is left for each process
    assert [row["key"] for row in rows] == [case.key for case in wanted.cases()]
