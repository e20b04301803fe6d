"""One file for other runtimes, which finds what the detector finds or is not kept."""

from __future__ import annotations

import json
from pathlib import Path

import onnxruntime
import pytest
import torch
from packaging.version import Version

import zoo
from backbones.deformable import DeformConv2d
from benchmarks import exported, random_weights, workload
from benchmarks.dataset import embedded, read_images
from fcos import Detector, export
from fcos.detections import matches
from fcos.preprocess import as_float, resize_image
from tools import export as command
from tools.cli import main, run

TINY = "FCOS_shapes_tiny"
SIZE = (96, 150)  # a multiple of nothing: it is padded


@pytest.fixture
def photo() -> torch.Tensor:
    [image] = read_images(embedded(), 1)
    return resize_image(image, SIZE)


def drawn(entry: str, photo: torch.Tensor) -> Detector:
    """An entry with random weights, whose deformable convolutions move by fixed offsets: random
    ones that depend on the picture would make rounding errors grow."""
    torch.manual_seed(0)
    detector = zoo.build(entry).eval()
    for module in detector.modules():
        if isinstance(module, DeformConv2d):
            torch.nn.init.zeros_(module.offset.weight)
            torch.nn.init.normal_(module.offset.bias)
    detector.resize = workload.with_size(detector.resize, SIZE)
    random_weights.randomize(detector, [photo], candidates=300)
    return detector


@pytest.mark.parametrize(
    "entry",
    [
        "FCOS_R_50_1x",
        "FCOS_imprv_dcnv2_R_50_FPN_1x",
        "FCOS_RT_MS_DLA_34_4x_shtw",
        "FCOS_HRNet_W18_5l_2x",
        "FCOS_R_50_noctr_2x",
        "FCOS_MM_R_50_1x",
        "FCOS_TV_R_50",
    ],
)
def test_a_detector_of_fixed_shapes_finds_what_the_detector_finds(
    entry: str, photo: torch.Tensor
) -> None:
    detector = drawn(entry, photo)
    image = as_float(photo)
    fixed = export.FixedDetector(detector, SIZE)(torch.stack([image, image.flip(-1)]))
    expected = detector([image, image.flip(-1)])
    for ours, theirs in zip(expected, export.detections(fixed), strict=True):
        assert len(ours["scores"]) >= 10
        assert matches(ours, theirs) >= 0.98 * len(ours["scores"])
        assert (theirs["scores"].diff() <= 0).all()


@pytest.mark.parametrize("form", ["pt2", "onnx"])
def test_the_file_finds_the_shapes_that_the_detector_finds(form: str, tmp_path: Path) -> None:
    arguments = ["export", TINY, "--format", form, "--size", "160", "160", "--out", str(tmp_path)]
    assert run(arguments) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{TINY}.{form}", f"{TINY}.{form}.json"]
    facts = json.loads((tmp_path / f"{TINY}.{form}.json").read_text())
    assert facts["classes"] == list(zoo.get(TINY).classes)
    assert facts["input"]["images"] == [1, 3, 160, 160]


def test_deformable_convolutions_are_one_operator_of_onnx(
    photo: torch.Tensor, tmp_path: Path
) -> None:
    detector = drawn("FCOS_imprv_dcnv2_R_50_FPN_1x", photo)
    if Version(onnxruntime.__version__) < Version("1.25"):
        with pytest.raises(RuntimeError, match=r"install 1\.25 or newer"):
            exported.write_onnx(export.program(detector, SIZE), tmp_path / "dcn.onnx")
        return
    run = exported.write_onnx(export.program(detector, SIZE), tmp_path / "dcn.onnx")
    image = as_float(photo)
    expected, [found] = detector([image])[0], export.detections(run(image[None]))
    assert matches(expected, found) >= 0.98 * len(expected["scores"])
    assert b"DeformConv" in (tmp_path / "dcn.onnx").read_bytes()


@pytest.mark.parametrize("wrong", [["--size", "0", "160"], ["--images", "-1"], ["--format", "x"]])
def test_wrong_arguments_are_refused_before_anything_is_traced(
    wrong: list[str], tmp_path: Path
) -> None:
    assert main(["export", TINY, "--out", str(tmp_path), *wrong]) == 2


def test_a_missing_package_is_reported_before_tracing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "ONNX", ("onnx", "no_such_package"))
    with pytest.raises(ImportError, match=r"no_such_package is not installed: pip install"):
        run(["export", TINY, "--format", "pt2,onnx", "--out", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_finds_something_else_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exported, "matches", lambda *_: 0)
    with pytest.raises(RuntimeError, match=r"only 0 of [1-9]"):
        run(["export", TINY, "--size", "160", "160", "--out", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []
