"""What a run says: of its data before the first step, of the rate, and of what it wrote."""

from __future__ import annotations

import json

import pytest
from PIL import Image
from tiny_detector import ENTRY

import zoo
from fcos.data.dataset import CocoDataset
from fcos.data.registry import DatasetSource, split
from fcos.data.shapes import write
from fcos.evaluate import evaluate_detector
from fcos.text import printable
from fcos.train.metrics import read
from fcos.train.optim import resolved
from tools import cli
from zoo.config import compose_entry


def evaluations(run):
    return [record for record in read(run / "metrics.jsonl") if "AP" in record]


def test_first_and_last_lines(data, train, tmp_path, capsys):
    run = tmp_path / "run"
    options = ["schedule.iterations=4", "schedule.steps=[3,9]", "run.loggers=[mlflow]"]
    options.append(f"data.test={data}")
    assert train(*options) == 0
    lines = capsys.readouterr().err.splitlines()
    assert "solver.batch=4 is not the recipe's 8, which solver.base_lr=0.05 is for: " in lines[0]
    assert any("from iteration 0 of 4 (2 epochs) in" in line for line in lines)
    assert any("rate does not drop at 9: the run ends at 4" in line for line in lines)
    assert any(line.startswith("mlflow is not installed:") for line in lines)
    assert any(line.startswith("1/4  loss_cls") for line in lines)
    trained, best, following = lines[-3:]
    assert trained == f"trained: {run / ENTRY}.pth"
    assert best.startswith(f"best: {run / 'best.pth'}, AP 0.0")
    assert following == f"next: fcos-zoo predict {run / 'best.pth'} IMAGES"
    assert [r["iteration"] for r in read(run / "metrics.jsonl") if "loss" in r] == [1, 4]


def test_the_rate_grows_as_the_batch_does_on_request():
    config = compose_entry(ENTRY, ["solver.batch=16", "solver.scale_lr=true"])
    recipe = zoo.card(ENTRY).config  # of batches of 8
    scaled, (line,) = resolved(config, recipe)
    assert scaled["solver"]["base_lr"] == 0.1
    assert line == "solver.base_lr=0.1: 0.05 is for batches of 8, not 16"
    assert resolved(recipe, recipe)[1] == []


def test_a_frozen_backbone_stays_as_it_was(train, tmp_path, capsys):
    assert train("freeze=backbone", f"init.checkpoint={ENTRY}") == 0
    assert "of pyramid and head, are trained" in capsys.readouterr().err
    before = zoo.get(ENTRY).state_dict()
    after = zoo.get(str(tmp_path / "run" / f"{ENTRY}.pth")).state_dict()
    changed = {key.split(".")[0] for key in before if not before[key].equal(after[key])}
    assert changed == {"pyramid", "head"}


def test_a_split_is_kept_and_mosaics_are_drawn(train, tmp_path, capsys):
    run = tmp_path / "run"
    assert train("data.split=0.25") == 0
    assert "2 images are held out to test on" in capsys.readouterr().err
    held_out = (run / "test_split.json").read_text()
    assert len(json.loads(held_out)["images"]) == 2
    assert [record["images"] for record in evaluations(run)] == [2]
    for name in ("first_batch.jpg", "first_detections.jpg"):
        assert max(Image.open(run / name).size) <= 1600

    assert train("data.split=0.25", "--resume", "schedule.iterations=3") == 0
    assert (run / "test_split.json").read_text() == held_out
    assert train("data.split=0.5", "--resume") == 1
    assert "was trained with data.split=0.25, not 0.5" in capsys.readouterr().err


def test_a_split_depends_only_on_the_seed_and_keeps_a_file_together(tmp_path):
    images = [{"id": i, "file_name": f"{i // 2}.jpg", "width": 9, "height": 9} for i in range(20)]
    content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "a"}]}

    def held_out(content, seed=0):
        sources = split([DatasetSource(content, tmp_path)], 0.3, seed)
        training, test = (part.annotations["images"] for part in sources)
        assert len(training) == 14
        return {image["id"] for image in test}

    first = held_out(content)
    assert {i // 2 for i in first} == {i // 2 for i in first if i + 1 in first}
    assert held_out({**content, "images": images[::-1]}) == first
    assert held_out(content, seed=1) != first


def test_without_a_test_set_a_run_says_so(data, train, capsys):
    content = json.loads(data.read_text())
    content["annotations"][0]["iscrowd"] = 1
    content["annotations"][1]["category_id"] = 99
    data.write_text(json.dumps(content))
    assert train() == 0
    lines = capsys.readouterr().err
    assert "no AP will be measured: set data.test, or data.split=0.1" in lines
    assert "1 x crowd left out" in lines
    assert "1 x unknown category" in lines


@pytest.mark.parametrize("damage", ["truncated", "of another size"])
def test_an_image_that_cannot_be_read_is_refused_before_the_first_step(
    train, tmp_path, capsys, damage
):
    test = write(tmp_path / "test", 3, seed=4, size=96)
    path = sorted((test.parent / "images").iterdir())[1]
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-200])
    else:
        Image.new("RGB", (40, 60)).save(path)
    assert train(f"data.test={test}", "data.skip_unreadable=true") == 1
    assert f"1 of 3 images to evaluate on: {path}" in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_unknown_classes_and_crowded_images_are_said(data, train, tmp_path, capsys):
    content = json.loads(data.read_text())
    names = ["Circle ", "door [/closed]\x1b[31m", "triangle", "triangle", "unused"]
    content["categories"] = [{"id": i, "name": name} for i, name in enumerate(names, 1)]
    row = {"image_id": content["images"][0]["id"], "category_id": 1, "iscrowd": 0, "area": 9}
    content["annotations"] += [{**row, "bbox": [i % 50, i // 9, 3, 3]} for i in range(120)]
    test = data.parent / "test.json"
    test.write_text(json.dumps(content))

    assert train(f"data.test={test}") == 0
    lines = capsys.readouterr().err
    assert "AP counts 100 detections of an image" in lines
    arguments = ["--dataset", str(test), "--workers", "0", "--device", "cpu", "--out"]
    assert cli.main(["evaluate", ENTRY, *arguments, str(tmp_path / "out")]) == 0
    output = capsys.readouterr()
    for text in (lines, output.out + output.err):
        assert "does not know the class 'Circle ' of the dataset" in text
        assert "it knows 'circle', which differs in case or blanks" in text
        assert r"does not know the class 'door [/closed]\x1b[31m'" in text
        assert "2 categories of the dataset are called 'triangle'" in text
        assert "\x1b[31m" not in text
        assert "'unused'" not in text  # it has no object, and so no AP
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert figures["per_class"]["Circle "] in (0, None)

    more = ["data.max_detections=150", f"run.folder={tmp_path / 'more'}"]
    assert train(f"data.test={test}", *more) == 0
    assert "AP counts 100 detections of an image" not in capsys.readouterr().err


@pytest.mark.parametrize("change", ["other ids in another order", "two categories of one name"])
def test_classes_are_matched_by_name(data, change):
    detector = zoo.get(ENTRY)

    def measured():
        dataset = CocoDataset(data, data.parent / "images", keep_empty=True)
        return evaluate_detector(detector, dataset, data, workers=0)["AP"]

    expected = measured()
    content = json.loads(data.read_text())
    if change == "two categories of one name":
        content["categories"][1]["name"] = "circle"
        detector.classes = ("circle", "circle", "triangle")
    else:
        for row in content["categories"]:
            row["id"] = 10 - row["id"]
        for row in content["annotations"]:
            row |= {"category_id": 10 - row["category_id"], "area": str(row["area"])}
    data.write_text(json.dumps(content))
    assert expected > 0
    assert measured() == expected


def test_an_error_does_not_control_the_terminal(train, capsys):
    assert printable("door [red]\x1b[31m\n椅子") == r"door [red]\x1b[31m\n椅子"
    assert train("init.checkpoint='no\x1b[31m.pth'") == 1
    lines = capsys.readouterr().err
    assert "\x1b" not in lines
    assert r"no\x1b[31m.pth" in lines
