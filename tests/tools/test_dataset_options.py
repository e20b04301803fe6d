"""A user's dataset in any format: `data=PATH` of training, `evaluate --dataset`."""

import json

import made_datasets
import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir

from backbones import winograd
from fcos.data import shapes
from tools.cli import main
from zoo.config import compose_entry, quoted
from zoo.registry import CONFIGS

ENTRY = "FCOS_shapes_tiny"
NAMES = [f"a{character}b" for character in "=,# '\":"]
NAMES += ["(a)", "[a]", "{a}", "~a", "$a", "é", "椅子"]
SHORT = ["schedule.iterations=1", "schedule.steps=[]", "data.workers=0", "solver.batch=2"]


@pytest.fixture
def drawn(tmp_path):
    return shapes.write(tmp_path / "drawn", 4, size=96)


def test_the_image_folder_is_found_as_training_finds_it(drawn, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["evaluate", ENTRY, "--workers", "0", "--out", str(out)]
    assert main([*arguments, "--dataset", str(drawn)]) == 0
    found = (out / "figures.json").read_text()
    assert json.loads(found)["images"] == 4
    assert main([*arguments, "--dataset", str(drawn), str(drawn.parent / "images")]) == 0
    assert (out / "figures.json").read_text() == found


def test_worker_processes_change_no_detection(drawn, tmp_path):
    detections = []
    for workers in ("0", "2"):
        out = tmp_path / workers
        arguments = ["evaluate", ENTRY, "--workers", workers, "--batch", "3"]
        assert main([*arguments, "--dataset", str(drawn), "--out", str(out)]) == 0
        detections.append((out / "detections.json").read_text())
    assert detections[0] == detections[1]


def test_winograd_changes_scores_by_rounding(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(winograd, "FEWEST_PAIRS", 1)  # the small network's convolutions, too
    scores = []
    for options in ([], ["--winograd"]):
        arguments = ["evaluate", ENTRY, "--workers", "0", "--out", str(tmp_path / "out"), *options]
        assert main([*arguments, "--dataset", str(drawn)]) == 0
        detections = json.loads((tmp_path / "out/detections.json").read_text())
        scores.append([detection["score"] for detection in detections])
    assert scores[0] != scores[1]
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)


def test_a_dataset_of_other_classes_is_refused_by_name(drawn, tmp_path, capsys):
    content = json.loads(drawn.read_text())
    for category in content["categories"]:
        category["name"] += "s"
    drawn.write_text(json.dumps(content))
    assert main(["evaluate", ENTRY, "--dataset", str(drawn)]) == 1
    assert "none of the detector's classes (circle, square, triangle)" in capsys.readouterr().err


def test_irregular_annotations_are_counted(drawn, tmp_path, capsys):
    content = json.loads(drawn.read_text())
    for image in content["images"]:
        image["id"] = f"image {image['id']}"
    for thing in content["annotations"]:
        thing["image_id"] = f"image {thing['image_id']}"
    content["annotations"][0]["bbox"] = None
    drawn.write_text(json.dumps(content))
    arguments = ["evaluate", ENTRY, "--workers", "0", "--out", str(tmp_path)]
    assert main([*arguments, "--dataset", str(drawn)]) == 0
    said = capsys.readouterr().err
    assert "annotations.json: 4 x id as text, 1 x malformed box; " in said
    assert "detections.json has integers for ids that are text" in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": [1, 1, -5, 0]}, "4 x box without area, which no detection can match; `fcos-zoo"),
        ({"iscrowd": 1}, "annotations.json: no objects in these images, so there is no AP"),
    ],
)
def test_what_cannot_be_measured_is_said(drawn, tmp_path, capsys, change, message):
    content = json.loads(drawn.read_text())
    content["annotations"] = [{**thing, **change} for thing in content["annotations"][:4]]
    drawn.write_text(json.dumps(content))
    arguments = ["evaluate", ENTRY, "--workers", "0", "--out", str(tmp_path)]
    assert main([*arguments, "--dataset", str(drawn)]) == 0
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_a_path_may_have_any_character(tmp_path, name):
    made_datasets.roboflow_coco(tmp_path / name)
    data = compose_entry(ENTRY, [f"data={tmp_path / name}"])["data"]
    assert (data["train"], data["test"]) == (str(tmp_path / name),) * 2
    overrides = [f"data.train={tmp_path / name}", f"hydra.sweep.dir={tmp_path / name}/jobs"]
    words = quoted(overrides, sweep=True)
    with initialize_config_dir(str(CONFIGS), version_base=None):
        swept = hydra_compose("sweep", [*words, f"entry={ENTRY}"], return_hydra_config=True)
    assert swept.data.train == str(tmp_path / name)
    assert swept.hydra.sweep.dir == str(tmp_path / name / "jobs")


def test_values_of_a_sweep_stay_several():
    sweep = ["data.train=a.json,b.json", "solver.base_lr=0.1,0.2", "run.folder=null"]
    assert quoted(sweep, sweep=True) == sweep


def test_a_dataset_without_a_split_to_evaluate_on(tmp_path):
    made_datasets.label_me(tmp_path)
    data = compose_entry(ENTRY, [f"data={tmp_path}"])["data"]
    assert (data["train"], data["test"]) == (str(tmp_path), None)
    data = compose_entry(ENTRY, ["data.test=val.json", f"data={tmp_path}"])["data"]
    assert data["test"] == "val.json"


def test_a_folder_may_be_called_like_a_named_dataset(tmp_path, monkeypatch):
    made_datasets.label_me(tmp_path / "shapes")
    monkeypatch.chdir(tmp_path)
    assert compose_entry(ENTRY, ["data=shapes"])["data"]["train"] == "./shapes"


@pytest.mark.parametrize("name", ["Roboflow YOLO", "LabelMe"])
def test_training_on_an_export(tmp_path, capsys, name):
    export, run = tmp_path / "my, pets (1)", tmp_path / "run=1"
    made_datasets.DATASETS[name](export)
    arguments = ["train", ENTRY, f"data={export}", f"run.folder={run}", "run.device=cpu"]
    assert main([*arguments, *SHORT, "data.keep_empty=true"]) == 0
    assert "2 images of 2 classes" in capsys.readouterr().err
    assert (run / f"{ENTRY}.pth").is_file()
    assert main(["data", "check", str(export)]) == 0


def test_evaluation_on_another_format(drawn, tmp_path):
    yolo = tmp_path / "yolo"
    assert main(["data", "convert", str(drawn), str(yolo), "--format", "yolo"]) == 0
    found = []
    for dataset in (drawn, yolo):
        out = tmp_path / dataset.stem
        arguments = ["evaluate", ENTRY, "--workers", "0", "--out", str(out)]
        assert main([*arguments, "--dataset", str(dataset)]) == 0
        figures = json.loads((out / "figures.json").read_text())
        found.append((figures["AP"], figures["images"], figures["per_class"]))
    assert found[0][:2] == pytest.approx(found[1][:2], abs=1e-6)
    assert found[0][2].keys() == found[1][2].keys()
