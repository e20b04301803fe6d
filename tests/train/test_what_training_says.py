"""The first and last lines of a run say what is trained, from which rate, and what to do next."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import zoo
from fcos.data.shapes import write
from fcos.train.metrics import read
from fcos.train.optim import for_batch
from tools import cli
from zoo.config import compose_entry

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


def test_a_frozen_backbone_stays_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, run = write(tmp_path / "data", 8, seed=3, size=96), tmp_path / "run"
    arguments = [f"data.train={data}", f"run.folder={run}", "epochs=1", "freeze=backbone"]
    arguments += ["resize.size=96", "data.workers=0", "solver.batch=4", "run.device=cpu"]
    assert cli.main(["train", ENTRY, *arguments, f"init.checkpoint={ENTRY}"]) == 0
    assert "of pyramid and head, are trained" in capsys.readouterr().err
    before, after = zoo.get(ENTRY).state_dict(), zoo.get(str(run / f"{ENTRY}.pth")).state_dict()
    changed = {key.split(".")[0] for key in before if not before[key].equal(after[key])}
    assert changed == {"pyramid", "head"}


def test_paths_may_have_characters_of_the_grammar() -> None:
    for path in ("a,b.json", "a=b(c#d e.json", "${x}", "[1", "é椅子.json", "~x", "a'b"):
        assert compose_entry(ENTRY, [f"data.train={path}"])["data"]["train"] == path
    assert compose_entry(ENTRY, ["data.test='my test.json'"])["data"]["test"] == "my test.json"
    assert compose_entry(ENTRY, ["data.test=null"])["data"]["test"] is None


def test_more_objects_than_ap_counts_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "data", 4, seed=3, size=96)
    content = json.loads(data.read_text())
    first = content["images"][0]["id"]
    row = {"image_id": first, "category_id": 1, "iscrowd": 0, "area": 9}
    content["annotations"] += [{**row, "bbox": [i % 50, i // 9, 3, 3]} for i in range(120)]
    data.write_text(json.dumps(content))
    arguments = [f"data.train={data}", f"data.test={data}", "epochs=1", "resize.size=96"]
    arguments += ["data.workers=0", "solver.batch=4", "run.device=cpu"]
    for limit, said in ((None, True), (150, False)):
        more = [f"data.max_detections={limit or 'null'}", f"run.folder={tmp_path / str(limit)}"]
        assert cli.main(["train", ENTRY, *arguments, *more]) == 0
        assert ("AP counts 100 detections of an image" in capsys.readouterr().err) is said
