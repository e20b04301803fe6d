"""Operations of exported graphs: resizing, NMS, and which of them are quantised."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from torch import Tensor

import zoo
from benchmarks.dataset import embedded, read_images
from fcos import LongestSide, ShortestSide, export, export_formats, quantize
from fcos.data import shapes
from fcos.detections import matches
from fcos.postprocess import Candidates
from fcos.preprocess import as_float, resize_image
from tools.cli import run

TINY = "FCOS_shapes_tiny"

RULES = [ShortestSide(800, 1333), LongestSide(1025)]
RULES += [ShortestSide(800, 1333, "truncate"), ShortestSide(800, 1333, "floor")]


@pytest.mark.parametrize("rule", RULES)
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


def test_with_preprocessing_boxes_are_in_pixels_of_the_image() -> None:
    tiny = zoo.get("FCOS_shapes_tiny")
    graph = export.ExportedDetector(tiny, preprocessing=True)
    for side in (90, 400):
        image = shapes.draw(random.Random(10), size=side).image
        pixels = torch.from_numpy(np.array(image))
        [expected] = tiny.find([pixels.permute(2, 0, 1)])
        [found] = Candidates(*graph(pixels[None])).unpad()
        first = {key: value[:5] for key, value in expected.items()}
        assert matches(first, found, iou=0.95, score=0.02) == 5


def test_nms_keeps_boxes_whose_iou_is_the_threshold(tmp_path: Path) -> None:
    class Nms(torch.nn.Module):
        def forward(self, boxes: Tensor) -> Any:
            scores, labels = torch.tensor([[0.9, 0.8, 0.7]]), torch.zeros(1, 3, dtype=torch.int64)
            return torch.ops.fcos_zoo.nms(boxes, scores, labels, 0.6, 1)

    # The IoU of the first with the others: 0.6 and 0.92.
    boxes = torch.tensor([[[24.0, 16, 64, 64], [40, 16, 64, 64], [24, 16, 64, 60]]])
    path, facts = tmp_path / "nms.onnx", {"input": {"shape": [1, 3, 4]}}
    export_formats.write_onnx(torch.export.export(Nms(), (boxes,)), path, facts)
    kept = onnxruntime.InferenceSession(str(path)).run(None, {"images": boxes.numpy()})[0]
    assert kept.tolist() == [[True, True, False]]
    assert openvino.compile_model(str(path), "CPU")(boxes.numpy())[0].tolist() == kept.tolist()


def test_only_the_layers_between_convolutions_are_quantised() -> None:
    nodes = [
        quantize.Node("normalise", "Subtract", ["image"], ["x"]),
        quantize.Node("first", "Convolution", ["x", "w"], ["a"]),
        quantize.Node("add", "Add", ["a"], ["b"]),
        quantize.Node("last", "Convolution", ["b", "v"], ["c"]),
        quantize.Node("box", "Add", ["c"], ["boxes"]),
    ]
    assert quantize.outside_the_network(nodes) == ["normalise", "box"]


def test_half_precision_is_part_of_an_onnx_graph(tmp_path: Path) -> None:
    arguments = ["--format", "onnx", "--precision", "fp16", "--size", "160", "160"]
    assert run(["export", TINY, *arguments, "--images", "1", "--out", str(tmp_path)]) == 0
    graph = onnx.load(tmp_path / f"{TINY}_fp16.onnx").graph
    kernels = [tensor for tensor in graph.initializer if len(tensor.dims) == 4]
    assert onnx.TensorProto.FLOAT16 in {kernel.data_type for kernel in kernels}
