"""What the method of resizing changes: `python -m benchmarks.studies.resize_methods`.

Writes `reports/resize_methods.md`: AP of the embedded weights on drawn images that have to be
enlarged or reduced, and for the embedded photographs the pixels that are fed and the time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

import zoo
from fcos import Detector, ShortestSide
from fcos.coco_eval import evaluate_detections, to_coco_results
from fcos.data import shapes
from fcos.data.annotations import load_annotations
from fcos.images import load_image
from fcos.preprocess import ResizeMethod, as_float, resize_image

PHOTOS = Path(__file__).resolve().parent.parent / "data" / "coco_val_ccby" / "images"
REPORT = Path("reports/resize_methods.md")
METHODS: tuple[ResizeMethod, ...] = get_args(ResizeMethod)
ENTRY, IMAGES, SIZES = "FCOS_shapes_tiny", 500, (96, 320)


def main() -> None:
    """Measure and write the report."""
    torch.set_num_threads(1)
    lines = [
        "# Methods of test-time resizing\n",
        "Written by `python -m benchmarks.studies.resize_methods`, on one thread of a CPU.\n",
        f"AP of `{ENTRY}`, whose inputs have a longer side of 160 pixels, on {IMAGES} images:\n",
        f"| drawn at | {' | '.join(METHODS)} |",
        f"| --- |{' --- |' * len(METHODS)}",
        *(f"| {size} px | {' | '.join(precisions(size))} |" for size in SIZES),
        "\nThe 31 embedded photographs, shorter side to 800 pixels and longer at most 1333:\n",
        "| method | mean difference from `pil`, grey levels | largest | median ms an image |",
        "| --- | --- | --- | --- |",
        *(f"| {method} | {differences(method)} |" for method in METHODS),
    ]
    REPORT.write_text("\n".join(lines) + "\n")


def precisions(size: int) -> list[str]:
    """AP by method on images whose longer side is `size`."""
    annotations = shapes.write(f"outputs/resize_methods/{size}", IMAGES, seed=7, size=size)
    detector = zoo.get(ENTRY).fuse()
    return [f"{average_precision(detector, annotations, method):.2f}" for method in METHODS]


def average_precision(detector: Detector, annotations: Path, method: ResizeMethod) -> float:
    """COCO AP in per cent."""
    detector.resize_method = method
    results = []
    for row in load_annotations(annotations)["images"]:
        detections = detector.detect(annotations.parent / "images" / row["file_name"])[0]
        results += to_coco_results(
            row["id"],
            detections.boxes,
            detections.scores,
            detections.labels,
            detector.card.config["category_ids"],
        )
    return 100 * float(evaluate_detections(results, annotations)["AP"])


def differences(method: ResizeMethod) -> str:
    """Mean and largest difference from Pillow's pixels, and the time."""
    photos = [load_image(path) for path in sorted(PHOTOS.iterdir())]
    gaps, times = [], []
    for photo in photos:
        size = ShortestSide()(photo.shape[-2], photo.shape[-1])
        start = time.perf_counter()
        resized = resize_image(photo, size, method)
        times.append(1000 * (time.perf_counter() - start))
        gaps.append(gap(resized, resize_image(photo, size, "pil")))
    mean, largest = statistics.mean(g[0] for g in gaps), max(g[1] for g in gaps)
    return f"{mean:.2f} | {largest:.1f} | {statistics.median(times):.0f}"


def gap(image: Tensor, other: Tensor) -> Sequence[float]:
    """Mean and largest difference in grey levels."""
    difference = 255 * (as_float(image) - as_float(other)).abs()
    return float(difference.mean()), float(difference.max())


if __name__ == "__main__":
    main()
