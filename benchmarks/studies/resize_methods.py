"""What the method of resizing changes: `python -m benchmarks.studies.resize_methods`.

Writes `reports/resize_methods.md`: AP of the embedded weights on drawn images that have to be
enlarged or reduced, and for the embedded photographs the pixels that are fed and the time.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import get_args

import torch

import zoo
from benchmarks import accuracy
from benchmarks.cases import Dataset
from benchmarks.dataset import embedded, image_ids, read_images
from fcos import ShortestSide
from fcos.coco_eval import evaluate_detections
from fcos.data import shapes
from fcos.preprocess import ResizeMethod, as_float, resize_image

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
    """AP in per cent by method, on images whose longer side is `size`."""
    annotations = shapes.write(f"outputs/resize_methods/{size}", IMAGES, seed=7, size=size)
    dataset = Dataset.of(annotations, annotations.parent / "images")
    ids = image_ids(dataset)
    detector = zoo.get(ENTRY).fuse()
    texts = []
    for method in METHODS:
        detector.resize_method = method
        results = accuracy.detect(detector, dataset, ids)
        texts.append(f"{100 * float(evaluate_detections(results, annotations)['AP']):.2f}")
    return texts


def differences(method: ResizeMethod) -> str:
    """Mean and largest difference from Pillow's pixels in grey levels, and the time."""
    gaps, times = [], []
    for photo in read_images(embedded()):
        size = ShortestSide()(photo.shape[-2], photo.shape[-1])
        start = time.perf_counter()
        resized = resize_image(photo, size, method)
        times.append(1000 * (time.perf_counter() - start))
        gap = 255 * (as_float(resized) - as_float(resize_image(photo, size, "pil"))).abs()
        gaps.append((float(gap.mean()), float(gap.max())))
    mean, largest = statistics.mean(g[0] for g in gaps), max(g[1] for g in gaps)
    return f"{mean:.2f} | {largest:.1f} | {statistics.median(times):.0f}"


if __name__ == "__main__":
    main()
