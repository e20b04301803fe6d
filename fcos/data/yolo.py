"""Datasets in the YOLO format: text files of normalised boxes, and names in a YAML or text file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from fcos.data.annotations import DatasetSource
from fcos.data.labelled import Box, LabelledImage, bounds, text_lines, to_coco
from fcos.image_io import SUFFIXES, image_sizes

Names = Mapping[int, str]
SPLITS = ("train", "val", "valid", "test")
NAME_FILES = ("obj.names", "classes.txt")
OUTSIDE = 0.01  # fraction of the image by which rounded coordinates may exceed it


def yaml_splits(path: Path) -> dict[str, Callable[[], DatasetSource]]:
    """Return the splits of a `data.yaml` of Ultralytics, Roboflow or CVAT, by name.

    Folders and lists of images are searched in the file's `path` or else in its folder. If a path
    does not exist, such as one of another machine, its longest existing ending is taken.

    Raises:
        ValueError: it is not such a file; the message names it.
    """
    content = _read_yaml(path)
    try:
        names = content.get("names") or range(int(content.get("nc") or 0))
        pairs = names.items() if isinstance(names, Mapping) else enumerate(names)
        named = {int(index): str(name) for index, name in pairs}
    except (TypeError, ValueError):
        raise ValueError(
            f"{path}: names must be a list, or names by class numbers, and nc a number"
        ) from None
    declared = str(content.get("path") or ".")
    bases = [base for base in (path.parent / declared, Path(declared)) if base.is_dir()]
    bases.append(path.parent)
    splits: dict[str, Callable[[], DatasetSource]] = {}
    for split in SPLITS:
        entries = content.get(split) or []
        entries = entries if isinstance(entries, list) else [entries]
        if not all(isinstance(entry, str) for entry in entries):
            raise ValueError(f"{path}: {split} must be a path, or a list of paths")
        # Roboflow's files name a test split even if the export has none.
        if entries and not (split == "test" and all(not _find(e, bases) for e in entries)):
            keypoints = "kpt_shape" in content
            splits[split] = partial(_listed, path, entries, bases, named, keypoints)
    return splits


def is_dataset_file(path: Path) -> bool:
    """Whether a YAML file describes a YOLO dataset."""
    try:
        content = _read_yaml(path)
    except ValueError:
        if path.name == "data.yaml":
            raise
        return False
    return bool({"names", "nc"} & content.keys()) and any(split in content for split in SPLITS)


def folder_splits(folder: Path, names_file: Path) -> dict[str, Callable[[], DatasetSource]]:
    """Return the splits of a folder that has class names in a text file, one per line.

    Darknet and CVAT list the images of a split in `train.txt`; Label Studio and labelImg have one
    folder of images.
    """
    lines = text_lines(names_file)
    names = dict(enumerate(line.strip() for line in lines if line.strip()))
    lists = [split for split in SPLITS if (folder / f"{split}.txt").is_file()]
    if lists:
        return {s: partial(_listed, names_file, [f"{s}.txt"], [folder], names) for s in lists}
    images = folder / "images" if (folder / "images").is_dir() else folder
    parts = [split for split in SPLITS if (images / split).is_dir()]
    return {s: partial(_listed, names_file, [s], [images], names) for s in parts or ["."]}


def _read_yaml(path: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a YAML file ({' '.join(str(error).split())})") from None
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: not a YOLO dataset file, it has no train, val and names")
    return content


def _find(entry: str, bases: Sequence[Path], least: int = 2) -> Path | None:
    """Find a path in the first base that has it, or else its longest ending of `least` parts."""
    for base in bases:
        if (base / entry).exists():
            return base / entry
    parts = [p for p in entry.strip().replace("\\", "/").split("/") if p not in ("", ".", "..")]
    for start in range(max(len(parts) - least, 0) + 1):
        for base in bases:
            if parts and base.joinpath(*parts[start:]).exists():
                return base.joinpath(*parts[start:])
    return None


def _listed(
    path: Path, entries: Sequence[str], bases: Sequence[Path], names: Names, keypoints: bool = False
) -> DatasetSource:
    """Read the images of folders, or of text files that list them, with their labels."""
    images: list[Path] = []
    for entry in entries:
        place = _find(entry, bases)
        if place is None:
            raise FileNotFoundError(f"{path}: no such folder or list of images: {entry}")
        if place.is_dir():
            files = sorted(file for file in place.rglob("*") if file.suffix.lower() in SUFFIXES)
            images += [file for file in files if not file.name.startswith(".")]
        elif place.suffix == ".txt":
            lines = filter(None, map(str.strip, text_lines(place)))
            near = [place.parent, *bases]
            images += [_find(line, near, 1) or place.parent / line for line in lines]
        else:
            images.append(place)
    if not images:
        raise FileNotFoundError(f"{path}: no images in {', '.join(entries)}")
    labelled = [
        LabelledImage(str(image.absolute()), size, _objects(image, size, names, keypoints))
        for image, size in zip(images, image_sizes(images), strict=True)
    ]
    classes = [names[index] for index in sorted(names)]
    return DatasetSource(to_coco(path, labelled, classes), path.parent)


def _objects(
    image: Path, size: tuple[int, int], names: Names, keypoints: bool
) -> list[tuple[str, Box | None]]:
    """Read the objects of an image's label file; none if there is no such file."""
    path = image.with_suffix(".txt")
    if "images" in image.parts[:-1]:
        last = len(image.parts) - 1 - image.parts[::-1].index("images")
        labels = Path(*image.parts[:last], "labels", *path.parts[last + 1 :])
        path = labels if labels.is_file() else path
    if not path.is_file():
        return []
    lines = path.read_text("utf-8-sig", errors="replace").splitlines()
    return [_object(line, size, names, keypoints) for line in lines if line.strip()]


def _object(
    line: str, size: tuple[int, int], names: Names, keypoints: bool
) -> tuple[str, Box | None]:
    """Read the class and box of a line: a class, and a box or the points of a polygon."""
    height, width = size
    try:
        index, *values = map(float, line.split())
    except ValueError:
        return "", None
    name = names.get(int(index), "") if index.is_integer() else ""
    if len(values) >= 6 and len(values) % 2 == 0 and not keypoints:
        box = bounds(list(zip(values[::2], values[1::2], strict=True)))
    elif len(values) in (4, 5) or (len(values) > 5 and keypoints):  # the fifth is a score
        values = values[:4]
        x, y, w, h = values
        box = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
    else:
        return name, None
    inside = all(-OUTSIDE <= value <= 1 + OUTSIDE for value in values)
    if box is None or not inside or not height * width:
        return name, None  # such as pixels instead of fractions of the image
    return name, [side * scale for side, scale in zip(box, (width, height) * 2, strict=True)]
