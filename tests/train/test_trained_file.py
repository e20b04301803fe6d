"""The files of a run hold the settings of its detector, and every command takes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_detector import ENTRY, SHORT

import zoo
from benchmarks import measure
from benchmarks.cases import Dataset, MissingError
from benchmarks.suite import Suite
from fcos.data.shapes import write
from fcos.train.checkpoint import release
from fcos.train.metrics import read
from tools import cli
from tools.arguments import name_for_files

SETTINGS = ["head.shared_depth=1", "decoder.score=product", "solver.ema=0.5"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data"), 8, seed=3, size=96, classes=("star", "circle"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """The folder of a run of a few steps with other settings than the entry's."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    arguments = [f"data.train={data}", f"data.test={data}", f"run.folder={folder}", *SETTINGS]
    assert cli.main(["train", ENTRY, *SHORT, *arguments, "schedule.iterations=60"]) == 0
    return folder


@pytest.mark.parametrize("file", ["best.pth", f"{ENTRY}.pth"])
def test_the_file_is_the_detector_that_was_trained(run: Path, file: str) -> None:
    for detector in (zoo.get(str(run / file)), zoo.get(ENTRY, weights=run / file)):
        assert detector.resize.size == 96
        assert detector.decoder.score == "product"
        assert detector.settings is not None
        assert detector.settings["head"]["shared_depth"] == 1
        assert detector.classes == ("star", "circle")


def test_a_checkpoint_to_resume_from_is_that_detector_too(run: Path) -> None:
    newest = max((run / "checkpoints").iterdir())
    resumed, released = zoo.get(str(newest)), zoo.get(str(run / f"{ENTRY}.pth"))
    assert resumed.settings == released.settings
    for ours, theirs in zip(resumed.parameters(), released.parameters(), strict=True):
        assert torch.equal(ours, theirs)  # the moving average, which was measured


def test_evaluate_gives_the_ap_that_training_gave(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = str(run / f"{ENTRY}.pth"), str(tmp_path / "out")
    arguments = ["--dataset", str(data), "--workers", "0", "--device", "cpu", "--out", out]
    assert cli.main(["evaluate", file, *arguments]) == 0
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    trained = [record for record in read(run / "metrics.jsonl") if "AP" in record][-1]
    assert trained["AP"] > 0
    assert figures["AP"] == pytest.approx(trained["AP"], abs=1e-3)


def test_push_keeps_the_settings(run: Path, tmp_path: Path) -> None:
    file = str(run / "best.pth")
    assert cli.main(["push", file, "hf://me/mine", "--dry-run", str(tmp_path)]) == 0
    pushed, trained = zoo.get(str(tmp_path / f"{ENTRY}.safetensors")), zoo.get(file)
    assert pushed.settings == trained.settings
    image = torch.rand(3, 96, 96)
    for ours, theirs in zip(pushed.levels([image]), trained.levels([image]), strict=True):
        torch.testing.assert_close(ours.logits, theirs.logits)


def test_bench_measures_it(run: Path, data: Path) -> None:
    file, dataset = str(run / "best.pth"), Dataset.of(data, data.parent / "images")
    metrics = ["params", "ap", "training_memory"]
    params, memory, ap = Suite([file], metrics=metrics, dataset=dataset, device="cpu").cases()
    own, entry = (sum(p.numel() for p in zoo.get(each).parameters()) for each in (file, ENTRY))
    assert measure.measure(params)["parameters"] == own != entry
    with pytest.raises(MissingError, match="settings of its training"):
        measure.measure(memory)
    assert measure.measure(ap)["AP"] > 0
    assert {params.weights.source, ap.weights.source} == {"file"}
    with pytest.raises(zoo.WeightsError, match=r"runs/other/best\.pth"):
        Suite(["runs/other/best.pth"], metrics=["params"], device="cpu").cases()


def test_info_shows_the_settings(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", str(run / "best.pth")]) == 0
    printed = capsys.readouterr().out
    for setting in (f"entry: {ENTRY}", "classes: [star, circle]", "shared_depth: 1"):
        assert setting in printed


def test_outputs_are_named_after_their_run() -> None:
    assert name_for_files("runs/mine/best.pth") == "mine_best"
    assert name_for_files(ENTRY) == ENTRY


@pytest.mark.parametrize("by_name", [True, False])
def test_a_file_of_an_earlier_version_loads_with_a_warning(tmp_path: Path, by_name: bool) -> None:
    built, path = zoo.build(ENTRY), tmp_path / "old.pth"
    release(built.state_dict(), built.classes, ENTRY, path)
    with pytest.warns(UserWarning, match=r"old\.pth does not hold the settings.*FCOS_shapes_tiny"):
        detector = zoo.get(ENTRY, weights=path) if by_name else zoo.get(str(path))
    assert detector.resize.size == 160
