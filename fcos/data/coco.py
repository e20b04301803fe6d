"""Datasets in COCO's annotation format: any annotation file and image folder."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fcos.data.annotations import Annotations, Note, category_names, load_annotations, valid_objects
from fcos.data.dataset import DetectionDataset
from fcos.data.image_files import existing_images
from fcos.image_io import image_size, image_sizes

CLIP_TOLERANCE = 0.01  # pixels; boxes of official files exceed the image by rounding errors


class CocoDataset(DetectionDataset):
    """A dataset in COCO's annotation format, with the targets that training needs.

    Classes are the file's categories in the order of their ids. Boxes are clipped to the image.
    These are left out, and counted in `counts`: crowd regions, boxes without area, malformed
    objects (`fcos.data.annotations.valid_objects`), and images without objects.

    Args:
        annotations: the annotation file, or its content.
        image_dir: the folder that its file names start from.
        keep_empty: keep images without objects; most published recipes leave them out.
        plus_one: boxes end on their last pixel (x + w - 1), the older convention of
            maskrcnn-benchmark, instead of after it.
        whole_pixels: truncate box coordinates to integers, as the centre-ness-free system does.
        skip_unreadable: see `DetectionDataset`; missing files are then left out at once.
        note: called with the kind of every irregularity and where it is.

    Raises:
        ValueError: the file is not a COCO annotation file; the message names it.
        ImageError: images are missing, unless `skip_unreadable`.
    """

    def __init__(
        self,
        annotations: Annotations,
        image_dir: str | Path,
        *,
        keep_empty: bool = False,
        plus_one: bool = False,
        whole_pixels: bool = False,
        skip_unreadable: bool = False,
        note: Note | None = None,
    ) -> None:
        content = load_annotations(annotations)
        counts: Counter[str] = Counter()

        def count(kind: str, where: str) -> None:
            counts[kind] += 1
            if note is not None:
                note(kind, where)

        for kind, where in content["notes"]:
            count(kind, where)
        images = existing_images(content["images"], Path(image_dir), skip_unreadable, count)
        files = [image["file_name"] for image in images]
        sizes = image_dimensions(images, Path(image_dir), skip_unreadable, count)
        classes = category_names(content)
        row_of = {image["id"]: row for row, image in enumerate(images)}
        label_of = {category_id: label for label, category_id in enumerate(classes)}
        objects = [thing for thing in valid_objects(content, count) if thing["image_id"] in row_of]
        for crowd in (thing for thing in objects if thing["iscrowd"]):
            count("crowd left out", files[row_of[crowd["image_id"]]])
        objects = [thing for thing in objects if not thing["iscrowd"]]
        rows = np.array([row_of[thing["image_id"]] for thing in objects], dtype=np.int64)
        labels = np.array([label_of[thing["category_id"]] for thing in objects], dtype=np.int64)
        xywh = np.array([thing["bbox"] for thing in objects], dtype=np.float64).reshape(-1, 4)

        boxes, has_area, clipped = _clip(xywh, sizes[rows], plus_one, whole_pixels)
        for kind, mask in (("box clipped", clipped & has_area), ("box without area", ~has_area)):
            for row in rows[mask]:
                count(kind, files[row])
        rows, labels, boxes = rows[has_area], labels[has_area], boxes[has_area]

        order = np.argsort(rows, kind="stable")  # the objects of an image keep the file's order
        per_image = np.bincount(rows, minlength=len(images))
        for row in np.flatnonzero(per_image == 0):
            count("image without objects", files[row])
        chosen = np.flatnonzero((per_image > 0) | keep_empty)
        if len(chosen) == 0:
            raise ValueError(f"no image in {image_dir} has an object to train on: {dict(counts)}")
        super().__init__(
            classes=tuple(classes.values()),
            category_ids=tuple(classes),
            files=[os.path.join(image_dir, files[row]) for row in chosen],
            image_ids=np.array([images[row]["id"] for row in chosen], dtype=np.int64),
            sizes=sizes[chosen],
            boxes=boxes[order],
            labels=labels[order],
            ends=np.cumsum(per_image[chosen]),
            counts=counts,
            skip_unreadable=skip_unreadable,
        )


def image_dimensions(
    images: Sequence[Mapping[str, Any]], root: Path, skip_unreadable: bool, note: Note
) -> np.ndarray:
    """(n, 2) heights and widths, read from the images where the annotations have none.

    An image that cannot be read gets a size of 1x1 if it is to be skipped.
    """
    sizes = np.array([(image["height"], image["width"]) for image in images], dtype=np.int64)
    unknown = np.flatnonzero((sizes == 0).any(axis=1)).tolist()
    paths = [root / images[row]["file_name"] for row in unknown]
    for row, path, size in zip(unknown, paths, image_sizes(paths), strict=True):
        if 0 not in size:
            note("size read from the image", images[row]["file_name"])
        elif not skip_unreadable:
            image_size(path)  # raises the reason
        sizes[row] = np.maximum(size, 1)
    return sizes


def _clip(
    xywh: np.ndarray, sizes: np.ndarray, plus_one: bool, whole_pixels: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clip boxes to their images.

    Returns:
        The boxes, (n, 4) float32 xyxy; (n,) whether each has an area; (n,) whether it was clipped.
    """
    last = 1 if plus_one else 0
    corners = np.concatenate([xywh[:, :2], xywh[:, :2] + np.maximum(xywh[:, 2:] - last, 0)], axis=1)
    if whole_pixels:
        corners = np.trunc(corners)
    limits = np.tile(sizes[:, ::-1] - last, 2)
    boxes = np.clip(corners, 0, limits).astype(np.float32)
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    clipped = (np.abs(boxes - corners) > CLIP_TOLERANCE).any(axis=1)
    return boxes, has_area, clipped
