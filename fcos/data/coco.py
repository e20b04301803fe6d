"""Datasets in COCO's annotation format: any annotation file and image folder."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fcos.data.dataset import DetectionDataset
from fcos.read import ImageError

Note = Callable[[str, str], None]  # (what happened, where)

CLIP_TOLERANCE = 0.01  # pixels; official files exceed the image by rounding alone


def load_annotations(
    source: str | Path | Mapping[str, Any], labelled: bool = True
) -> dict[str, Any]:
    """An annotation file's content, or a mapping in its place; refused unless in COCO's format.

    Without `labelled` a list of images is enough, as COCO's test sets come (`image_info_*.json`).
    """
    name = "annotations" if isinstance(source, Mapping) else str(source)
    try:
        content = source if isinstance(source, Mapping) else json.loads(Path(source).read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(f"{name}: no such annotation file") from None
    except ValueError as error:
        raise ValueError(f"{name}: not a whole JSON file ({error})") from None
    if isinstance(content, list):
        raise ValueError(
            f"{name}: a list, as results are; annotations are images, annotations and categories"
        )
    if not labelled and isinstance(content, Mapping):
        content = {"annotations": [], **content}
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, Mapping) or not isinstance(content.get(key), list):
            raise ValueError(f'{name}: not a COCO annotation file, it has no list "{key}"')
    if not content["images"] or not content["categories"]:
        raise ValueError(f"{name}: no images or no categories")
    _check_rows(name, "images", content["images"], ("id", "height", "width"), ("file_name",))
    _check_rows(name, "categories", content["categories"], ("id",), ())
    _check_rows(name, "annotations", content["annotations"], (), ())
    return dict(content)


def _check_rows(
    name: str, key: str, rows: Sequence[Any], numbers: tuple[str, ...], texts: tuple[str, ...]
) -> None:
    for position, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ValueError(f"{name}: {key}[{position}] is no JSON object")
        for field in numbers:
            if not isinstance(row.get(field), int) or abs(row[field]) >= 1 << 63:
                raise ValueError(f"{name}: {key}[{position}] has no valid {field}")
        for field in texts:
            if not isinstance(row.get(field), str):
                raise ValueError(f"{name}: {key}[{position}] has no valid {field}")
        if "height" in numbers and (row["height"] < 1 or row["width"] < 1):
            raise ValueError(
                f"{name}: {key}[{position}], {row['file_name']}, has a size of "
                f"{row['width']}x{row['height']}"
            )
    if "id" in numbers:
        (most, times), *_ = Counter(row["id"] for row in rows).most_common(1)
        if times > 1:
            raise ValueError(f"{name}: {times} of the {key} have the id {most}")


class CocoDataset(DetectionDataset):
    """A dataset in COCO's annotation format, as its training targets need it.

    Classes are the file's categories in the order of their ids. Boxes are clipped to the image.
    Left out, and counted in `counts`: crowd regions, boxes without area, malformed boxes,
    annotations of unknown categories or images, and images without objects.

    Args:
        annotations: the annotation file, or its content.
        images: the folder that its file names start from.
        keep_empty: keep images without objects; most published recipes leave them out.
        plus_one: boxes end on their last pixel (x + w - 1), the older convention of
            maskrcnn-benchmark, instead of after it.
        whole_pixels: cut box coordinates to integers, as the centre-ness-free system's lists are.
        skip_unreadable: see `DetectionDataset`; also says what to do about missing files now.
        note: called with every outcome and where it happened.

    Raises:
        ValueError: the file is not a COCO annotation file; the message names it.
        ImageError: images are missing, unless `skip_unreadable`.
    """

    def __init__(
        self,
        annotations: str | Path | Mapping[str, Any],
        images: str | Path,
        *,
        keep_empty: bool = False,
        plus_one: bool = False,
        whole_pixels: bool = False,
        skip_unreadable: bool = False,
        note: Note | None = None,
    ) -> None:
        content = load_annotations(annotations)
        counts: Counter[str] = Counter()

        def count(outcome: str, where: str) -> None:
            counts[outcome] += 1
            if note is not None:
                note(outcome, where)

        pictures = present_images(content["images"], Path(images), skip_unreadable, count)
        categories = sorted(content["categories"], key=lambda category: category["id"])
        sizes = np.array([(p["height"], p["width"]) for p in pictures], dtype=np.int64)
        rows, labels, boxes = _objects(content, pictures, categories, count)
        boxes, keep = _clip(boxes, sizes[rows], plus_one, whole_pixels)
        for outcome, mask in (("box clipped", keep == 1), ("box without area", keep == 0)):
            for row in rows[mask]:
                count(outcome, pictures[row]["file_name"])
        rows, labels, boxes = rows[keep > 0], labels[keep > 0], boxes[keep > 0]

        # Stable, so that the objects of an image stay in the file's order.
        order = np.argsort(rows, kind="stable")
        per_image = np.bincount(rows, minlength=len(pictures))
        for row in np.flatnonzero(per_image == 0):
            count("image without objects", pictures[row]["file_name"])
        chosen = np.flatnonzero((per_image > 0) | keep_empty)
        if len(chosen) == 0:
            raise ValueError(f"no image under {images} has an object to train on: {dict(counts)}")
        super().__init__(
            classes=tuple(str(c.get("name", c["id"])) for c in categories),
            category_ids=tuple(c["id"] for c in categories),
            files=[os.path.join(images, pictures[row]["file_name"]) for row in chosen],
            image_ids=np.array([pictures[row]["id"] for row in chosen], dtype=np.int64),
            sizes=sizes[chosen],
            boxes=boxes[order],
            labels=labels[order],
            ends=np.cumsum(per_image[chosen]),
            counts=counts,
            skip_unreadable=skip_unreadable,
        )


def present_images(
    images: Sequence[dict], root: Path, skip: bool = False, note: Note | None = None
) -> list[dict]:
    """The images whose files exist, by one listing a folder: files may be many and far away.

    Raises:
        ImageError: some do not, unless `skip`; or none does.
    """
    places = [os.path.split(os.path.join(root, image["file_name"])) for image in images]
    listed = {
        folder: set(os.listdir(folder)) if os.path.isdir(folder) else set()
        for folder in {folder for folder, _ in places}
    }
    present: list[dict] = []
    missing: list[dict] = []
    for image, (folder, name) in zip(images, places, strict=True):
        (present if name in listed[folder] else missing).append(image)
    if missing and (not skip or not present):
        raise ImageError(
            f"{root}: {len(missing)} of {len(images)} annotated images are missing, "
            f"{missing[0]['file_name']} the first",
            "image missing",
        )
    if note is not None:
        for image in missing:
            note("image missing", image["file_name"])
    return present


def _objects(
    content: dict[str, Any], images: Sequence[dict], categories: Sequence[dict], count: Note
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image rows (m,), labels (m,) and xywh boxes (m, 4) of the objects that can be learnt from."""
    row_of = {image["id"]: row for row, image in enumerate(images)}
    label_of = {category["id"]: label for label, category in enumerate(categories)}
    known = {image["id"] for image in content["images"]}
    rows, labels, boxes = [], [], []
    for position, thing in enumerate(content["annotations"]):
        image_id, category_id = (_id(thing.get(key)) for key in ("image_id", "category_id"))
        row, label = row_of.get(image_id), label_of.get(category_id)
        if row is None:
            if image_id not in known:
                count("unknown image", f"annotations[{position}]")
        elif label is None:
            count("unknown category", images[row]["file_name"])
        elif thing.get("iscrowd"):
            count("crowd left out", images[row]["file_name"])
        elif not is_box(thing.get("bbox")):
            count("malformed box", images[row]["file_name"])
        else:
            rows.append(row)
            labels.append(label)
            boxes.append(thing["bbox"])
    return (
        np.array(rows, dtype=np.int64),
        np.array(labels, dtype=np.int64),
        np.array(boxes, dtype=np.float64).reshape(-1, 4),
    )


def _id(value: Any) -> float | None:
    return value if isinstance(value, (int, float)) else None


def is_box(box: Any) -> bool:
    """Whether an annotation's `bbox` is four finite numbers."""
    try:
        return len(box) == 4 and all(map(math.isfinite, box))
    except (TypeError, OverflowError):
        return False


def _clip(
    xywh: np.ndarray, sizes: np.ndarray, plus_one: bool, whole_pixels: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes as float32 xyxy inside their images; and for each 2: kept, 1: clipped, 0: no area."""
    last = 1 if plus_one else 0
    corners = np.concatenate([xywh[:, :2], xywh[:, :2] + np.maximum(xywh[:, 2:] - last, 0)], axis=1)
    if whole_pixels:
        corners = np.trunc(corners)
    limits = np.tile(sizes[:, ::-1] - last, 2)
    boxes = np.clip(corners, 0, limits).astype(np.float32)
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    clipped = (np.abs(boxes - corners) > CLIP_TOLERANCE).any(axis=1)
    return boxes, np.where(has_area, np.where(clipped, 1, 2), 0)
