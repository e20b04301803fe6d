"""Where the images of an annotation file are: one rule for training, evaluation and checking."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fcos.data.annotations import Annotations, Note, load_annotations
from fcos.image_io import ImageError

TRIED = 50  # images of a file that are looked for in each folder


def find_image_dir(annotations: str | Path, content: Annotations | None = None) -> Path:
    """The folder that the file names of an annotation file start from.

    Of the folders in which COCO, CVAT, FiftyOne, Label Studio and Roboflow place images, beside or
    above the file, it is the one that has most of the first 50. Where none has any, it is `images`
    beside the file, or else the file's own folder.

    Args:
        annotations: path of the file.
        content: what it holds, if it has been read.
    """
    path = Path(annotations)
    split = re.sub(r"(valminusmini|mini)val", "val", path.stem.removeprefix("instances_"))
    beside = path.parent / "images"
    default = beside if beside.is_dir() else path.parent
    folders = [default]
    for base in (path.parent, path.parent.parent):
        folders += [base / name for name in (split, f"images/{split}", "images", "data", "")]
    images = load_annotations(path if content is None else content, labelled=False)["images"]
    names = [image["file_name"] for image in images[:TRIED]]
    return max(folders, key=lambda folder: sum(os.path.isfile(folder / name) for name in names))


def existing_images(
    images: Sequence[Mapping[str, Any]], root: Path, skip: bool = False, note: Note | None = None
) -> list[Mapping[str, Any]]:
    """The images whose files exist, found by one listing per folder: there may be many files.

    Args:
        images: rows of an annotation file.
        root: the folder that their file names start from.
        skip: leave out missing files, unless all are.
        note: called with "image missing" and the file name of each that is missing.

    Raises:
        ImageError: files are missing; the message names the first and why it may not be found.
    """
    places = [os.path.split(os.path.join(root, image["file_name"])) for image in images]
    listings = {
        folder: set(os.listdir(folder)) if os.path.isdir(folder) else set()
        for folder in {folder for folder, _ in places}
    }
    present: list[Mapping[str, Any]] = []
    missing: list[Mapping[str, Any]] = []
    for image, (folder, name) in zip(images, places, strict=True):
        (present if name in listings[folder] else missing).append(image)
    if missing and (not skip or not present):
        first = missing[0]["file_name"]
        raise ImageError(
            f"{root}: {len(missing)} of {len(images)} annotated images are missing, first {first}"
            + _hint(root, first),
            "image missing",
        )
    if note is not None:
        for image in missing:
            note("image missing", image["file_name"])
    return present


def _hint(root: Path, name: str) -> str:
    """What may be wrong with a file name: backslashes, a leading slash, upper and lower case."""
    plain = name.replace("\\", "/").lstrip("/")
    for path in (root / plain, root / Path(plain).name):
        if not path.parent.is_dir():
            continue
        for entry in os.listdir(path.parent):
            if entry.lower() == path.name.lower():
                there = (path.parent / entry).relative_to(root)
                return (
                    f"; {there} is there: file names must have the same upper and lower case, "
                    "forward slashes and no leading slash"
                )
    return ""
