"""Datasets in the PASCAL VOC layout: JPEGImages, Annotations and ImageSets/Main."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# fmt: off
CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)
# fmt: on


def voc_annotations(
    root: str | Path, image_set: str, classes: Sequence[str] = CLASSES
) -> dict[str, Any]:
    """Read a VOC image set as annotations in COCO's format.

    VOC counts pixels from 1 and its boxes include their last pixel: (xmin, xmax) becomes
    x = xmin - 1 and w = xmax - xmin + 1. Objects marked difficult become crowd regions, which
    are not trained on and do not count against a detector. The id of an image is the number in its
    name ("2007_000027" is 2007000027) or, where names are not numbers, its position in the list.

    Raises:
        ValueError: an image set or an XML file is missing or invalid; the message names it.
    """
    root = Path(root)
    names = _names(root / "ImageSets" / "Main" / f"{image_set}.txt")
    digits = [name.replace("_", "") for name in names]
    numbered = all(d.isdecimal() for d in digits) and len({*map(int, digits)}) == len(names)
    category_of = {name.lower(): index for index, name in enumerate(classes, 1)}
    images: list[dict[str, Any]] = []
    things: list[dict[str, Any]] = []
    for place, name in enumerate(names, 1):
        image_id = int(digits[place - 1]) if numbered else place
        path = root / "Annotations" / f"{name}.xml"
        try:
            page = ET.parse(path).getroot()
            width, height = (int(_text(page, f"size/{side}")) for side in ("width", "height"))
            images.append(
                {"id": image_id, "file_name": f"{name}.jpg", "height": height, "width": width}
            )
            for element in page.iter("object"):
                things.append({"id": len(things) + 1, "image_id": image_id, **_object(element)})
        except (OSError, ET.ParseError, ValueError) as error:
            raise ValueError(f"{path}: not a VOC annotation ({error})") from None
    for thing in things:
        thing["category_id"] = category_of.get(thing.pop("name"))
    categories = [{"id": index, "name": name} for index, name in enumerate(classes, 1)]
    return {"images": images, "annotations": things, "categories": categories}


def _names(path: Path) -> list[str]:
    if not path.is_file():
        raise ValueError(f"{path}: no such image set")
    # The class-wise lists of VOC have a second column, -1 where the class is absent.
    rows = [line.split() for line in path.read_text().splitlines() if line.strip()]
    return [row[0] for row in rows if row[1:] != ["-1"]]


def _object(element: ET.Element) -> dict[str, Any]:
    left, top, right, bottom = (
        float(_text(element, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")
    )
    width, height = right - left + 1, bottom - top + 1
    return {
        "name": _text(element, "name").strip().lower(),
        "bbox": [left - 1, top - 1, width, height],
        "area": width * height,
        "iscrowd": int((element.findtext("difficult") or "0").strip() == "1"),
    }


def _text(element: ET.Element, path: str) -> str:
    text = element.findtext(path)
    if text is None:
        raise ValueError(f"no <{path}>")
    return text
