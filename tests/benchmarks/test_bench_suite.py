"""Which cases a suite has, how they are divided among processes, and their weights."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

import zoo
from benchmarks import suite
from benchmarks.cases import Case, Weights
from benchmarks.suite import Suite
from benchmarks.workload import resolve_weights

pytestmark = pytest.mark.usefixtures("without_network")
TINY, R_50 = "FCOS_syncbn_bs32_c128_MNV2_FPN_1x", "FCOS_R_50_1x"


@pytest.mark.parametrize("name", suite.suites())
def test_every_suite_of_the_configs_is_valid(name: str) -> None:
    wanted = Suite(**suite.load(name))
    assert wanted.names() or all(Suite(**part).names() for part in wanted.parts)
    small = Suite(**{**suite.load(name), "entries": ["FCOS_shapes_tiny"], "baselines": []})
    for case in small.cases() if name in ("published", "speed", "memory") else ():
        assert case.limit == (100 if case.metric in ("latency", "throughput", "memory") else None)


def test_a_suite_takes_overrides_and_refuses_unknown_words() -> None:
    assert suite.load("quick", ["limit=2", "timing.min_rounds=5"])["timing"].min_rounds == 5
    with pytest.raises(LookupError, match="choose from accuracy, backbones, "):
        suite.load("quickest")
    with pytest.raises(ValueError, match="speed"):
        suite.load("quick", ["+speed=11"])
    with pytest.raises(LookupError, match="did you mean"):
        Suite(["FCOS_R_50_1"]).names()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metrics": ["beauty"]}, "unknown 'beauty'"),
        ({"device": "tpu"}, "unknown device 'tpu'; choose cpu, cuda or cuda:N"),
        ({"processes": 0}, "at least 1, not 0"),
        ({"shard": 3, "shards": 3}, "shard 3"),
    ],
)
def test_wrong_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Suite([TINY], **settings)


def test_a_case_has_only_the_settings_that_affect_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    wanted = Suite(
        [TINY],
        metrics=["params", "training_memory", "latency", "throughput", "ap"],
        precisions=["fp32", "bf16"],
        batches=[1, 4],
        size=(64, 96),
    )
    cases = wanted.cases()
    counts = {"params": 1, "training_memory": 2, "latency": 2, "throughput": 4, "ap": 2}
    assert Counter(case.metric for case in cases) == counts
    by_metric = {case.metric: case for case in cases}
    assert by_metric["params"] == Case(TINY, "params")
    assert (by_metric["latency"].size, by_metric["latency"].threads) == ((64, 96), 7)


def test_winograd_s_convolutions_are_a_case_of_their_own() -> None:
    cases = Suite([TINY], metrics=["latency", "ap"], winograd=[False, True]).cases()
    assert [(case.metric, case.winograd) for case in cases] == [
        *(("latency", False), ("latency", True)),
        ("ap", False),
    ]
    assert [case.identity.get("winograd") for case in cases] == [None, True, None]


def test_a_case_of_two_parts_of_a_suite_is_measured_once() -> None:
    parts = ({"precisions": ("bf16",)}, {"precisions": ("fp32", "bf16")})
    cases = Suite([TINY], metrics=["latency"], parts=parts).cases()
    assert [case.precision for case in cases] == ["bf16", "fp32"]


def test_a_test_size_is_only_made_smaller() -> None:
    assert suite.smaller(zoo.card(R_50).config["resize"], (256, 427)) == (256, 427)
    assert suite.smaller(zoo.card("FCOS_RT_MS_R_50_4x").config["resize"], (600, 700)) == (512, 700)
    assert suite.smaller(zoo.card("FCOS_RT_MS_R_50_4x").config["resize"], (800, 1333)) is None


@pytest.mark.parametrize(
    ("metrics", "device", "processes"),
    [
        ("params flops latency memory", "cpu", [["params", "flops"], ["latency"], ["memory"]]),
        ("params flops training_memory", "cuda", [["params", "flops"], ["training_memory"]]),
    ],
)
def test_only_metrics_that_nothing_disturbs_share_a_process(
    metrics: str, device: str, processes: list[list[str]]
) -> None:
    wanted = Suite([TINY, R_50], metrics=metrics.split(), device=device)
    jobs = [[case.metric for case in job] for job in wanted.jobs(wanted.cases())]
    assert jobs == processes * 2


@pytest.mark.parametrize("seed", range(2))
def test_shards_leave_nothing_out_and_keep_the_batches_of_a_sweep_together(seed: int) -> None:
    def part(shard: int) -> Suite:
        metrics, batches = ["params", "throughput"], (4, 1, 2)
        precisions = ("fp32", "bf16")
        return Suite([TINY, R_50], (), metrics, precisions, batches=batches, seed=seed,
                     shard=shard, shards=3)  # fmt: skip

    cases = part(0).cases()
    measured: list[Case] = []
    for shard in range(3):
        own = [case for job in part(shard).jobs(cases) for case in job]
        swept = [case.batch for case in own if case.metric == "throughput"]
        assert swept == [1, 2, 4] * (len(swept) // 3)
        measured += own
    assert len(measured) == len(cases) == 2 + 12
    assert set(measured) == set(cases)


def test_weights_come_from_the_user_first(tmp_path: Path) -> None:
    file = tmp_path / f"{R_50}.pth"
    file.write_bytes(b"weights")
    found = [
        Suite([R_50], metrics=["ap"], **given).cases()[0].weights
        for given in ({"weights_folder": tmp_path}, {"weights_files": {R_50: file}})
    ]
    assert found == [Weights("file", str(file), found[0].digest)] * 2
    lost = Suite([R_50], metrics=["ap"], weights_files={R_50: tmp_path / "x"})
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
    assert resolve_weights(entry) == Weights(note=why)
