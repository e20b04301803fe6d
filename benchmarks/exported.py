"""Exported files: writing one, running it, and comparing it with its detector on photographs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.dataset import embedded, read_images
from fcos import Detector, LongestSide, ShortestSide, export
from fcos.boxes import Size
from fcos.detections import matches
from fcos.preprocess import as_float, resize_image

PHOTOGRAPHS = 4  # on which a file is compared with its detector
REQUIRED = 0.98  # share of the detections that must match
Run = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


def largest(detector: Detector) -> Size:
    """The (height, width) that holds every landscape image after the entry's test-time resize."""
    rule = detector.resize
    return (rule.size, rule.longest) if isinstance(rule, ShortestSide) else (rule.size, rule.size)


def write_pt2(graph: torch.export.ExportedProgram, path: Path) -> Run:
    """Write a graph as a .pt2 file; returns a function that runs the file."""
    with export.quiet():
        torch.export.save(graph, path)
    module: Run = torch.export.load(path).module()
    return module


def write_onnx(graph: torch.export.ExportedProgram, path: Path) -> Run:
    """Write a graph as ONNX; returns a function that runs the file by onnxruntime on the CPU.

    Raises:
        RuntimeError: this onnxruntime lacks an operator of the graph.
    """
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as MissingOperatorError

    export.write_onnx(graph, path)
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except MissingOperatorError:
        raise RuntimeError(
            f"onnxruntime {onnxruntime.__version__} cannot run deformable convolutions: "
            "install 1.25 or newer, which needs Python 3.11"
        ) from None

    def run(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        boxes, scores, labels = session.run(export.OUTPUTS, {"images": images.numpy()})
        return torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(labels)

    return run


WRITERS: dict[str, Callable[[torch.export.ExportedProgram, Path], Run]] = {
    "pt2": write_pt2,
    "onnx": write_onnx,
}


def compare(detector: Detector, run: Run, size: Size, images: int) -> str:
    """Compare the detections of an exported file with the detector's, on photographs.

    Raises:
        RuntimeError: less than `REQUIRED` of the detections match.
    """
    photos = read_images(embedded(), PHOTOGRAPHS)
    same = total = 0
    for photo in photos:
        image = as_float(resize_image(photo, size))
        batch = image.expand(images, -1, -1, -1).contiguous()
        for ours, theirs in zip(detector(list(batch)), export.detections(run(batch)), strict=True):
            same += matches(ours, theirs)
            total += max(len(ours["scores"]), len(theirs["scores"]))
    if same < REQUIRED * total:
        raise RuntimeError(
            f"only {same} of {total} detections match those of the detector: the file was removed"
        )
    if not total:
        return f"not compared: the detector found nothing on {len(photos)} photographs"
    return f"{same} of {total} detections match the detector's on {len(photos)} photographs"


def description(detector: Detector, size: Size, images: int) -> dict[str, Any]:
    """The facts needed to prepare images for an exported file and to read its output."""
    rule = detector.resize
    resize = {"side": "longest" if isinstance(rule, LongestSide) else "shortest"} | vars(rule)
    mean = detector.normalizer.mean.flatten() / detector.normalizer.value_range
    filling = [0.0] * 3 if detector.normalizer.square else mean.tolist()
    if detector.normalizer.channel_order == "BGR":
        filling.reverse()
    where = "all around a smaller image" if detector.normalizer.square else "right and bottom"
    return {
        "entry": detector.card.name,
        "classes": list(detector.classes),
        "input": {
            "images": [images, 3, *size],
            "values": "float32 0..1, RGB, not normalised",
            "resize": {**resize, "method": detector.resize_method},
            "fill": {"where": where, "rgb": filling},
        },
        "output": {
            "boxes": "float32 (N, D, 4): x1, y1, x2, y2 in pixels of the input; clip them to an "
            "image that is smaller than the input",
            "scores": "float32 (N, D): in descending order; -1 fills up the rest",
            "labels": "int64 (N, D): indices of `classes`",
        },
        "device": "cpu",
        "torch": torch.__version__,
    }
