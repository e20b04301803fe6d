"""Training on the card: every option follows fp32, and a run is stopped, resumed and evaluated."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tools.cli import main

ENTRY = "FCOS_shapes_tiny"
# CPUs without bf16 instructions take seconds for a step.
STEPS = 4 if os.environ.get("FCOS_ZOO_TEST_DEVICE") == "cpu" else 20
OPTIONS = {
    "bf16": ["solver.precision=bf16"],
    "fp16": ["solver.precision=fp16"],
    "compiled": ["solver.compile=true"],
    "activation checkpointing": ["solver.activation_checkpointing=true"],
    "accumulate=auto": ["solver.accumulate=auto"],
    "fused optimiser": ["solver.fused_optimizer=true"],
}


def settings(folder: Path, steps: int = STEPS) -> list[str]:
    """A short run of the entry on 64 drawn images, which all runs of a folder share."""
    return [
        f"data.root={folder / 'data'}",
        "data.shapes.train.count=64",
        "data.shapes.test.count=16",
        "data.workers=2",
        f"schedule.iterations={steps}",
        "schedule.steps=[]",
        "run.log_every=1",
        f"run.checkpoint_every={steps}",
        f"run.evaluate_every={steps}",
        "run.loggers=[]",
    ]


def losses(run: Path) -> list[float]:
    """The loss of every step that a run recorded."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if "loss" in record]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("training")


def train(folder: Path, device: torch.device, name: str, *overrides: str) -> list[float]:
    """The losses of a run of its own."""
    run = folder / name.replace("=", " ")
    words = [*settings(folder), f"run.folder={run}", f"run.device={device}", *overrides]
    assert main(["train", ENTRY, *words]) == 0
    return losses(run)


@pytest.fixture(scope="module")
def fp32(folder: Path, device: torch.device) -> list[float]:
    return train(folder, device, "fp32")


def test_training_in_fp32_follows_the_cpu(
    folder: Path, device: torch.device, fp32: list[float]
) -> None:
    """Rounding grows with every step, so that only the first steps can agree closely."""
    expected = train(folder, torch.device("cpu"), "cpu")
    assert len(fp32) == STEPS
    assert fp32[:3] == pytest.approx(expected[:3], rel=1e-3)
    assert fp32 == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_follows_fp32(
    folder: Path, device: torch.device, fp32: list[float], name: str
) -> None:
    assert train(folder, device, name, *OPTIONS[name]) == pytest.approx(fp32, rel=0.1)


def test_one_process_under_torchrun_saves_resumes_and_evaluates(
    folder: Path, device: torch.device
) -> None:
    """Through NCCL on a card and gloo on a CPU."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1"]
    run = folder / "torchrun"
    for steps in (4, 8):
        words = [f"entry={ENTRY}", *settings(folder, steps), f"run.folder={run}"]
        subprocess.run(
            [*command, "-m", "tools.train", *words, f"run.device={device.type}", "--resume"],
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            timeout=600,
        )
    assert len(losses(run)) == 8
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["iteration"] for record in records if "AP" in record] == [4, 8]
