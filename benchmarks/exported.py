"""Compare an exported file with its detector, on photographs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from benchmarks import accuracy
from benchmarks.cases import Dataset
from benchmarks.dataset import embedded, image_ids, read_images
from fcos import Detector, ShortestSide
from fcos.boxes import Size
from fcos.coco_eval import evaluate_detections
from fcos.data.annotations import load_annotations
from fcos.detections import matches
from fcos.images import load_image
from fcos.preprocess import as_float, resize_image
from fcos.quantize import AccuracyControl, Run
from zoo.exported import ExportedDetector

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
PHOTOGRAPHS = 4  # number of photographs on which a file is compared with its detector


@dataclass(frozen=True)
class Tolerance:
    """When detections match, and the fraction of those above a score that must do so."""

    iou: float = 0.99
    score: float = 1e-3
    required: float = 0.98
    above: float = 0.0


EXACT = Tolerance()
# Pillow rounds in fixed point, so a pixel may differ by one grey level.
RESIZED = Tolerance(iou=0.95, score=0.02, required=0.95)
HALF = Tolerance(iou=0.9, score=0.05, required=0.9, above=0.1)
INT8 = Tolerance(iou=0.7, score=0.2, required=0.6, above=0.3)
TOLERANCES = {"bf16": HALF, "fp16": HALF, "int8": INT8}


def largest(detector: Detector) -> Size:
    """Return the (height, width) that holds every landscape image after the test-time resize."""
    rule = detector.resize
    return (rule.size, rule.longest) if isinstance(rule, ShortestSide) else (rule.size, rule.size)


def compare(detector: Detector, exported: ExportedDetector, tolerance: Tolerance = EXACT) -> str:
    """Compare the detections of an exported file with the detector's, on photographs.

    Raises:
        RuntimeError: too few detections match.
    """
    same, total = count_matches(detector, exported, tolerance)
    if same < tolerance.required * total:
        raise RuntimeError(
            f"only {same} of {total} detections match those of the detector: the file was removed"
        )
    if not total:
        return f"not compared: the detector found nothing on {PHOTOGRAPHS} photographs"
    return f"{same} of {total} detections match the detector's on {PHOTOGRAPHS} photographs"


def count_matches(
    detector: Detector, exported: ExportedDetector, tolerance: Tolerance = EXACT
) -> tuple[int, int]:
    """Return how many detections of a detector and of an exported file match, and of how many.

    The photographs have several shapes, and are fed one at a time and in batches of two, unless the
    file is for one size.
    """
    same = total = 0
    for batch in _batches(detector, exported):
        if exported.preprocessing:
            expected = [detector.find([image])[0] for image in batch]
            arrays = [image.permute(1, 2, 0).numpy() for image in batch]
        else:
            batch = [as_float(image) for image in batch]
            expected = [detector([image])[0] for image in batch]
            arrays = [image.numpy() for image in batch]
        for ours, theirs in zip(expected, exported.detect_arrays(np.stack(arrays)), strict=True):
            one, other = _above(ours, tolerance.above), _above(theirs, tolerance.above)
            same += matches(one, other, tolerance.iou, tolerance.score)
            total += max(len(one["scores"]), len(other["scores"]))
    return same, total


def _batches(detector: Detector, exported: ExportedDetector) -> list[list[Tensor]]:
    """Return photographs (3, H, W) in batches for the file."""
    photos = read_images(embedded(), PHOTOGRAPHS)
    count = exported.images
    if exported.size:
        images = [resize_image(photo, exported.size) for photo in photos]
        return [[image] * (count or 1) for image in images]
    if exported.preprocessing:
        return [[photo] * (count or 1 + index % 2) for index, photo in enumerate(photos)]
    height, width = largest(detector)
    sizes = [(height, width), (width // 2, height // 2), (height // 2, height // 2)]
    sizes.append((height, width // 3))
    return [
        [resize_image(photo, size)] * (count or 1 + index % 2)
        for index, (photo, size) in enumerate(zip(photos, sizes, strict=True))
    ]


def calibration_images(source: Path | Dataset | None, limit: int) -> list[Tensor]:
    """Return images (3, H, W) of a folder or a dataset, or the embedded photographs.

    Raises:
        ValueError: there are no images in the folder.
    """
    if not isinstance(source, Path):
        return read_images(source or embedded(), limit)
    paths = [path for path in sorted(source.rglob("*")) if path.suffix.lower() in SUFFIXES]
    if not paths:
        raise ValueError(f"{source} has no images to calibrate with: name a folder of photographs")
    return [load_image(path) for path in paths[:limit]]


def graph_input(exported: ExportedDetector, image: Tensor) -> np.ndarray:
    """Return the graph's input for one image, as a batch."""
    return np.stack([exported.prepare(image)[0]] * (exported.images or 1))


def accuracy_control(
    exported: ExportedDetector, dataset: Dataset, max_drop: float
) -> AccuracyControl:
    """Quantise with a limit on the loss of AP on a dataset.

    Args:
        exported: the file to quantise.
        dataset: images with annotations.
        max_drop: the largest loss in points of AP, such as 0.5 from 40.0 to 39.5.
    """
    ids = image_ids(dataset)
    annotations = load_annotations(dataset.annotations, labelled=False)

    def measure(run: Run, positions: Iterable[int]) -> float:
        chosen = [ids[position] for position in positions]
        detector = ExportedDetector(exported.path, exported.runtime, exported.description, run)
        results = accuracy.detect(detector, dataset, chosen)
        return evaluate_detections(results, annotations, chosen)["AP"] or 0.0

    return AccuracyControl(measure, len(ids), max_drop / 100)


def _above(found: dict[str, Tensor], score: float) -> dict[str, Tensor]:
    kept = found["scores"] > score
    return {key: value[kept] for key, value in found.items()}
