"""The first and last lines of a run say what is trained, from which rate, and what to do next."""

from __future__ import annotations

from pathlib import Path

import pytest

from fcos.data.shapes import write
from fcos.train.metrics import read
from tools import cli
from zoo.config import compose_entry
from zoo.training import for_batch

ENTRY = "FCOS_shapes_tiny"


def test_first_and_last_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, run = write(tmp_path / "data", 8, seed=3, size=96), tmp_path / "run"
    arguments = [f"data.train={data}", f"data.test={data}", f"run.folder={run}", "resize.size=96"]
    arguments += ["schedule.iterations=4", "data.workers=0", "solver.batch=4", "run.device=cpu"]
    arguments += ["run.loggers=[mlflow]"]
    assert cli.main(["train", ENTRY, *arguments]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert "solver.batch=4 is not the recipe's 8, which solver.base_lr=0.05 is for: " in lines[0]
    assert any("from iteration 0 of 4 (2 epochs) in" in line for line in lines)
    assert any(line.startswith("mlflow is not installed:") for line in lines)
    assert any(line.startswith("1/4  loss_cls") for line in lines)
    trained, best, following = lines[-3:]
    assert trained == f"trained: {run / ENTRY}.pth"
    assert best.startswith(f"best: {run / 'best.pth'}, AP 0.0")
    assert following == f"next: fcos-zoo predict {run / 'best.pth'} IMAGES"
    assert [r["iteration"] for r in read(run / "metrics.jsonl") if "loss" in r] == [1, 4]


def test_the_rate_grows_as_the_batch_does_on_request() -> None:
    config = compose_entry(ENTRY, ["solver.batch=16", "solver.scale_lr=true"])
    scaled, (line,) = for_batch(config, 8)
    assert scaled["solver"]["base_lr"] == 0.1
    assert line == "solver.base_lr=0.1: 0.05 is for batches of 8, not 16"
    assert for_batch(compose_entry(ENTRY), 8)[1] == []
