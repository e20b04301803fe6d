"""LabelMe's annotations: a JSON file beside each image."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from fcos.data.annotations import DatasetSource
from fcos.data.image_files import find_image_dir
from fcos.data.labelled import Box, LabelledImage, bounds, to_coco
from fcos.image_io import SUFFIXES


def read_labelme(files: Sequence[Path]) -> DatasetSource:
    """The dataset of LabelMe files in one folder; other JSON files are passed over.

    Shapes of one label and group are one object, as in LabelMe's own conversion to COCO. Classes
    are all labels, sorted. Images without a file are left out, which is noted.

    Raises:
        ValueError: a file is damaged; the message names it.
    """
    images = []
    for path in files:
        try:
            content = json.loads(path.read_bytes())
            if isinstance(content, Mapping) and {"shapes", "imagePath"} <= content.keys():
                images.append(_image(path, content))
        except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            raise ValueError(f"{path}: not a LabelMe annotation file ({error!r})") from None
    folder = files[0].parent
    known = {PureWindowsPath(image.file_name).name for image in images}
    beside = sorted(f.name for f in folder.iterdir() if f.suffix.lower() in SUFFIXES)
    others = [name for name in beside if name not in known] if len(files) > 1 else []
    annotations = to_coco(folder, images, unlabelled=others)
    return DatasetSource(annotations, find_image_dir(files[0], annotations))


def _image(path: Path, content: Mapping[str, Any]) -> LabelledImage:
    name = content["imagePath"]
    if not (path.parent / name).is_file():  # the pair may have been renamed
        beside = (path.with_suffix(s) for suffix in SUFFIXES for s in (suffix, suffix.upper()))
        name = next((file.name for file in beside if file.is_file()), name)
    objects: dict[tuple[str, Any], list[Box]] = {}
    for number, shape in enumerate(content["shapes"]):
        group = shape.get("group_id")
        key = shape["label"], f"shape {number}" if group is None else group
        objects.setdefault(key, []).extend(_points(shape))
    size = content.get("imageHeight") or 0, content.get("imageWidth") or 0
    return LabelledImage(name, size, [(str(k[0]), bounds(points)) for k, points in objects.items()])


def _points(shape: Mapping[str, Any]) -> list[Box]:
    """Points whose bounds are the shape's: its own, or the corners around a circle."""
    points: list[Box] = [(float(x), float(y)) for x, y in shape["points"]]
    if shape.get("shape_type") != "circle":
        return points
    (x, y), edge = points
    radius = math.dist((x, y), edge)
    return [(x - radius, y - radius), (x + radius, y + radius)]
