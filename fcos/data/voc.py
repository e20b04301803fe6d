"""Datasets in the PASCAL VOC format: XML files, and image sets in ImageSets/Main."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from fcos.data.annotations import DatasetSource
from fcos.data.labelled import Box, LabelledImage, text_lines, to_coco
from fcos.image_io import SUFFIXES

# fmt: off
CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)
# fmt: on
IMAGE_FOLDERS = ("JPEGImages", "images", "Images", "")


class Page(NamedTuple):
    """The content of an XML file on its image.

    `size` is (height, width), 0 if it is not stated. `objects` are names, boxes (xmin, ymin, xmax,
    ymax) as written, and whether they are marked as difficult.
    """

    file_name: str | None
    size: tuple[int, int]
    objects: list[tuple[str, list[float], bool]]


def voc_annotations(root: str | Path, image_set: str) -> dict[str, Any]:
    """Read an image set of VOC's 20 classes as annotations in COCO's format.

    VOC counts pixels from 1 and its boxes include their last pixel: (xmin, xmax) becomes
    x = xmin - 1 and w = xmax - xmin + 1. Objects marked difficult become crowd regions, which
    are not trained on and do not count against a detector. The id of an image is the number in its
    name ("2007_000027" is 2007000027) or, where names are not numbers, its position in the list.

    Raises:
        ValueError: an image set or an XML file is missing or invalid; the message names it.
    """
    names = _names(Path(root, "ImageSets", "Main", f"{image_set}.txt"))
    images, difficult = [], []
    for name in names:
        path = Path(root, "Annotations", f"{name}.xml")
        page = _read_page(path)
        if 0 in page.size:
            raise ValueError(f"{path}: not a VOC annotation (it states no size)")
        boxes = [(kind.lower(), _corners(box, 1)) for kind, box, _ in page.objects]
        images.append(LabelledImage(f"{name}.jpg", page.size, boxes))
        difficult += [flag for _, _, flag in page.objects]
    content = to_coco(root, images, CLASSES)
    for thing, flag in zip(content["annotations"], difficult, strict=True):
        thing["iscrowd"] = int(flag)
    digits = [name.replace("_", "") for name in names]
    if all(d.isdecimal() for d in digits) and len({*map(int, digits)}) == len(names):
        for row in content["images"]:
            row["id"] = int(digits[row["id"] - 1])
        for thing in content["annotations"]:
            thing["image_id"] = int(digits[thing["image_id"] - 1])
    return content


def voc_splits(root: Path) -> dict[str, Callable[[], DatasetSource]]:
    """Return the image sets of a folder by name: trainval and test, or train, val and test."""
    lists = root / "ImageSets" / "Main"
    joined = (lists / "trainval.txt").is_file()
    names = ("trainval", "test") if joined else ("train", "val", "test")
    return {n: partial(_image_set, root, n) for n in names if (lists / f"{n}.txt").is_file()}


def _image_set(root: Path, name: str) -> DatasetSource:
    """Read an image set with VOC's 20 classes, or else with all classes that occur."""
    if re.fullmatch(r"VOC\d{4}", root.name):
        with suppress(ValueError):  # errors are raised below if they matter there, too
            content = voc_annotations(root, name)
            if all(thing["category_id"] for thing in content["annotations"]):
                return DatasetSource(content, root / "JPEGImages")
    names = _names(root / "ImageSets" / "Main" / f"{name}.txt")
    stems = [n.removesuffix(Path(n).suffix if Path(n).suffix in SUFFIXES else "") for n in names]
    return read_voc([root / "Annotations" / f"{stem}.xml" for stem in stems], root, listed=True)


def read_voc(files: Sequence[Path], root: Path, listed: bool = False) -> DatasetSource:
    """Read XML files as labelImg and Roboflow write them, with all classes, sorted.

    The image of an XML file has the same name, in JPEGImages or images or beside the XML file, or
    else in such a folder beside the root; or else the file names it. Boxes are as in
    `voc_annotations`, unless coordinates of 0 show that pixels are counted from 0. Images without
    an XML file are left out, and noted unless the files are from a list.

    Raises:
        ValueError: a file is invalid; the message names it.
    """
    own = [root / name for name in IMAGE_FOLDERS] + sorted({file.parent for file in files})
    beside = [root.parent / name for name in IMAGE_FOLDERS if name]
    image_of = _images_of(own) or _images_of(beside)
    pages = [_read_page(path) for path in files]
    first = 0 if any(0 in box[:2] for page in pages for _, box, _ in page.objects) else 1
    images = [
        LabelledImage(
            image_of.get(path.stem) or page.file_name or path.stem,
            page.size,
            [(name, _corners(box, first)) for name, box, _ in page.objects],
        )
        for path, page in zip(files, pages, strict=True)
    ]
    known = {image.file_name for image in images}
    others = [] if listed else sorted(set(image_of.values()) - known)
    return DatasetSource(to_coco(root, images, unlabelled=others), root)


def _images_of(folders: Sequence[Path]) -> dict[str, str]:
    """Return the image files in folders by their names without suffix."""
    found: dict[str, str] = {}
    for folder in folders:
        for file in folder.iterdir() if folder.is_dir() else ():
            if file.suffix.lower() in SUFFIXES:
                found.setdefault(file.stem, str(file.absolute()))
    return found


def _corners(box: Sequence[float], first: int) -> Box:
    """Convert a box that counts pixels from `first` and includes its last pixel to xyxy from 0."""
    xmin, ymin, xmax, ymax = box
    return xmin - first, ymin - first, xmax, ymax


def _names(path: Path) -> list[str]:
    if not path.is_file():
        raise ValueError(f"{path}: no such image set")
    # The class-wise lists of VOC have a second column, -1 where the class is absent.
    rows = [line.split() for line in text_lines(path) if line.strip()]
    return [row[0] for row in rows if row[1:] != ["-1"]]


def _read_page(path: Path) -> Page:
    try:
        root = ET.parse(path).getroot()
        height, width = (float(root.findtext(f"size/{s}") or 0) for s in ("height", "width"))
        objects = [_object(element) for element in root.iter("object")]
        return Page(root.findtext("filename"), (int(height), int(width)), objects)
    # The last two mean an unknown encoding and an infinite size.
    except (OSError, ET.ParseError, ValueError, LookupError, OverflowError) as error:
        raise ValueError(f"{path}: not a VOC annotation ({error})") from None


def _object(element: ET.Element) -> tuple[str, list[float], bool]:
    sides = ("xmin", "ymin", "xmax", "ymax")
    box = [float(_text(element, f"bndbox/{side}")) for side in sides]
    return _text(element, "name"), box, element.findtext("difficult", "").strip() == "1"


def _text(element: ET.Element, path: str) -> str:
    text = element.findtext(path)
    if text is None:
        raise ValueError(f"no <{path}>")
    return text.strip()
