"""A user's dataset in any format: `data=PATH` of training, `evaluate --dataset`."""

from __future__ import annotations

import json

import made_datasets
import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir

from fcos.data import shapes
from tools import cli
from zoo.config import compose_entry, quoted
from zoo.registry import CONFIGS

ENTRY = "FCOS_shapes_tiny"
NAMES = [f"a{character}b" for character in "=,# '\":"]
NAMES += ["(a)", "[a]", "{a}", "~a", "$a", "é", "椅子"]
SHORT = ["schedule.iterations=1", "schedule.steps=[]", "data.workers=0", "solver.batch=2"]


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
    assert cli.main([*arguments, *SHORT, "data.keep_empty=true"]) == 0
    assert "2 images of 2 classes" in capsys.readouterr().err
    assert (run / f"{ENTRY}.pth").is_file()
    assert cli.main(["data", "check", str(export)]) == 0


def test_evaluation_on_another_format(tmp_path, capsys):
    drawn = shapes.write(tmp_path / "drawn", 4, size=96)
    yolo = tmp_path / "yolo"
    assert cli.main(["data", "convert", str(drawn), str(yolo), "--format", "yolo"]) == 0
    found = []
    for dataset in (drawn, yolo):
        out = tmp_path / dataset.stem
        arguments = ["evaluate", ENTRY, "--workers", "0", "--out", str(out)]
        assert cli.main([*arguments, "--dataset", str(dataset)]) == 0
        figures = json.loads((out / "figures.json").read_text())
        found.append((figures["AP"], figures["images"], figures["per_class"]))
    assert found[0][:2] == pytest.approx(found[1][:2], abs=1e-6)
    assert found[0][2].keys() == found[1][2].keys()
