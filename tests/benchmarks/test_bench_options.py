"""From the command line to a suite."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import environment, store, worker
from benchmarks.cases import Case, Result, TimingBudget
from benchmarks.suite import Suite
from tools import bench
from tools.cli import main, run

UseGpus = Callable[..., None]


def suite(*arguments: str) -> Suite:
    """The suite that a command line describes."""
    measured: list[Suite] = []

    def measure(suite: Suite, out: Path, fresh: bool) -> None:
        measured.append(suite)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "measure", measure)
        patch.setattr(worker, "take_gpu", lambda: None)
        run(["bench", *arguments, "--device", "cpu"])
    return measured[0]


def test_names_come_before_those_of_a_suite_and_all_is_the_default_of_quick_metrics() -> None:
    assert suite("FCOS_R_50_1x").entries == ("FCOS_R_50_1x",)
    assert suite("--suite", "quick", "FCOS_R_50_1x").entries == ("FCOS_R_50_1x",)
    assert "FCOS_R_50_1x" in suite().entries
    assert suite("--metrics", "flops").entries == ("*",)
    assert suite("--peer", "torchvision").entries == ()


def test_the_command_line_has_the_last_word_on_a_suite() -> None:
    chosen = suite("--suite", "quick", "--rounds", "9", "--metrics", "ap", "--threads", "1")
    assert chosen.timing == TimingBudget(9, 0, 0.5, 3)
    assert chosen.processes == 2
    assert suite("--suite", "quick", "--processes", "1").processes == 1
    assert chosen.metrics == ("ap",)
    assert chosen.threads == 1
    assert chosen.cached_only
    assert suite("--suite", "quick", "--set", "limit=7").limit == 7
    assert suite("--winograd").winograd == (False, True)


def test_the_command_line_overrides_the_parts_of_a_suite_too() -> None:
    chosen = suite("--suite", "gpu", "FCOS_shapes_tiny", "--precision", "fp32", "--limit", "1")
    assert {case.entry for case in chosen.cases()} == {"FCOS_shapes_tiny"}
    assert {case.precision for case in chosen.cases()} == {"fp32"}
    assert {case.metric for case in chosen.cases()} == {"latency", "training_memory", "throughput"}


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--metrics", "beauty", "unknown 'beauty'; choose from params"),
        ("--precision", "fp8", "unknown 'fp8'; choose from fp32"),
        ("--weights", "x.pth", "'x.pth' is not NAME=PATH"),
        ("--batches", "0", "'0' is not a list of positive integers like 1,2,4"),
    ],
)
def test_unknown_words_are_refused(
    option: str, value: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", option, value]) == 2
    assert message in capsys.readouterr().err


def test_a_change_of_no_suite_is_refused() -> None:
    with pytest.raises(ValueError, match="choose one with --suite"):
        suite("FCOS_R_50_1x", "--set", "nonsense=1")


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> UseGpus:
    """Pretend that there are two GPUs, or those that the environment names."""

    def use(visible: str | None, **variables: str) -> None:
        fake = SimpleNamespace(nvmlDeviceGetCount=lambda: 2)
        monkeypatch.setattr(environment, "_nvml", lambda: fake)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        for name, value in {**variables, "CUDA_VISIBLE_DEVICES": visible}.items():
            if value is not None:
                monkeypatch.setenv(name, value)

    return use


@pytest.mark.parametrize("visible", [None, "4,6"])
def test_a_process_without_a_gpu_says_how_many_there_are(
    two_gpus: UseGpus, visible: str | None
) -> None:
    two_gpus(visible, LOCAL_RANK="2")
    with pytest.raises(ValueError, match="use --nproc-per-node 2"):
        worker.take_gpu()


@pytest.mark.parametrize(("visible", "own"), [(None, "1"), ("4,6", "6"), ("", "")])
def test_torchrun_gives_each_process_a_share_and_a_gpu(
    two_gpus: UseGpus, visible: str | None, own: str
) -> None:
    two_gpus(visible, RANK="3", WORLD_SIZE="4", LOCAL_RANK="1")
    assert (suite().shard, suite().shards) == (3, 4)
    worker.take_gpu()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == own


def test_a_failed_case_does_not_end_the_other_processes_of_torchrun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failed(*_: Any) -> list[store.Row]:
        facts = environment.describe("cpu")
        return [store.row_of(Case("A", "params"), Result("failed", reason="why"), facts, "bench")]

    monkeypatch.setattr("benchmarks.runner.run", failed)
    out = str(tmp_path / "r.jsonl")
    arguments = ["bench", "--metrics", "params", "--device", "cpu", "--out", out]
    assert main(arguments) == 1
    for name, value in {"RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert main(arguments) == 0
