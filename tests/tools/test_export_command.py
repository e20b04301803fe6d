"""One file for other runtimes, which finds what the detector finds or is not kept."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import nncf
import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from packaging.version import Version
from torch import Tensor

import zoo
from benchmarks import accuracy, exported
from benchmarks.cases import Dataset
from benchmarks.dataset import embedded, image_ids, read_images
from benchmarks.studies import export_all
from fcos import Detector, export, export_formats, quantize
from fcos.coco_eval import evaluate_detections
from fcos.data import shapes
from fcos.detections import matches
from fcos.postprocess import Candidates
from fcos.preprocess import as_float, resize_image
from tools import export as command
from tools.cli import main, run

Patch = pytest.MonkeyPatch

TINY = "FCOS_shapes_tiny"
SIZE = (96, 150)  # a multiple of nothing: it is padded
SIZES = [(30, 30), (64, 64), (96, 150), (150, 96), (160, 160)]
SIZES += [(37, 300), (300, 37), (200, 333), (256, 128), (17, 17)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny entry in every format, for batches and images of every size."""
    out = tmp_path_factory.mktemp("exported")
    assert run(["export", TINY, "--format", "pt2,onnx,openvino", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def tiny() -> Detector:
    return zoo.get(TINY)


@pytest.fixture
def photo() -> Tensor:
    [image] = read_images(embedded(), 1)
    return resize_image(image, SIZE)


def same(expected: dict[str, Any], found: dict[str, Any], share: float = 0.98) -> bool:
    return matches(expected, found) >= share * len(expected["scores"]) > 0


ENTRIES = ["FCOS_R_50_1x", "FCOS_imprv_dcnv2_R_50_FPN_1x", "FCOS_RT_MS_DLA_34_4x_shtw"]
ENTRIES += ["FCOS_HRNet_W18_5l_2x", "FCOS_R_50_noctr_2x", "FCOS_MM_R_50_1x", "FCOS_TV_R_50"]


@pytest.mark.parametrize(
    ("entry", "batched_nms"), [(ENTRIES[0], True), *((e, False) for e in ENTRIES)]
)
def test_a_graph_gives_the_detector_s_boxes(entry: str, batched_nms: bool, photo: Tensor) -> None:
    detector = export_all.randomized(entry, photo, SIZE)
    image = as_float(photo)
    graph = export.ExportedDetector(detector, batched_nms=batched_nms)
    found = Candidates(*graph(torch.stack([image, image.flip(-1)])))
    for ours, theirs in zip(detector([image, image.flip(-1)]), found.unpad(), strict=True):
        assert len(ours["scores"]) >= 10
        assert same(ours, theirs)


@pytest.mark.parametrize("images", [1, 2, 3, 4])
def test_onnx_takes_any_size_and_number(images: int, folder: Path, tiny: Detector) -> None:
    file = zoo.load(folder / f"{TINY}.onnx")
    photos = read_images(embedded(), images)
    for size in SIZES:
        batch = torch.stack([as_float(resize_image(photo, size)) for photo in photos])
        for image, found in zip(batch, file.detect_arrays(batch.numpy()), strict=True):
            assert same(tiny([image])[0], found)


@pytest.mark.parametrize("form", [".pt2", ".onnx", ".xml"])
def test_a_loaded_file_detects_like_the_detector(form: str, folder: Path, tiny: Detector) -> None:
    file = zoo.load(folder / f"{TINY}{form}")
    assert (file.classes, file.card.name) == (tiny.classes, TINY)
    images = read_images(embedded(), 3)
    for ours, theirs in zip(tiny.detect(images), file.detect(images, batch_size=3), strict=True):
        assert same(vars(ours), vars(theirs))
        assert theirs.image.shape == ours.image.shape
    blank = torch.full((1, 3, 64, 64), 0.5)
    [found] = file.detect_arrays(blank.numpy())
    assert len(found["scores"]) == len(tiny(list(blank))[0]["scores"]) < 100


def test_openvino_computes_in_the_file_s_precision(folder: Path) -> None:
    with mock.patch.object(openvino.Core, "compile_model") as compile_model:
        zoo.load(folder / f"{TINY}.xml")
    assert compile_model.call_args.args[-1]["INFERENCE_PRECISION_HINT"] == "f32"


def test_a_file_of_a_fixed_size_takes_images_of_every_size(tmp_path: Path, tiny: Detector) -> None:
    arguments = ["export", TINY, "--size", "160", "160", "--images", "2", "--out", str(tmp_path)]
    assert run(arguments) == 0
    file = zoo.load(tmp_path / f"{TINY}.pt2")
    assert file.description["input"]["shape"] == [2, 3, 160, 160]
    images = [shapes.draw(random.Random(10), size=side).image for side in (300, 90)]
    for image, found in zip(images, file.detect(images, 0.5), strict=True):
        [expected] = tiny.detect(image, 0.5)
        assert found.names == expected.names
        assert (found.boxes - expected.boxes).abs().max() < 0.05 * max(image.size)


def test_onnx_has_deformable_convolutions(photo: Tensor, tmp_path: Path) -> None:
    detector = export_all.randomized("FCOS_imprv_dcnv2_R_50_FPN_1x", photo, SIZE)
    path = tmp_path / "dcn.onnx"
    graph = export.program(detector, SIZE, 1, batched_nms=True)
    export_formats.write_onnx(graph, path, export_formats.describe(detector, SIZE, 1))
    if Version(onnxruntime.__version__) < Version("1.25"):
        with pytest.raises(RuntimeError, match=r"install 1\.25 or newer"):
            zoo.load(path)
        return
    assert "match the detector's" in exported.compare(detector, zoo.load(path))
    assert b"DeformConv" in path.read_bytes()


@pytest.mark.parametrize("command", ["info", "predict", "evaluate"])
def test_commands_take_a_file_for_a_name_and_print_its_runtime(
    command: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, out = str(next((Path(embedded().images)).iterdir())), ["--out", str(tmp_path)]
    few = ["--limit", "2", "--workers", "0"]
    arguments = {"info": [], "predict": [image, *out], "evaluate": [*few, *out]}[command]
    assert run([command, str(folder / f"{TINY}.onnx"), *arguments]) == 0
    assert f"ONNX Runtime {onnxruntime.__version__}" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_another_limit_than_that_of_the_file_is_refused(
    command: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [str(embedded().images)] if command == "predict" else []
    file = str(folder / f"{TINY}.onnx")
    assert main([command, file, *images, "--max-detections", "300"]) == 1
    assert "was exported with its limit of 100 detections" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("weights.pth", "weights.pth is not an exported file"),
        ("none.onnx", "no such file: .*none.onnx"),
        ("model.pt2", "model.pt2 is damaged or of another program"),
    ],
)
def test_other_files_are_refused(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(b"PK, and no more")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        zoo.load(tmp_path / name)


@pytest.mark.parametrize(
    "wrong",
    [
        "--size 0 160",
        "--images -1",
        "--format x",
        "--max-drop 0.5",
        "--calibrate photos",
        "--format onnx --precision int8 --fast-bias-correction",
        "--format pt2 --precision int8",
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_traced(wrong: str, tmp_path: Path) -> None:
    assert main(["export", TINY, "--out", str(tmp_path), *wrong.split()]) == 2


def test_openvino_has_no_deformable_convolutions(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(zoo, "get", lambda name, weights: zoo.build(name))
    arguments = ["export", "FCOS_imprv_dcnv2_R_50_FPN_1x", "--format", "openvino"]
    with pytest.raises(ValueError, match="OpenVINO cannot read the deformable convolutions of"):
        run([*arguments, "--out", str(tmp_path)])


def test_a_missing_package_is_named_before_tracing(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setitem(command.PACKAGES, "onnx", (("onnx", "no_such_package"), "onnx"))
    with pytest.raises(ImportError, match=r"no_such_package is not installed: pip install"):
        run(["export", TINY, "--format", "pt2,onnx", "--out", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


def test_a_torch_that_is_too_old_is_named_before_tracing(monkeypatch: Patch) -> None:
    monkeypatch.setattr(torch.export, "export", lambda model, *, strict: None)  # torch 2.6
    with pytest.raises(RuntimeError, match="cannot export detectors: pip install -U torch"):
        run(["export", TINY])


def test_a_file_that_finds_something_else_is_not_kept(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(exported, "matches", lambda *_: 0)
    with pytest.raises(RuntimeError, match=r"only 0 of [1-9]"):
        run(["export", TINY, "--size", "160", "160", "--out", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


def test_exports_remove_the_drafts_of_killed_ones_only(tmp_path: Path, monkeypatch: Patch) -> None:
    def write(graph: None, path: Path, facts: object) -> None:
        path.touch(exist_ok=False)

    def compare(detector: Detector, path: Path, tolerance: object) -> str:
        if not written:  # the second export begins and ends while the first one compares
            written.append(path)
            assert run(arguments) == 0
        assert path.exists()
        return ""

    arguments = ["export", TINY, "--out", str(tmp_path)]
    written: list[Path] = []
    (tmp_path / ".killed").mkdir()
    (tmp_path / ".killed" / command.LOCK).touch()
    monkeypatch.setattr(export, "program", lambda *_, **__: None)
    monkeypatch.setattr(export_formats, "write_pt2", write)
    monkeypatch.setattr(zoo, "load", lambda path: path)
    monkeypatch.setattr(exported, "compare", compare)
    assert run(arguments) == 0
    assert [file.name for file in tmp_path.iterdir()] == [f"{TINY}.pt2"]


WRITERS = [(".onnx", quantize.quantize_onnx), (".xml", quantize.quantize_openvino)]


@pytest.mark.parametrize(("suffix", "write"), WRITERS)
def test_int8_files_find_most_of_it_and_do_not_saturate(
    suffix: str, write: Any, folder: Path, tmp_path: Path, tiny: Detector, monkeypatch: Patch
) -> None:
    spy = mock.Mock(wraps=nncf.quantize)
    monkeypatch.setattr(nncf, "quantize", spy)
    path, out = folder / f"{TINY}{suffix}", tmp_path / f"int8{suffix}"
    images = [shapes.draw(random.Random(seed), size=160).image for seed in range(12)]
    file = zoo.load(path)
    pixels = [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images]
    inputs = [file.prepare(image)[0][None] for image in pixels]
    write(path, out, inputs, {**file.description, "precision": "int8"})
    assert spy.call_args.kwargs["advanced_parameters"].overflow_fix == nncf.OverflowFix.ENABLE
    assert spy.call_args.kwargs["fast_bias_correction"] is (suffix == ".onnx")
    quantised = zoo.load(out)
    assert quantised.precision == "int8"
    matching = total = 0
    for image in pixels:
        [ours], [theirs] = tiny.find([image]), quantised.find([image])
        sure = {key: value[ours["scores"] > 0.5] for key, value in ours.items()}
        matching += matches(sure, theirs, iou=0.7, score=0.2)
        total += len(sure["scores"])
    assert matching >= 0.8 * total > 0


def test_fast_bias_correction_is_a_choice_for_openvino(
    folder: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    def convert(_: Path, path: Path, facts: object) -> None:
        for suffix in (".xml", ".bin"):
            shutil.copy(folder / f"{TINY}{suffix}", path.with_suffix(suffix))

    spy = mock.Mock(side_effect=lambda model, *_, **__: model)
    monkeypatch.setattr(nncf, "quantize", spy)
    monkeypatch.setattr(export, "program", lambda *_, **__: None)
    monkeypatch.setattr(export_formats, "write_onnx", lambda *_: None)
    monkeypatch.setattr(export_formats, "write_openvino", convert)
    monkeypatch.setattr(exported, "compare", lambda *_: "")
    command = f"export {TINY} --format openvino --precision int8 --fast-bias-correction"
    assert run([*command.split(), "--out", str(tmp_path)]) == 0
    assert spy.call_args.kwargs["fast_bias_correction"] is True


@pytest.mark.parametrize(("suffix", "write"), WRITERS)
def test_max_drop_limits_the_loss_of_ap(
    suffix: str, write: Any, folder: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    path = folder / f"{TINY}{suffix}"
    data = Dataset.of(shapes.write(tmp_path, count=4, size=96), tmp_path / "images")
    file, ids = zoo.load(path), image_ids(data)[::2]
    spy = mock.Mock(side_effect=lambda model, *_, **__: model)
    monkeypatch.setattr(nncf, "quantize_with_accuracy_control", spy)
    control = exported.accuracy_control(file, data, max_drop=0.5)
    write(path, tmp_path / path.name, [], file.description, control)
    assert spy.call_args.kwargs["max_drop"] == 0.005
    model, _, images, measure = spy.call_args.args
    graph = openvino.compile_model(model, "CPU") if suffix == ".xml" else model
    measured, _ = measure(graph, images.get_data([0, 2]))
    results = accuracy.detect(file, data, ids)
    expected = evaluate_detections(results, data.annotations, ids)["AP"]
    assert measured == pytest.approx(expected, abs=1e-6)
