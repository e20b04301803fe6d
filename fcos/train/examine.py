"""A test set is examined before the first step, not by the first evaluation."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from fcos.data.dataset import DetectionDataset
from fcos.evaluate import match_categories, unmatched
from fcos.image_io import ImageError, read_image

COCO_LIMIT = 100  # detections of an image that COCO's AP counts


def examine(classes: Sequence[str], test: DetectionDataset) -> list[str]:
    """Read every image of a test set, and match its classes with the detector's.

    Returns:
        Lines that say what will not be measured as one may expect.

    Raises:
        ImageError: images cannot be read, or have another size than annotated.
        ValueError: it has none of the detector's classes.
    """
    match_categories(classes, test)
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        errors = [error for error in pool.map(lambda i: _fault(test, i), range(len(test))) if error]
    if errors:
        raise ImageError(f"{len(errors)} of {len(test)} images to evaluate on: {errors[0]}")
    objects = np.diff(test.ends, prepend=0)
    return [*unmatched(classes, test.classes), *crowded(objects.tolist())]


def crowded(objects: Iterable[int]) -> list[str]:
    """A line where images have more objects than COCO's AP counts detections; else none.

    Args:
        objects: the number of each image's.
    """
    many = [number for number in objects if number > COCO_LIMIT]
    if not many:
        return []
    return [
        f"{len(many)} images have more than {COCO_LIMIT} objects, up to {max(many)}: COCO's AP "
        f"counts {COCO_LIMIT} detections of an image; `fcos-zoo evaluate --max-detections "
        f"{max(many)}` counts more"
    ]


def _fault(test: DetectionDataset, index: int) -> str | None:
    height, width = test.sizes[index].tolist()
    try:
        read_image(test.files[index], (height, width))
    except ImageError as error:
        return str(error)
    return None
