"""COCO's annotation format: reading it and checking all that training and evaluation use."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

Annotations = str | Path | Mapping[str, Any]
Note = Callable[[str, str], None]  # (kind of irregularity, where)

LARGEST_COORDINATE = 1 << 31  # pixels; beyond it a box is a mistake and its area may overflow
CROWD_FLAGS = {None: 0, 0: 0, 1: 1, "0": 0, "1": 1}


def load_annotations(source: Annotations, labelled: bool = True) -> dict[str, Any]:
    """Read an annotation file and check its lists of images and categories.

    Args:
        source: the file, or its content.
        labelled: False accepts a list of images without annotations, as COCO's test sets have
            (`image_info_*.json`).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not in COCO's format; the message names the file and the row.
    """
    name = "annotations" if isinstance(source, Mapping) else str(source)
    try:
        content = source if isinstance(source, Mapping) else json.loads(Path(source).read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(f"{name}: no such annotation file") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}: not a complete JSON file ({error})") from None
    if isinstance(content, list):
        raise ValueError(
            f"{name}: a list, as COCO results are; an annotation file has images, annotations "
            "and categories"
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
            raise ValueError(f"{name}: {key}[{position}] is not a JSON object")
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


def category_names(content: Mapping[str, Any]) -> dict[int, str]:
    """The name of each category by its id, in the order of ids; the id where it has no name."""
    categories = sorted(content["categories"], key=lambda category: category["id"])
    return {category["id"]: str(category.get("name", category["id"])) for category in categories}


def valid_objects(content: Mapping[str, Any], note: Note | None = None) -> list[dict[str, Any]]:
    """The objects that training and evaluation can use, in the order of the file.

    Args:
        content: of `load_annotations`.
        note: called with the kind of irregularity and the image's file name (or, where there is no
            such image, the row) for every object that is left out or completed.

    Returns:
        Dicts of `image_id`, `category_id`, `bbox` (x, y, width, height), `iscrowd` 0 or 1, and
        `area`, which is the box's where the file has no valid one.
    """
    files = {image["id"]: image["file_name"] for image in content["images"]}
    categories = {category["id"] for category in content["categories"]}
    objects = []
    for position, row in enumerate(content["annotations"]):
        image_id, category_id = (_scalar(row.get(key)) for key in ("image_id", "category_id"))
        crowd, area = CROWD_FLAGS.get(_scalar(row.get("iscrowd"))), row.get("area")
        kind = None
        if image_id not in files:
            kind = "unknown image"
        elif category_id not in categories:
            kind = "unknown category"
        elif crowd is None:
            kind = "malformed iscrowd"
        elif not is_box(row.get("bbox")):
            kind = "malformed box"
        elif area is not None and not (_is_number(area, LARGEST_COORDINATE**2) and area >= 0):
            kind = "malformed area"
        if kind and note:
            note(kind, files.get(image_id, f"annotations[{position}]"))
        if kind in (None, "malformed area"):
            box = list(row["bbox"])
            if kind or area is None:
                area = box[2] * box[3]
            objects.append(
                {
                    "image_id": image_id,
                    "category_id": category_id,
                    "bbox": box,
                    "iscrowd": crowd,
                    "area": area,
                }
            )
    return objects


def is_box(box: Any) -> bool:
    """Whether an annotation's `bbox` is four numbers that can be coordinates."""
    try:
        return len(box) == 4 and all(_is_number(side, LARGEST_COORDINATE) for side in box)
    except TypeError:
        return False


def _is_number(value: Any, limit: int) -> bool:
    number: Any = value if isinstance(value, Real) else math.nan
    return bool(abs(number) < limit)  # NaN is not


def _scalar(value: Any) -> Any:
    """The value, or NaN, which equals no id and no flag, for what cannot be looked up."""
    return value if isinstance(value, (int, float, str, type(None))) else math.nan
