"""Which cases a suite has, how they are divided among processes, and their weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import zoo
from benchmarks import suite, weights
from benchmarks.cases import Case, Weights
from benchmarks.suite import Suite

TINY = "FCOS_syncbn_bs32_c128_MNV2_FPN_1x"


@pytest.fixture(autouse=True)
def without_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FCOS_ZOO_OFFLINE", "1")
    monkeypatch.setenv("FCOS_ZOO_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize(
    "name", ["quick", "backbones", "published", "speed", "memory", "accuracy", "gpu"]
)
def test_every_suite_of_the_configs_is_valid(name: str) -> None:
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


@pytest.mark.parametrize(
    ("metrics", "device", "processes"),
    [
        (
            ["params", "flops", "latency", "memory"],
            "cpu",
            [["params", "flops"], ["latency"], ["memory"]],
        ),
        (
            ["params", "flops", "training_memory"],
            "cuda",
            [["params", "flops"], ["training_memory"]],
        ),
    ],
)
def test_only_metrics_that_nothing_disturbs_share_a_process(
    metrics: list[str], device: str, processes: list[list[str]]
) -> None:
    wanted = Suite([TINY, "FCOS_R_50_1x"], metrics=metrics, device=device)
    jobs = [[case.metric for case in job] for job in wanted.jobs(wanted.cases())]
    assert jobs == processes * 2


@pytest.mark.parametrize("seed", range(2))
def test_the_batches_of_a_sweep_stay_in_one_shard(seed: int) -> None:
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
def test_the_whole_reason_for_missing_weights_is_given(entry: str, why: str) -> None:
    assert weights.resolve(entry) == Weights(note=why)


def test_a_case_of_two_parts_of_a_suite_is_measured_once() -> None:
    parts = ({"precisions": ("bf16",)}, {"precisions": ("fp32", "bf16")})
    cases = Suite([TINY], metrics=["latency"], parts=parts).cases()
    assert [case.precision for case in cases] == ["bf16", "fp32"]
