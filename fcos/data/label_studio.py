"""Label Studio's own exports: JSON and JSON_MIN, lists of tasks with shapes in per cent."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fcos.data.annotations import DatasetSource
from fcos.data.image_files import find_image_dir
from fcos.data.labelled import Box, LabelledImage, bounds, to_coco
from fcos.image_io import SUFFIXES

LABELS = ("rectanglelabels", "polygonlabels", "ellipselabels", "brushlabels", "labels")


def read_label_studio(path: Path) -> DatasetSource:
    """The dataset of an export, with the box around each shape and all labels, sorted.

    Of several annotations of a task, the first is taken that was not cancelled; tasks without one
    are left out. Brush strokes have no box.

    Raises:
        ValueError: the file is damaged; the message names it.
    """
    try:
        images = [image for task in json.loads(path.read_bytes()) if (image := _image(task))]
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise ValueError(f"{path}: not an export of Label Studio ({error!r})") from None
    content = to_coco(path, images)
    return DatasetSource(content, find_image_dir(path, content))


def _image(task: Mapping[str, Any]) -> LabelledImage | None:
    data = task.get("data", task)
    regions: list[Mapping[str, Any]]
    if "annotations" in task:
        done = [each for each in task["annotations"] if not each.get("was_cancelled")]
        if not done:
            return None
        regions = [{**region, **region.get("value", {})} for region in done[0]["result"]]
    else:  # JSON_MIN has each kind of label in a list of its own
        lists = [value for value in task.values() if isinstance(value, list)]
        regions = [region for group in lists for region in group if isinstance(region, Mapping)]
    shapes = [region for region in regions if "original_width" in region]
    size = next(((r["original_height"], r["original_width"]) for r in shapes), (0, 0))
    texts = (value for value in data.values() if isinstance(value, str))
    name = next((text for text in texts if any(s in text.lower() for s in SUFFIXES)), None)
    if name is None:
        raise ValueError(f"task {task.get('id')} has no image")
    objects = [
        (label, _box(shape, size))
        for shape in shapes
        for key in LABELS
        for label in shape.get(key, ())
    ]
    return LabelledImage(name, size, objects)


def _box(shape: Mapping[str, Any], size: tuple[int, int]) -> Box | None:
    """The xyxy box in pixels around a shape; rectangles are rotated about their first corner."""
    height, width = size
    if "points" in shape:
        points = [(x / 100 * width, y / 100 * height) for x, y in shape["points"]]
    elif "radiusX" in shape:
        x, y = shape["x"] / 100 * width, shape["y"] / 100 * height
        rx, ry = shape["radiusX"] / 100 * width, shape["radiusY"] / 100 * height
        points = [(x - rx, y - ry), (x + rx, y + ry)]
    elif "width" in shape:
        x, y = shape["x"] / 100 * width, shape["y"] / 100 * height
        w, h = shape["width"] / 100 * width, shape["height"] / 100 * height
        turn = math.radians(shape.get("rotation") or 0)
        cos, sin = math.cos(turn), math.sin(turn)
        corners = [(0, 0), (w, 0), (0, h), (w, h)]
        points = [(x + a * cos - b * sin, y + a * sin + b * cos) for a, b in corners]
    else:
        return None
    return bounds(points)
