"""One file for other runtimes, which finds what the detector finds or is not kept."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from packaging.version import Version

import zoo
from benchmarks import accuracy, exported
from benchmarks.cases import Dataset
from benchmarks.dataset import embedded, image_ids, read_images
from benchmarks.studies import export_all
from fcos import Detector, LongestSide, ShortestSide, export, export_formats, quantize
from fcos.coco_eval import evaluate_detections
from fcos.data import shapes
from fcos.detections import matches
from fcos.postprocess import Candidates
from fcos.preprocess import as_float, resize_image
from tools import export as command
from tools.cli import main, run
from zoo.exported import ExportedDetector

TINY = "FCOS_shapes_tiny"
SIZE = (96, 150)  # a multiple of nothing: it is padded
SIZES = [(30, 30), (64, 64), (96, 150), (150, 96), (160, 160)]
SIZES += [(37, 300), (300, 37), (200, 333), (256, 128), (17, 17)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny entry for batches and images of every size, as ONNX and for OpenVINO."""
    out = tmp_path_factory.mktemp("exported")
    assert run(["export", TINY, "--format", "onnx,openvino", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def pt2(tmp_path_factory: pytest.TempPathFactory) -> ExportedDetector:
    """The same as .pt2."""
    out = tmp_path_factory.mktemp("exported")
    assert run(["export", TINY, "--out", str(out)]) == 0
    return zoo.load(out / f"{TINY}.pt2")


@pytest.fixture(scope="module")
def tiny() -> Detector:
    return zoo.get(TINY)


@pytest.fixture
def photo() -> torch.Tensor:
    [image] = read_images(embedded(), 1)
    return resize_image(image, SIZE)


ENTRIES = [
    "FCOS_R_50_1x",
    "FCOS_imprv_dcnv2_R_50_FPN_1x",
    "FCOS_RT_MS_DLA_34_4x_shtw",
    "FCOS_HRNet_W18_5l_2x",
    "FCOS_R_50_noctr_2x",
    "FCOS_MM_R_50_1x",
    "FCOS_TV_R_50",
]


@pytest.mark.parametrize(
    ("entry", "batched_nms"), [(ENTRIES[0], True), *((entry, False) for entry in ENTRIES)]
)
def test_the_operations_of_a_graph_give_the_detector_s_boxes(
    entry: str, batched_nms: bool, photo: torch.Tensor
) -> None:
    detector = export_all.randomized(entry, photo, SIZE)
    image = as_float(photo)
    graph = export.ExportedDetector(detector, batched_nms=batched_nms)
    found = Candidates(*graph(torch.stack([image, image.flip(-1)])))
    for ours, theirs in zip(detector([image, image.flip(-1)]), found.unpad(), strict=True):
        assert len(ours["scores"]) >= 10
        assert matches(ours, theirs) >= 0.98 * len(ours["scores"])


@pytest.mark.parametrize("images", [1, 2, 3, 4])
def test_onnx_takes_images_of_every_size_and_number(
    images: int, folder: Path, tiny: Detector
) -> None:
    file = zoo.load(folder / f"{TINY}.onnx")
    photos = read_images(embedded(), images)
    for size in SIZES:
        batch = torch.stack([as_float(resize_image(photo, size)) for photo in photos])
        for image, found in zip(batch, file.detect_arrays(batch.numpy()), strict=True):
            [expected] = tiny([image])
            assert matches(expected, found) >= 0.98 * len(expected["scores"])


@pytest.mark.parametrize("form", [".pt2", ".onnx", ".xml"])
def test_a_loaded_file_detects_like_the_detector(
    form: str, request: pytest.FixtureRequest, tiny: Detector
) -> None:
    if form == ".pt2":
        file = request.getfixturevalue("pt2")
    else:
        file = zoo.load(request.getfixturevalue("folder") / f"{TINY}{form}")
    assert file.classes == tiny.classes
    assert file.card.name == TINY
    images = read_images(embedded(), 3)
    for ours, theirs in zip(tiny.detect(images), file.detect(images, batch_size=3), strict=True):
        one = {"boxes": ours.boxes, "scores": ours.scores, "labels": ours.labels}
        other = {"boxes": theirs.boxes, "scores": theirs.scores, "labels": theirs.labels}
        assert matches(one, other) >= 0.98 * len(ours)
        assert theirs.image.shape == ours.image.shape
    blank = torch.full((1, 3, 64, 64), 0.5)
    [found] = file.detect_arrays(blank.numpy())
    assert len(found["scores"]) == len(tiny(list(blank))[0]["scores"]) < 100


def test_openvino_computes_in_the_precision_of_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {}

    def compile_model(core: Any, model: Any, device: str, given: dict[str, Any]) -> None:
        settings.update(given)

    monkeypatch.setattr(openvino.Core, "compile_model", compile_model)
    zoo.load(folder / f"{TINY}.xml")
    assert settings["INFERENCE_PRECISION_HINT"] == "f32"


@pytest.mark.parametrize(
    "rule",
    [
        ShortestSide(800, 1333),
        ShortestSide(800, 1333, "truncate"),
        ShortestSide(800, 1333, "floor"),
        LongestSide(1025),
    ],
)
def test_the_size_after_resizing_is_computed_in_the_graph(rule: ShortestSide | LongestSide) -> None:
    for size in [(480, 640), (640, 480), (333, 1000), (1000, 333), (800, 800), (5, 2000)]:
        tensor = torch.tensor(size, dtype=torch.float64)
        assert tuple(export.resized_size(rule, tensor).tolist()) == rule(*size)


@pytest.mark.parametrize("method", ["pil", "opencv", "tensor", "antialias"])
def test_images_are_resized_in_the_graph(method: Any) -> None:
    [image] = read_images(embedded(), 1)
    for size in [(200, 151), (700, 900)]:
        ours = export.resize(image[None], size, method)[0]
        theirs = as_float(resize_image(image, size, method))
        assert (ours - theirs).abs().max() <= 1.5 / 255


def test_with_preprocessing_boxes_are_in_pixels_of_the_image(tiny: Detector) -> None:
    graph = export.ExportedDetector(tiny, preprocessing=True)
    for side in (90, 400):
        image = shapes.draw(random.Random(10), size=side).image
        pixels = torch.from_numpy(np.array(image))
        [expected] = tiny.find([pixels.permute(2, 0, 1)])
        [found] = Candidates(*graph(pixels[None])).unpad()
        first = {key: value[:5] for key, value in expected.items()}
        assert matches(first, found, iou=0.95, score=0.02) == 5


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


def test_deformable_convolutions_are_one_operator_of_onnx(
    photo: torch.Tensor, tmp_path: Path
) -> None:
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


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_commands_take_a_file_in_place_of_a_name(
    command: str, folder: Path, tmp_path: Path
) -> None:
    image = str(next((Path(embedded().images)).iterdir()))
    arguments = [image] if command == "predict" else ["--limit", "2", "--workers", "0"]
    file = str(folder / f"{TINY}.onnx")
    assert run([command, file, *arguments, "--out", str(tmp_path)]) == 0


def test_files_that_export_did_not_write_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not an exported file"):
        zoo.load(tmp_path / "weights.pth")
    with pytest.raises(FileNotFoundError):
        zoo.load(tmp_path / "none.onnx")


@pytest.mark.parametrize(
    "wrong",
    [["--size", "0", "160"], ["--images", "-1"], ["--format", "x"], ["--max-drop", "0.5"]],
)
def test_wrong_arguments_are_refused_before_anything_is_traced(
    wrong: list[str], tmp_path: Path
) -> None:
    assert main(["export", TINY, "--out", str(tmp_path), *wrong]) == 2


def test_deformable_convolutions_are_refused_for_openvino(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zoo, "get", lambda name, weights: zoo.build(name))
    arguments = ["export", "FCOS_imprv_dcnv2_R_50_FPN_1x", "--format", "openvino"]
    with pytest.raises(ValueError, match="OpenVINO cannot read the deformable convolutions of"):
        run([*arguments, "--out", str(tmp_path)])


def test_a_missing_package_is_reported_before_tracing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(command.PACKAGES, "onnx", (("onnx", "no_such_package"), "onnx"))
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


def test_two_exports_of_one_name_do_not_touch_each_other_s_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second runs while the first compares its file, and is the first to be kept."""
    arguments, written = ["export", TINY, "--out", str(tmp_path)], iter(["first", "second"])
    monkeypatch.setattr(export, "program", lambda *_, **__: None)
    monkeypatch.setattr(
        export_formats, "write_pt2", lambda _, path, facts: path.write_text(next(written))
    )
    monkeypatch.setattr(zoo, "load", lambda path: path)
    compared: list[str] = []

    def compare(detector: Detector, path: Path, tolerance: object) -> str:
        if not compared:
            compared.append(path.read_text())
            assert run(arguments) == 0
        compared.append(path.read_text())
        return "the same"

    monkeypatch.setattr(exported, "compare", compare)
    assert run(arguments) == 0
    assert compared == ["first", "second", "first"]
    assert [file.name for file in tmp_path.iterdir()] == [f"{TINY}.pt2"]
    assert (tmp_path / f"{TINY}.pt2").read_text() == "first"


def test_only_the_layers_between_convolutions_are_quantised() -> None:
    nodes = [
        quantize.Node("normalise", "Subtract", ["image"], ["x"]),
        quantize.Node("first", "Convolution", ["x", "w"], ["a"]),
        quantize.Node("add", "Add", ["a"], ["b"]),
        quantize.Node("last", "Convolution", ["b", "v"], ["c"]),
        quantize.Node("box", "Add", ["c"], ["boxes"]),
    ]
    assert quantize.outside_the_network(nodes) == ["normalise", "box"]


@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_int8_files_find_most_of_it_and_do_not_saturate(
    form: str, folder: Path, tmp_path: Path, tiny: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    original = nncf.quantize

    def spy(*arguments: Any, **settings: Any) -> Any:
        asked.update(settings)
        return original(*arguments, **settings)

    monkeypatch.setattr(nncf, "quantize", spy)
    path = folder / f"{TINY}{command.SUFFIXES[form]}"
    images = [shapes.draw(random.Random(seed), size=160).image for seed in range(12)]
    file, out = zoo.load(path), tmp_path / f"int8{path.suffix}"
    pixels = [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images]
    inputs = [file.prepare(image)[0][None] for image in pixels]
    write = quantize.quantize_onnx if form == "onnx" else quantize.quantize_openvino
    write(path, out, inputs, {**file.description, "precision": "int8"})
    assert asked["advanced_parameters"].overflow_fix == nncf.OverflowFix.ENABLE
    quantised = zoo.load(out)
    assert quantised.precision == "int8"
    same = total = 0
    for image in pixels:
        [ours], [theirs] = tiny.find([image]), quantised.find([image])
        sure = {key: value[ours["scores"] > 0.5] for key, value in ours.items()}
        same += matches(sure, theirs, iou=0.7, score=0.2)
        total += len(sure["scores"])
    assert same >= 0.8 * total > 0


@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_max_drop_limits_the_loss_of_ap(
    form: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / f"{TINY}{command.SUFFIXES[form]}"
    data = Dataset.of(shapes.write(tmp_path, count=4, size=96), tmp_path / "images")
    file, measured = zoo.load(path), []

    def with_accuracy_control(
        model: Any, calibration: Any, images: Any, measure: Any, **settings: Any
    ) -> Any:
        graph = openvino.compile_model(model, "CPU") if form == "openvino" else model
        measured.append(measure(graph, images.get_data([0, 2]))[0])
        measured.append(settings["max_drop"])
        return model

    monkeypatch.setattr(nncf, "quantize_with_accuracy_control", with_accuracy_control)
    write = quantize.quantize_onnx if form == "onnx" else quantize.quantize_openvino
    control = exported.accuracy_control(file, data, max_drop=0.5)
    write(path, tmp_path / path.name, [], file.description, control)
    ids = image_ids(data)[::2]
    results = accuracy.detect(file, data, ids)
    expected = evaluate_detections(results, data.annotations, ids)["AP"]
    assert measured == [pytest.approx(expected, abs=1e-6), 0.005]


def test_half_precision_is_part_of_an_onnx_graph(tmp_path: Path) -> None:
    arguments = ["--format", "onnx", "--precision", "fp16", "--size", "160", "160"]
    assert run(["export", TINY, *arguments, "--images", "1", "--out", str(tmp_path)]) == 0
    graph = onnx.load(tmp_path / f"{TINY}_fp16.onnx").graph
    kernels = [tensor for tensor in graph.initializer if len(tensor.dims) == 4]
    assert onnx.TensorProto.FLOAT16 in {kernel.data_type for kernel in kernels}


def test_nms_keeps_boxes_whose_iou_is_the_threshold(tmp_path: Path) -> None:
    class Nms(torch.nn.Module):
        def forward(self, boxes: torch.Tensor) -> Any:
            scores, labels = torch.tensor([[0.9, 0.8, 0.7]]), torch.zeros(1, 3, dtype=torch.int64)
            return torch.ops.fcos_zoo.nms(boxes, scores, labels, 0.6, 1)

    # The IoU of the first with the others: 0.6 and 0.92.
    boxes = torch.tensor([[[24.0, 16, 64, 64], [40, 16, 64, 64], [24, 16, 64, 60]]])
    path, facts = tmp_path / "nms.onnx", {"input": {"shape": [1, 3, 4]}}
    export_formats.write_onnx(torch.export.export(Nms(), (boxes,)), path, facts)
    kept = onnxruntime.InferenceSession(str(path)).run(None, {"images": boxes.numpy()})[0]
    assert kept.tolist() == [[True, True, False]]
    assert openvino.compile_model(str(path), "CPU")(boxes.numpy())[0].tolist() == kept.tolist()


@pytest.mark.parametrize(("form", "precision"), [("pt2", "int8"), ("onnx", "bf16")])
def test_a_precision_that_a_format_does_not_have_is_refused(
    form: str, precision: str, tmp_path: Path
) -> None:
    arguments = ["export", TINY, "--format", form, "--precision", precision, "--out", str(tmp_path)]
    assert main(arguments) == 2
