"""Images held out as a test set, and the mosaics that a run draws."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from fcos.data.registry import DatasetSource
from fcos.data.shapes import write
from fcos.train.datasets import split
from fcos.train.metrics import read
from tools import cli

ENTRY = "FCOS_shapes_tiny"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "data", 8, seed=3, size=96)


def train(data: Path, run: Path, *more: str) -> int:
    arguments = [f"data.train={data}", f"run.folder={run}", "resize.size=96", "run.device=cpu"]
    arguments += ["schedule.iterations=2", "schedule.steps=[]", "data.workers=0", "solver.batch=4"]
    return cli.main(["train", ENTRY, *arguments, *more])


def test_a_split_is_recorded_and_kept(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert train(data, run, "data.split=0.25") == 0
    assert "2 images are held out to test on" in capsys.readouterr().err
    held_out = (run / "test_split.json").read_text()
    assert len(json.loads(held_out)["images"]) == 2
    assert [r["images"] for r in read(run / "metrics.jsonl") if "AP" in r] == [2]
    for name in ("first_batch.jpg", "first_detections.jpg"):
        assert max(Image.open(run / name).size) <= 1600

    assert train(data, run, "data.split=0.25", "--resume", "schedule.iterations=3") == 0
    assert (run / "test_split.json").read_text() == held_out
    assert train(data, run, "data.split=0.5", "--resume") == 1
    assert "was trained with data.split=0.25, not 0.5" in capsys.readouterr().err


def test_without_a_test_set_a_run_says_so(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(data.read_text())
    content["annotations"][0]["iscrowd"] = 1
    content["annotations"][1]["category_id"] = 99
    data.write_text(json.dumps(content))
    assert train(data, tmp_path / "run") == 0
    said = capsys.readouterr().err
    assert "no AP will be measured: set data.test, or data.split=0.1" in said
    assert "1 x crowd left out" in said
    assert "1 x unknown category" in said


def test_a_split_depends_only_on_the_seed_and_keeps_a_file_together() -> None:
    images = [{"id": i, "file_name": f"{i // 2}.jpg", "width": 9, "height": 9} for i in range(20)]
    content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "a"}]}

    def held_out(content: object, seed: int = 0) -> set[int]:
        source = DatasetSource(content, Path())  # type: ignore[arg-type]
        training, test = (part.annotations for part in split([source], 0.3, seed))
        assert isinstance(training, dict)
        assert isinstance(test, dict)
        assert len(training["images"]) == 14
        return {image["id"] for image in test["images"]}

    first = held_out(content)
    assert {i // 2 for i in first} == {i // 2 for i in first if i + 1 in first}
    assert held_out({**content, "images": images[::-1]}) == first
    assert held_out(content, seed=1) != first
