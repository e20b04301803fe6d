"""A test set is examined before the first step, not by the first evaluation."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from fcos.coco_eval import COCO_LIMIT
from fcos.data.dataset import DetectionDataset
from fcos.evaluate import match_categories, unmatched
from fcos.image_io import ImageError, read_image


def examine(classes: Sequence[str], test: DetectionDataset, limit: int | None = None) -> list[str]:
    """Read every image of a test set, and match its classes with the detector's.

    Args:
        classes: the detector's.
        test: the test set.
        limit: detections of an image that count; None for COCO's limit.

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
    return [
        *unmatched(classes, test.classes),
        *crowded(objects.tolist(), limit or COCO_LIMIT, "data.max_detections"),
    ]


def crowded(objects: Iterable[int], limit: int, option: str) -> list[str]:
    """A line where images have more objects than AP counts detections; else none.

    Args:
        objects: the number of each image's.
        limit: detections of an image that count.
        option: what sets the limit.
    """
    many = [number for number in objects if number > limit]
    if not many:
        return []
    return [
        f"{len(many)} images have more than {limit} objects, up to {max(many)}, but AP counts "
        f"{limit} detections of an image: {option}={max(many)} counts more"
    ]


def _fault(test: DetectionDataset, index: int) -> str | None:
    height, width = test.sizes[index].tolist()
    try:
        read_image(test.files[index], (height, width))
    except ImageError as error:
        return str(error)
    return None
