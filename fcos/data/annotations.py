"""Read COCO's annotation format, and check everything that training and evaluation use."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as masks

Annotations = str | Path | Mapping[str, Any]
Note = Callable[[str, str], None]  # (kind of irregularity, where)

LARGEST_COORDINATE = 1 << 31  # pixels; beyond it a box is a mistake and its area may overflow
SAMPLE = 1000  # number of objects by which the form of a file's boxes is judged
CROWD_FLAGS = {None: 0, 0: 0, 1: 1, "0": 0, "1": 1}


class DatasetSource(NamedTuple):
    """Annotations in COCO's format, a file or its content, and the folder of the images."""

    annotations: Path | Mapping[str, Any]
    image_dir: Path


def load_annotations(source: Annotations, labelled: bool = True) -> dict[str, Any]:
    """Read an annotation file in COCO's format and check its lists of images and categories.

    Ids that are text are converted to integers, or else replaced by the positions of their rows.
    A width or height that is missing or not positive becomes 0, and is read from the image later.
    The category 0 that Roboflow adds, named like the supercategory of all others and without
    objects, is left out of files.

    Args:
        source: the file, or its content.
        labelled: False accepts a list of images without annotations, as COCO's test sets have
            (`image_info_*.json`).

    Returns:
        The content; `notes` lists (kind of irregularity, where) for each change, and `name` is the
        file's name for messages.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not in COCO's format; the message names the file and the row.
    """
    name = "annotations" if isinstance(source, Mapping) else str(source)
    content = source if isinstance(source, Mapping) else _read_json(Path(source))
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
        for position, row in enumerate(content[key]):
            if not isinstance(row, Mapping):
                raise ValueError(f"{name}: {key}[{position}] is not a JSON object")
    if not content["images"] or not content["categories"]:
        raise ValueError(f"{name}: no images or no categories")
    for position, image in enumerate(content["images"]):
        if not isinstance(image.get("file_name"), str):
            raise ValueError(f"{name}: images[{position}] has no valid file_name")
    notes = content.get("notes", []) if isinstance(source, Mapping) else []
    name = content.get("name", name) if isinstance(source, Mapping) else name
    plain = _with_integers(name, {**content, "name": name, "notes": list(notes)})
    return plain if isinstance(source, Mapping) else _without_supercategory(plain)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such annotation file") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a complete JSON file ({error})") from None


def _with_integers(name: str, content: dict[str, Any]) -> dict[str, Any]:
    """Convert ids and sizes to integers; rows that have integers are not copied."""
    numbers = {}
    for key, field, label in (
        ("images", "image_id", "file_name"),
        ("categories", "category_id", "name"),
    ):
        rows = content[key]
        ids = [_id(row.get("id")) for row in rows]
        if None in ids:
            raise ValueError(f"{name}: {key}[{ids.index(None)}] has no valid id")
        (most, times), *_ = Counter(ids).most_common(1)
        if times > 1:
            raise ValueError(f"{name}: {times} of the {key} have the id {most}")
        spelled = all(isinstance(each, int) and abs(each) < 1 << 63 for each in ids)
        numbers[field] = {each: each if spelled else place for place, each in enumerate(ids, 1)}
        content["notes"] += [
            ("id as text", str(row.get(label))) for row in rows if isinstance(row["id"], str)
        ]
        content[key] = [
            row if row["id"] is number else {**row, "id": number}
            for row, number in zip(rows, numbers[field].values(), strict=True)
        ]
    content["images"] = [
        {**image, **{side: _size(image.get(side)) for side in ("height", "width")}}
        for image in content["images"]
    ]
    same = all(each is number for ids in numbers.values() for each, number in ids.items())
    if not same or any(
        type(row.get(field)) is not int for row in content["annotations"] for field in numbers
    ):
        content["annotations"] = [
            {**row, **{field: ids.get(_id(row.get(field))) for field, ids in numbers.items()}}
            for row in content["annotations"]
        ]
    return content


def _id(value: Any) -> int | str | None:
    """Return an id as an integer, also if it is a float or text; else as text, or None."""
    if isinstance(value, str):
        return int(value) if value.isdecimal() and str(int(value)) == value else value
    return _integer(value)


def _integer(value: Any) -> int | None:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) else None


def _size(value: Any) -> int:
    """Return a width or height, or 0 if it is not known."""
    return max(_integer(value) or 0, 0)


def _without_supercategory(content: dict[str, Any]) -> dict[str, Any]:
    """Leave out the category that Roboflow adds to every export, see `load_annotations`."""
    first, *others = sorted(content["categories"], key=lambda category: category["id"])
    added = (
        first["id"] == 0
        and first.get("supercategory") in (None, "", "none")
        and bool(others)
        and all(other.get("supercategory") == first.get("name") for other in others)
    )
    if added and not any(row.get("category_id") == 0 for row in content["annotations"]):
        content["notes"].append(("supercategory left out", str(first["name"])))
        content["categories"] = others
    return content


def category_names(content: Mapping[str, Any]) -> dict[int, str]:
    """Return the name of each category by id, in the order of ids; the id if it has no name."""
    categories = sorted(content["categories"], key=lambda category: category["id"])
    return {category["id"]: str(category.get("name", category["id"])) for category in categories}


def valid_objects(content: Mapping[str, Any], note: Note | None = None) -> list[dict[str, Any]]:
    """Return the objects that training and evaluation can use, in the order of the file.

    Args:
        content: the annotations, see `load_annotations`.
        note: called with the kind of irregularity and the image's file name (or the row, if there
            is no such image) for every object that is left out or completed.

    Returns:
        Dicts of `image_id`, `category_id`, `bbox` (x, y, width, height), `iscrowd` 0 or 1, and
        `area`. If the file has no valid `bbox`, it is that of the segmentation; if it has no valid
        `area`, that of the box.

    Raises:
        ValueError: the boxes are in another format than COCO's.
    """
    files = {image["id"]: image["file_name"] for image in content["images"]}
    categories = {category["id"] for category in content["categories"]}
    objects = []
    for position, row in enumerate(content["annotations"]):
        image_id, category_id = (_scalar(row.get(key)) for key in ("image_id", "category_id"))
        crowd, area = CROWD_FLAGS.get(_scalar(row.get("iscrowd"))), row.get("area")
        area_known = _is_number(area, LARGEST_COORDINATE**2) and area >= 0
        box, kind = row.get("bbox"), None
        if not is_box(box):
            box, kind = segmentation_box(row.get("segmentation")), "box of the segmentation"
        if image_id not in files:
            kind = "unknown image"
        elif box is None:
            kind = "malformed box"
        elif category_id not in categories:
            kind = "unknown category"
        elif crowd is None:
            kind = "malformed iscrowd"
        elif area is not None and not area_known:
            kind = kind or "malformed area"
        if kind and note:
            note(kind, files.get(image_id, f"annotations[{position}]"))
        if kind in (None, "malformed area", "box of the segmentation"):
            area = area if area_known else box[2] * box[3]
            fields = {"image_id": image_id, "category_id": category_id, "bbox": list(box)}
            objects.append({**fields, "iscrowd": crowd, "area": area})
    _check_units(content, objects[:SAMPLE])
    return objects


def _check_units(content: Mapping[str, Any], objects: list[dict[str, Any]]) -> None:
    """Refuse boxes that are fractions of the image, or corners.

    A few boxes that exceed the image are clipped later. Boxes are taken for corners if many exceed
    the image by far, and none would if its last two numbers were the second corner.
    """
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    known = [thing for thing in objects if all(sizes[thing["image_id"]])]
    if not known:
        return
    boxes = np.array([thing["bbox"] for thing in known], dtype=np.float64)
    limits = np.array([sizes[thing["image_id"]] for thing in known], dtype=np.float64)
    first, last = boxes[:, :2], boxes[:, 2:]
    form = None
    if (boxes >= 0).all() and (boxes <= 1).all() and (limits > 1).all():
        form = "fractions of the image"
    elif (last > first).all() and (first >= -1).all() and (last <= limits + 1).all():
        beyond = (first + last > 1.1 * limits).any(axis=1)
        form = "corners (x1, y1, x2, y2)" if beyond.mean() >= 0.25 else None
    if form:
        raise ValueError(
            f"{content.get('name', 'annotations')}: the boxes look like {form}; in COCO's format "
            f"they are x, y, width and height in pixels (the first is {known[0]['bbox']})"
        )


def segmentation_box(segmentation: Any) -> list[float] | None:
    """Return the box (x, y, width, height) of polygons or a run-length mask, None if malformed."""
    try:
        if isinstance(segmentation, Mapping):
            counts, (height, width) = segmentation["counts"], segmentation["size"]
            rle = segmentation
            if isinstance(counts, list):
                rle = masks.frPyObjects(dict(segmentation), height, width)
            box = [float(side) for side in masks.toBbox(rle)]
        else:
            rings = (
                [segmentation] if _is_number(segmentation[0], LARGEST_COORDINATE) else segmentation
            )
            points = [value for ring in rings for value in ring]
            xs, ys = points[::2], points[1::2]
            box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    except Exception:  # malformed ones cause errors of any type
        return None
    return box if is_box(box) else None


def is_box(box: Any) -> bool:
    """Whether an annotation's `bbox` is four numbers that can be coordinates."""
    try:
        return len(box) == 4 and all(_is_number(side, LARGEST_COORDINATE) for side in box)
    except TypeError:
        return False


def _is_number(value: Any, limit: int) -> bool:
    # int and float are named since isinstance is slow with Real.
    number: Any = value if isinstance(value, (int, float, Real)) else math.nan
    return bool(abs(number) < limit)  # False for NaN


def _scalar(value: Any) -> Any:
    """Return the value, or NaN, which equals no id or flag, if it cannot be looked up."""
    return value if isinstance(value, (int, float, str, type(None))) else math.nan
