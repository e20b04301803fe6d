"""What a test set cannot give is said before the first step, and by the same rule as `evaluate`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fcos.coco_eval import FIGURES, evaluate_detections
from fcos.data.shapes import write
from fcos.text import printable
from fcos.train.metrics import read
from tools import cli

ENTRY = "FCOS_shapes_tiny"
Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "data", 8, seed=3, size=96)


@pytest.fixture
def changed(data: Path) -> Callable[[Change], Path]:
    """The dataset's annotations in another file, changed."""

    def change(how: Change) -> Path:
        content = json.loads(data.read_text())
        how(content)
        path = data.parent / "test.json"
        path.write_text(json.dumps(content))
        return path

    return change


def train(data: Path, test: Path, run: Path, *more: str) -> int:
    arguments = [f"data.train={data}", f"data.test={test}", f"run.folder={run}", "resize.size=96"]
    arguments += ["schedule.iterations=60", "data.workers=0", "solver.batch=4", "run.device=cpu"]
    return cli.main(["train", ENTRY, *arguments, *more])


def figures(run: Path) -> dict[str, Any]:
    return [record for record in read(run / "metrics.jsonl") if "AP" in record][-1]


def evaluate(run: Path, test: Path, *more: str) -> dict[str, Any]:
    arguments = ["--dataset", str(test), "--workers", "0", "--device", "cpu", "--out", str(run)]
    assert cli.main(["evaluate", str(run / f"{ENTRY}.pth"), *arguments, *more]) == 0
    measured: dict[str, Any] = json.loads((run / "figures.json").read_text())
    return measured


@pytest.mark.parametrize("damage", ["truncated", "of another size"])
def test_an_image_that_cannot_be_read_is_refused_before_the_first_step(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    test = write(tmp_path / "test", 3, seed=4, size=96)
    path = sorted((test.parent / "images").iterdir())[1]
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-200])
    else:
        Image.new("RGB", (40, 60)).save(path)
    assert train(data, test, tmp_path / "run", "data.skip_unreadable=true") == 1
    assert f"1 of 3 images to evaluate on: {path}" in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def reorder(content: dict[str, Any]) -> None:
    """Give the categories other ids, in the opposite order."""
    for row in content["categories"]:
        row["id"] = 10 - row["id"]
    for row in content["annotations"]:
        row["category_id"] = 10 - row["category_id"]
        row["area"] = str(row["area"])


def test_classes_in_another_order_and_areas_as_text_change_nothing(
    data: Path, tmp_path: Path, changed: Callable[[Change], Path]
) -> None:
    assert train(data, changed(reorder), tmp_path / "reordered") == 0
    assert train(data, data, tmp_path / "same") == 0
    assert figures(tmp_path / "same")["AP"] > 0
    assert figures(tmp_path / "reordered")["AP"] == figures(tmp_path / "same")["AP"]


def test_names_that_the_detector_does_not_know_are_said(
    data: Path,
    tmp_path: Path,
    changed: Callable[[Change], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def rename(content: dict[str, Any]) -> None:
        content["categories"][0]["name"] = "Circle "
        content["categories"][1]["name"] = "door [/closed]\x1b[31m"

    test = changed(rename)
    assert train(data, test, tmp_path / "run") == 0
    said = capsys.readouterr().err
    assert "does not know the class 'Circle ' of the dataset" in said
    assert "it knows 'circle', which differs in case or blanks" in said
    assert r"does not know the class 'door [/closed]\x1b[31m'" in said
    measured = evaluate(tmp_path / "run", test)
    said = capsys.readouterr()
    assert "does not know the class 'Circle ' of the dataset" in said.err
    assert "\x1b[31m" not in said.out + said.err
    assert measured["per_class"]["Circle "] in (0, None)


def test_two_categories_of_one_name_are_matched_in_their_order(
    data: Path,
    tmp_path: Path,
    changed: Callable[[Change], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def twice(content: dict[str, Any]) -> None:
        content["categories"][1]["name"] = content["categories"][0]["name"]

    both = changed(twice)
    assert train(both, both, tmp_path / "twice") == 0
    assert "2 categories of the dataset are called 'circle'" in capsys.readouterr().err
    assert train(data, data, tmp_path / "once") == 0
    once, ours = figures(tmp_path / "once"), figures(tmp_path / "twice")
    assert once["AP"] > 0
    assert ours["AP"] == once["AP"]
    assert evaluate(tmp_path / "twice", both)["AP"] == pytest.approx(once["AP"], abs=1e-3)


def crowd(count: int) -> dict[str, Any]:
    """An image of many objects."""
    boxes = [[10 * (i % 20), 10 * (i // 20), 8, 8] for i in range(count)]
    keys = {"image_id": 1, "category_id": 1, "iscrowd": 0, "area": 64}
    return {
        "images": [{"id": 1, "file_name": "1.png", "height": 200, "width": 200}],
        "categories": [{"id": 1, "name": "circle"}],
        "annotations": [{**keys, "id": i, "bbox": box} for i, box in enumerate(boxes, 1)],
    }


def test_more_objects_than_coco_counts_need_another_limit() -> None:
    truth = crowd(300)
    perfect = [
        {"image_id": 1, "category_id": 1, "bbox": row["bbox"], "score": 0.9}
        for row in truth["annotations"]
    ]
    assert evaluate_detections(perfect, truth)["AP"] == pytest.approx(0.337, abs=1e-3)
    assert evaluate_detections(perfect, truth, max_detections=300)["AP"] == 1


def test_another_limit_of_detections_agrees_where_it_is_not_reached() -> None:
    truth = crowd(30)
    some = [
        {"image_id": 1, "category_id": 1, "bbox": [x, y, 8, 7 - n % 4], "score": 1 - n / 100}
        for n, (x, y, *_) in enumerate(row["bbox"] for row in truth["annotations"])
    ]
    coco, more = (
        evaluate_detections(some, truth),
        evaluate_detections(some, truth, None, "pycocotools", 200),
    )
    assert 0 < coco["AP"] < 1
    assert more["per_class"] == coco["per_class"]
    assert {key: more[key] for key in FIGURES} == pytest.approx({key: coco[key] for key in FIGURES})


def test_control_characters_are_escaped() -> None:
    assert printable("door [red]\x1b[31m\n") == r"door [red]\x1b[31m\n"
    assert printable("椅子 é") == "椅子 é"


def test_an_error_does_not_control_the_terminal(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(data, data, tmp_path, "init.checkpoint='no\x1b[31m.pth'") == 1
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert r"no\x1b[31m.pth" in said
