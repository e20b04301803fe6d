"""CVAT's own format: `annotations.xml` of "CVAT for images 1.1"."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from pathlib import Path

from fcos.data.annotations import DatasetSource
from fcos.data.image_files import find_image_dir
from fcos.data.labelled import Box, LabelledImage, bounds, to_coco

SHAPES = ("box", "polygon", "polyline", "points", "ellipse", "mask")


def read_cvat(path: Path) -> DatasetSource:
    """The dataset of a file, with the box around each shape.

    Classes are the labels of the task, in its order.

    Raises:
        ValueError: the file is damaged, or holds the tracks of a video; the message names it.
    """
    try:
        page = ET.parse(path).getroot()
        images = [_image(element) for element in page.iter("image")]
    except (ET.ParseError, LookupError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: not a CVAT annotation file ({error})") from None
    if not images and page.find("track") is not None:
        raise ValueError(f"{path}: tracks of a video; export it as CVAT for images, or as COCO")
    labels = [label.findtext("name", "").strip() for label in page.iter("label")]
    content = to_coco(path, images, list(dict.fromkeys(labels)) or None)
    return DatasetSource(content, find_image_dir(path, content))


def _image(element: ET.Element) -> LabelledImage:
    size = int(element.get("height", 0)), int(element.get("width", 0))
    shapes = [shape for shape in element if shape.tag in SHAPES]
    objects = [(shape.get("label", ""), _box(shape)) for shape in shapes]
    return LabelledImage(element.get("name", ""), size, objects)


def _box(shape: ET.Element) -> Box | None:
    """The xyxy box around a shape, which may be rotated about its centre."""

    def numbers(*keys: str) -> list[float]:
        return [float(shape.get(key, "nan")) for key in keys]

    turn = math.radians(float(shape.get("rotation", 0)))
    cos, sin = abs(math.cos(turn)), abs(math.sin(turn))
    if shape.tag == "mask":
        left, top, width, height = numbers("left", "top", "width", "height")
        return [left, top, left + width, top + height]
    if shape.tag == "ellipse":
        x, y, rx, ry = numbers("cx", "cy", "rx", "ry")
        half_width, half_height = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)
    elif shape.tag == "box":
        left, top, right, bottom = numbers("xtl", "ytl", "xbr", "ybr")
        x, y, rx, ry = (
            (left + right) / 2,
            (top + bottom) / 2,
            (right - left) / 2,
            (bottom - top) / 2,
        )
        half_width, half_height = rx * cos + ry * sin, rx * sin + ry * cos
    else:
        pairs = filter(None, shape.get("points", "").split(";"))
        return bounds([tuple(map(float, pair.split(","))) for pair in pairs])
    return [x - half_width, y - half_height, x + half_width, y + half_height]
