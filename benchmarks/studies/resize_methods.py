"""The effect of the resize method: `python -m benchmarks.studies.resize_methods`.

Writes `reports/resize_methods.md`: AP of the embedded weights on drawn images that are enlarged or
reduced, and for the embedded photographs the difference of pixels and the time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

import zoo
from benchmarks import accuracy
from benchmarks.cases import Dataset
from benchmarks.dataset import embedded, image_ids, read_images
from benchmarks.studies.side_by_side import markdown
from fcos import ShortestSide
from fcos.coco_eval import evaluate_detections
from fcos.data import shapes
from fcos.preprocess import ResizeMethod, as_float, resize_image

REPORT = Path("reports/resize_methods.md")
METHODS: tuple[ResizeMethod, ...] = get_args(ResizeMethod)
ENTRY, SIZES = "FCOS_shapes_tiny", (96, 320)


def main() -> None:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=500, help="drawn ones (%(default)s)")
    parser.add_argument("--photographs", type=int, default=31, help="%(default)s")
    options = parser.parse_args()
    photos = read_images(embedded(), options.photographs)
    torch.set_num_threads(1)
    parts = [
        "# Methods of test-time resizing",
        "`python -m benchmarks.studies.resize_methods` wrote this page, on one thread of a CPU.",
        markdown(
            [precisions(size, options.images) for size in SIZES],
            f"AP of `{ENTRY}`, whose inputs have a longer side of 160 pixels, on "
            f"{options.images} images:",
        ),
        markdown(
            [differences(method, photos) for method in METHODS],
            f"The {len(photos)} embedded photographs, resized to a shorter side of 800 and a "
            "longer side of at most 1333 pixels:",
        ),
    ]
    REPORT.write_text("\n\n".join(parts) + "\n")


def precisions(size: int, images: int) -> dict[str, str]:
    """Return AP in per cent by method, on images whose longer side is `size`."""
    annotations = shapes.write(f"outputs/resize_methods/{size}", images, seed=7, size=size)
    dataset = Dataset.of(annotations, annotations.parent / "images")
    ids = image_ids(dataset)
    detector = zoo.get(ENTRY).fuse()
    row = {"drawn at": f"{size} px"}
    for method in METHODS:
        detector.resize_method = method
        results = accuracy.detect(detector, dataset, ids)
        row[method] = f"{100 * float(evaluate_detections(results, annotations)['AP']):.2f}"
    return row


def differences(method: ResizeMethod, photos: Sequence[Tensor]) -> dict[str, str]:
    """Return the mean and largest difference from Pillow's pixels in grey levels, and the time."""
    gaps, times = [], []
    for photo in photos:
        size = ShortestSide()(photo.shape[-2], photo.shape[-1])
        start = time.perf_counter()
        resized = resize_image(photo, size, method)
        times.append(1000 * (time.perf_counter() - start))
        gap = 255 * (as_float(resized) - as_float(resize_image(photo, size, "pil"))).abs()
        gaps.append((float(gap.mean()), float(gap.max())))
    means, largest = zip(*gaps, strict=True)
    return {
        "method": method,
        "mean difference from `pil`, grey levels": f"{statistics.mean(means):.2f}",
        "largest": f"{max(largest):.1f}",
        "median ms per image": f"{statistics.median(times):.0f}",
    }


if __name__ == "__main__":
    main()
