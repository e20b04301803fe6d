"""Images with boxes as labelling tools write them, converted to COCO's format.

The readers of all other formats make `LabelledImage`s. Those of LabelMe, CVAT and Label Studio are
here; shapes of any kind become the boxes around them.
"""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

from fcos.data.annotations import DatasetSource
from fcos.data.image_files import find_image_dir
from fcos.image_io import SUFFIXES

CVAT_SHAPES = ("box", "polygon", "polyline", "points", "ellipse", "mask")
LABEL_STUDIO_KEYS = ("rectanglelabels", "polygonlabels", "ellipselabels", "brushlabels", "labels")
# Errors of the readers at malformed content.
MALFORMED = (ValueError, TypeError, KeyError, AttributeError, IndexError)

Box = Sequence[float]  # x1, y1, x2, y2 in pixels


class LabelledImage(NamedTuple):
    """An image of a dataset in another format than COCO's.

    `size` is (height, width), 0 if it is not known; `objects` are class names and xyxy boxes in
    pixels, None if the file has no valid box.
    """

    file_name: str
    size: tuple[int, int]
    objects: Sequence[tuple[str, Box | None]]


def text_lines(path: Path) -> list[str]:
    """Read the lines of a text file in UTF-8.

    Raises:
        ValueError: it has another encoding; the message names it.
    """
    try:
        return path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text in UTF-8 ({error})") from None


def to_coco(
    source: str | Path,
    images: Sequence[LabelledImage],
    classes: Sequence[str] | None = None,
    unlabelled: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the content of a COCO annotation file for these images.

    Args:
        source: the source of the images, for errors.
        images: the images, with ids from 1 in this order.
        classes: class names, with category ids from 1 in this order; by default all that occur,
            sorted. Objects of other classes have no category.
        unlabelled: names of image files that are left out because they have no annotations.

    Raises:
        ValueError: there are no images or no classes.
    """
    if classes is None:
        classes = sorted({name for image in images for name, _ in image.objects})
    if not images or not classes:
        raise ValueError(f"{source}: no image has an object")
    category_of = {name: number for number, name in enumerate(classes, 1)}
    things = [
        {
            "image_id": number,
            "category_id": category_of.get(name),
            "bbox": box and [box[0], box[1], box[2] - box[0], box[3] - box[1]],
            "iscrowd": 0,
        }
        for number, image in enumerate(images, 1)
        for name, box in image.objects
    ]
    return {
        "images": [
            {"id": number, "file_name": name, "height": height, "width": width}
            for number, (name, (height, width), _) in enumerate(images, 1)
        ],
        "annotations": [{"id": number, **thing} for number, thing in enumerate(things, 1)],
        "categories": [{"id": number, "name": name} for name, number in category_of.items()],
        "notes": [("image without annotation file", name) for name in unlabelled],
    }


def bounds(points: Sequence[Box]) -> Box | None:
    """Return the xyxy box around points (x, y); None if there are none."""
    xs, ys = ([point[axis] for point in points] for axis in (0, 1))
    return [min(xs), min(ys), max(xs), max(ys)] if points else None


def read_labelme(files: Sequence[Path]) -> DatasetSource:
    """Read LabelMe's JSON files in one folder, one for each image; other files are ignored.

    Shapes of one label and group are one object, as in LabelMe's own conversion to COCO. Classes
    are all labels, sorted. Images without a file are left out and noted.

    Raises:
        ValueError: a file is damaged; the message names it.
    """
    images = []
    for path in files:
        try:
            content = json.loads(path.read_bytes())
            if isinstance(content, Mapping) and {"shapes", "imagePath"} <= content.keys():
                images.append(_labelme_image(path, content))
        except MALFORMED as error:
            raise ValueError(f"{path}: not a LabelMe annotation file ({error!r})") from None
    folder = files[0].parent
    known = {PureWindowsPath(image.file_name).name for image in images}
    beside = sorted(f.name for f in folder.iterdir() if f.suffix.lower() in SUFFIXES)
    others = [name for name in beside if name not in known] if len(files) > 1 else []
    annotations = to_coco(folder, images, unlabelled=others)
    return DatasetSource(annotations, find_image_dir(files[0], annotations))


def _labelme_image(path: Path, content: Mapping[str, Any]) -> LabelledImage:
    name = content["imagePath"]
    if not (path.parent / name).is_file():  # the pair may have been renamed
        beside = (path.with_suffix(s) for suffix in SUFFIXES for s in (suffix, suffix.upper()))
        name = next((file.name for file in beside if file.is_file()), name)
    objects: dict[tuple[str, Any], list[Box]] = {}
    for number, shape in enumerate(content["shapes"]):
        group = shape.get("group_id")
        key = shape["label"], f"shape {number}" if group is None else group
        points: list[Box] = [(float(x), float(y)) for x, y in shape["points"]]
        if shape.get("shape_type") == "circle":
            (x, y), edge = points
            radius = math.dist((x, y), edge)
            points = [(x - radius, y - radius), (x + radius, y + radius)]
        objects.setdefault(key, []).extend(points)
    size = content.get("imageHeight") or 0, content.get("imageWidth") or 0
    return LabelledImage(name, size, [(str(k[0]), bounds(points)) for k, points in objects.items()])


def read_cvat(path: Path) -> DatasetSource:
    """Read an `annotations.xml` of "CVAT for images 1.1", with the box around each shape.

    Classes are the labels of the task, in the same order.

    Raises:
        ValueError: the file is damaged, or holds the tracks of a video; the message names it.
    """
    try:
        page = ET.parse(path).getroot()
        images = [_cvat_image(element) for element in page.iter("image")]
    except (ET.ParseError, LookupError, *MALFORMED) as error:
        raise ValueError(f"{path}: not a CVAT annotation file ({error})") from None
    if not images and page.find("track") is not None:
        raise ValueError(f"{path}: tracks of a video; export it as CVAT for images, or as COCO")
    labels = [label.findtext("name", "").strip() for label in page.iter("label")]
    content = to_coco(path, images, list(dict.fromkeys(labels)) or None)
    return DatasetSource(content, find_image_dir(path, content))


def _cvat_image(element: ET.Element) -> LabelledImage:
    size = int(element.get("height", 0)), int(element.get("width", 0))
    shapes = [shape for shape in element if shape.tag in CVAT_SHAPES]
    objects = [(shape.get("label", ""), _cvat_box(shape)) for shape in shapes]
    return LabelledImage(element.get("name", ""), size, objects)


def _cvat_box(shape: ET.Element) -> Box | None:
    """Return the xyxy box around a shape, which may be rotated about its centre."""

    def numbers(*keys: str) -> list[float]:
        return [float(shape.get(key, "nan")) for key in keys]

    turn = math.radians(float(shape.get("rotation", 0)))
    cos, sin = abs(math.cos(turn)), abs(math.sin(turn))
    if shape.tag == "mask":
        left, top, width, height = numbers("left", "top", "width", "height")
        return [left, top, left + width, top + height]
    if shape.tag == "box":
        left, top, right, bottom = numbers("xtl", "ytl", "xbr", "ybr")
        x, y = (left + right) / 2, (top + bottom) / 2
        rx, ry = right - x, bottom - y
        half_width, half_height = rx * cos + ry * sin, rx * sin + ry * cos
    elif shape.tag == "ellipse":
        x, y, rx, ry = numbers("cx", "cy", "rx", "ry")
        half_width, half_height = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)
    else:
        pairs = filter(None, shape.get("points", "").split(";"))
        return bounds([tuple(map(float, pair.split(","))) for pair in pairs])
    return [x - half_width, y - half_height, x + half_width, y + half_height]


def read_label_studio(path: Path) -> DatasetSource:
    """Read a JSON or JSON_MIN export of Label Studio, with the box around each shape.

    Classes are all labels, sorted. If a task has several annotations, the first one that was not
    cancelled is taken; tasks without one are left out. Brush strokes have no box.

    Raises:
        ValueError: the file is damaged; the message names it.
    """
    try:
        tasks = json.loads(path.read_bytes())
        images = [image for task in tasks if (image := _label_studio_image(task))]
    except MALFORMED as error:
        raise ValueError(f"{path}: not an export of Label Studio ({error!r})") from None
    content = to_coco(path, images)
    return DatasetSource(content, find_image_dir(path, content))


def _label_studio_image(task: Mapping[str, Any]) -> LabelledImage | None:
    data = task.get("data", task)
    regions: list[Mapping[str, Any]]
    if "annotations" in task:
        done = [each for each in task["annotations"] if not each.get("was_cancelled")]
        if not done:
            return None
        regions = [{**region, **region.get("value", {})} for region in done[0]["result"]]
    else:  # JSON_MIN has a list for each kind of label
        lists = [value for value in task.values() if isinstance(value, list)]
        regions = [region for group in lists for region in group if isinstance(region, Mapping)]
    shapes = [region for region in regions if "original_width" in region]
    size = next(((r["original_height"], r["original_width"]) for r in shapes), (0, 0))
    texts = (value for value in data.values() if isinstance(value, str))
    name = next((text for text in texts if any(s in text.lower() for s in SUFFIXES)), None)
    if name is None:
        raise ValueError(f"task {task.get('id')} has no image")
    objects = [
        (label, _label_studio_box(shape, size))
        for shape in shapes
        for key in LABEL_STUDIO_KEYS
        for label in shape.get(key, ())
    ]
    return LabelledImage(name, size, objects)


def _label_studio_box(shape: Mapping[str, Any], size: tuple[int, int]) -> Box | None:
    """Return the xyxy box in pixels around a shape in per cent of its image (height, width)."""
    height, width = size

    def pixels(x: float, y: float) -> tuple[float, float]:
        return x / 100 * width, y / 100 * height

    if "points" in shape:
        return bounds([pixels(*point) for point in shape["points"]])
    if "radiusX" in shape:
        (x, y), (rx, ry) = (
            pixels(shape["x"], shape["y"]),
            pixels(shape["radiusX"], shape["radiusY"]),
        )
        return [x - rx, y - ry, x + rx, y + ry]
    if "width" in shape:  # a rectangle, rotated about its first corner
        (x, y), (w, h) = pixels(shape["x"], shape["y"]), pixels(shape["width"], shape["height"])
        turn = math.radians(shape.get("rotation") or 0)
        cos, sin = math.cos(turn), math.sin(turn)
        corners = ((0, 0), (w, 0), (0, h), (w, h))
        return bounds([(x + a * cos - b * sin, y + a * sin + b * cos) for a, b in corners])
    return None
