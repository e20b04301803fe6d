"""`fcos-zoo evaluate` on a user's dataset."""

import json

import pytest

from fcos.data import shapes
from tools.cli import main


@pytest.fixture
def drawn(tmp_path):
    return shapes.write(tmp_path / "drawn", 4, size=96)


def test_the_image_folder_is_found_as_training_finds_it(drawn, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["evaluate", "FCOS_shapes_tiny", "--workers", "0", "--out", str(out)]
    assert main([*arguments, "--dataset", str(drawn)]) == 0
    found = (out / "figures.json").read_text()
    assert json.loads(found)["images"] == 4
    assert main([*arguments, "--dataset", str(drawn), str(drawn.parent / "images")]) == 0
    assert (out / "figures.json").read_text() == found


def test_worker_processes_change_no_detection(drawn, tmp_path):
    detections = []
    for workers in ("0", "2"):
        out = tmp_path / workers
        arguments = ["evaluate", "FCOS_shapes_tiny", "--workers", workers, "--batch", "3"]
        assert main([*arguments, "--dataset", str(drawn), "--out", str(out)]) == 0
        detections.append((out / "detections.json").read_text())
    assert detections[0] == detections[1]


def test_a_dataset_of_other_classes_is_refused_by_name(drawn, tmp_path, capsys):
    content = json.loads(drawn.read_text())
    for category in content["categories"]:
        category["name"] += "s"
    drawn.write_text(json.dumps(content))
    assert main(["evaluate", "FCOS_shapes_tiny", "--dataset", str(drawn)]) == 1
    assert "none of the detector's classes (circle, square, triangle)" in capsys.readouterr().err


def test_irregular_annotations_are_counted(drawn, tmp_path, capsys):
    content = json.loads(drawn.read_text())
    for image in content["images"]:
        image["id"] = f"image {image['id']}"
    for thing in content["annotations"]:
        thing["image_id"] = f"image {thing['image_id']}"
    content["annotations"][0]["bbox"] = None
    drawn.write_text(json.dumps(content))
    arguments = ["evaluate", "FCOS_shapes_tiny", "--workers", "0", "--out", str(tmp_path)]
    assert main([*arguments, "--dataset", str(drawn)]) == 0
    said = capsys.readouterr().err
    assert "annotations.json: 4 x id as text, 1 x malformed box; " in said
    assert "detections.json has integers for ids that are text" in said
