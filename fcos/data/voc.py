"""Datasets in the PASCAL VOC format: XML files, and image sets in ImageSets/Main."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from fcos.data.annotations import DatasetSource
from fcos.data.labelled import LabelledImage, text_lines, to_coco
from fcos.image_io import SUFFIXES

# fmt: off
CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)
# fmt: on
IMAGE_FOLDERS = ("JPEGImages", "images", "Images", "")


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
        page = _parse(path)
        try:
            width, height = (int(_text(page, f"size/{side}")) for side in ("width", "height"))
            images.append(
                {"id": image_id, "file_name": f"{name}.jpg", "height": height, "width": width}
            )
            for element in page.iter("object"):
                things.append({"id": len(things) + 1, "image_id": image_id, **_object(element)})
        except ValueError as error:
            raise ValueError(f"{path}: not a VOC annotation ({error})") from None
    for thing in things:
        thing["category_id"] = category_of.get(thing.pop("name"))
    categories = [{"id": index, "name": name} for index, name in enumerate(classes, 1)]
    return {"images": images, "annotations": things, "categories": categories}


def voc_splits(root: Path) -> dict[str, Callable[[], DatasetSource]]:
    """The image sets of a folder by name: trainval and test, or else train, val and test."""
    lists = root / "ImageSets" / "Main"
    joined = (lists / "trainval.txt").is_file()
    names = ("trainval", "test") if joined else ("train", "val", "test")
    return {n: partial(_image_set, root, n) for n in names if (lists / f"{n}.txt").is_file()}


def _image_set(root: Path, name: str) -> DatasetSource:
    """A set of a published dataset, with its 20 classes, or of one with classes of its own."""
    if re.fullmatch(r"VOC\d{4}", root.name):
        with suppress(ValueError):  # what is wrong is raised below if it also matters there
            content = voc_annotations(root, name)
            if all(thing["category_id"] for thing in content["annotations"]):
                return DatasetSource(content, root / "JPEGImages")
    names = _names(root / "ImageSets" / "Main" / f"{name}.txt")
    stems = [n.removesuffix(Path(n).suffix if Path(n).suffix in SUFFIXES else "") for n in names]
    return read_voc([root / "Annotations" / f"{stem}.xml" for stem in stems], root, listed=True)


def read_voc(files: Sequence[Path], root: Path, listed: bool = False) -> DatasetSource:
    """The dataset of XML files, as labelImg and Roboflow write them, with all classes, sorted.

    An image is the one of the XML file's name, in JPEGImages or images or beside the XML file, or
    else in such a folder beside the root; or else the one that the file names. Boxes are those of
    `voc_annotations`, unless coordinates of 0 show that pixels are counted from 0. Images without
    an XML file are left out, which is noted unless the files are those of a list.

    Raises:
        ValueError: a file is invalid; the message names it.
    """
    own = [root / name for name in IMAGE_FOLDERS] + sorted({file.parent for file in files})
    beside = [root.parent / name for name in IMAGE_FOLDERS if name]
    image_of = _images_of(own) or _images_of(beside)
    pages = [_parse(path) for path in files]
    objects = [_named_boxes(path, page) for path, page in zip(files, pages, strict=True)]
    first = 0 if any(0 in box[:2] for named in objects for _, box in named) else 1
    images = []
    for path, page, named in zip(files, pages, objects, strict=True):
        name = image_of.get(path.stem) or page.findtext("filename") or path.stem
        boxes = [(n, (x1 - first, y1 - first, x2, y2)) for n, (x1, y1, x2, y2) in named]
        images.append(LabelledImage(name, _size(path, page), boxes))
    known = {image.file_name for image in images}
    others = [] if listed else sorted(set(image_of.values()) - known)
    return DatasetSource(to_coco(root, images, unlabelled=others), root)


def _images_of(folders: Sequence[Path]) -> dict[str, str]:
    """The image files in folders by their names without suffix."""
    found: dict[str, str] = {}
    for folder in folders:
        for file in folder.iterdir() if folder.is_dir() else ():
            if file.suffix.lower() in SUFFIXES:
                found.setdefault(file.stem, str(file.absolute()))
    return found


def _size(path: Path, page: ET.Element) -> tuple[int, int]:
    """(height, width) of the image, 0 where it is not stated."""
    try:
        height, width = (float(page.findtext(f"size/{s}") or 0) for s in ("height", "width"))
        return int(height), int(width)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path}: not a VOC annotation ({error})") from None


def _named_boxes(path: Path, page: ET.Element) -> list[tuple[str, list[float]]]:
    try:
        return [_named_box(element) for element in page.iter("object")]
    except ValueError as error:
        raise ValueError(f"{path}: not a VOC annotation ({error})") from None


def _parse(path: Path) -> ET.Element:
    try:
        return ET.parse(path).getroot()
    except (OSError, ET.ParseError, LookupError, ValueError) as error:  # of unknown encodings, too
        raise ValueError(f"{path}: not a VOC annotation ({error})") from None


def _names(path: Path) -> list[str]:
    if not path.is_file():
        raise ValueError(f"{path}: no such image set")
    # The class-wise lists of VOC have a second column, -1 where the class is absent.
    rows = [line.split() for line in text_lines(path) if line.strip()]
    return [row[0] for row in rows if row[1:] != ["-1"]]


def _object(element: ET.Element) -> dict[str, Any]:
    name, (left, top, right, bottom) = _named_box(element)
    width, height = right - left + 1, bottom - top + 1
    return {
        "name": name.lower(),
        "bbox": [left - 1, top - 1, width, height],
        "area": width * height,
        "iscrowd": int((element.findtext("difficult") or "0").strip() == "1"),
    }


def _named_box(element: ET.Element) -> tuple[str, list[float]]:
    """The name of an object and its xmin, ymin, xmax, ymax as they are written."""
    sides = ("xmin", "ymin", "xmax", "ymax")
    box = [float(_text(element, f"bndbox/{side}")) for side in sides]
    return _text(element, "name").strip(), box


def _text(element: ET.Element, path: str) -> str:
    text = element.findtext(path)
    if text is None:
        raise ValueError(f"no <{path}>")
    return text
