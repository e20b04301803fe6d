"""What is wrong with a dataset, found before a week of training does."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from fcos.data.coco import CocoDataset, load_annotations
from fcos.read import ORIENTATION, ImageError, read_image

# What training and evaluation make of it: they stop, pass over it, mend it, or do not mind.
REFUSED, LEFT_OUT, PUT_RIGHT, TO_KNOW = "refused", "left out", "put right", "to know"
OUTCOMES = {
    "image missing": REFUSED,
    "image unreadable": REFUSED,
    "image of another size": REFUSED,
    "nothing to train on": REFUSED,
    "image without objects": LEFT_OUT,
    "crowd left out": LEFT_OUT,
    "unknown image": LEFT_OUT,
    "unknown category": LEFT_OUT,
    "malformed box": LEFT_OUT,
    "box without area": LEFT_OUT,
    "box clipped": PUT_RIGHT,
    "greyscale image": PUT_RIGHT,
    "CMYK image": PUT_RIGHT,
    "16-bit image": PUT_RIGHT,
    "image of another mode": PUT_RIGHT,
    "rotated by EXIF": PUT_RIGHT,
    "class without objects": TO_KNOW,
    "class name used twice": TO_KNOW,
    "file listed twice": TO_KNOW,
    "annotation id used twice": TO_KNOW,
    "object listed twice": TO_KNOW,
}


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be, or not as usual; `kind` is one of `OUTCOMES`."""

    kind: str
    where: str
    detail: str = ""

    @property
    def outcome(self) -> str:
        """What training makes of it."""
        return OUTCOMES[self.kind]

    @property
    def refused(self) -> bool:
        """Whether training stops at it."""
        return self.outcome == REFUSED


@dataclass(frozen=True)
class Report:
    """A dataset as training would see it, and all that was found."""

    images: int
    objects: int
    classes: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Nothing that training would refuse."""
        return not any(finding.refused for finding in self.findings)

    @property
    def counts(self) -> Counter[str]:
        """How many findings of each kind."""
        return Counter(finding.kind for finding in self.findings)


def check(annotations: str | Path | Mapping[str, Any], images: str | Path) -> Report:
    """Check an annotation file and read every one of its images.

    Args:
        annotations: a COCO annotation file, or its content (`fcos.data.voc.voc_annotations`).
        images: the folder that its file names start from.

    Returns:
        The report; `OUTCOMES` are the kinds of its findings.

    Raises:
        ValueError: it is no COCO annotation file, or it has no image at all.
    """
    content = load_annotations(annotations)
    findings: list[Finding] = []
    dataset = CocoDataset(
        content,
        images,
        keep_empty=True,
        skip_unreadable=True,
        note=lambda kind, where: findings.append(Finding(kind, where)),
    )
    objects = np.bincount(dataset.labels, minlength=len(dataset.classes))
    if not objects.any():
        findings.append(Finding("nothing to train on", str(images), "no image has an object"))
    findings += [
        Finding("class without objects", name)
        for name, number in zip(dataset.classes, objects, strict=True)
        if number == 0
    ]
    findings += _repetitions(content, dataset.classes)
    for found in _read_all(dataset):
        findings += found
    return Report(len(dataset), int(objects.sum()), dataset.classes, tuple(findings))


def _repetitions(content: Mapping[str, Any], classes: Iterable[str]) -> list[Finding]:
    """What is there more than once; none of it is an error by itself."""
    file_of = {image["id"]: image["file_name"] for image in content["images"]}
    things = content["annotations"]
    numbered = [thing for thing in things if thing.get("id") is not None]
    alike = Counter(
        tuple(str(thing.get(key)) for key in ("image_id", "category_id", "bbox", "iscrowd"))
        for thing in things
    )
    files = {str(image): name for image, name in file_of.items()}
    return [
        *(Finding("class name used twice", name) for name in _twice(classes)),
        *(Finding("file listed twice", name) for name in _twice(file_of.values())),
        *(Finding("annotation id used twice", i) for i in _twice(str(t["id"]) for t in numbered)),
        *(
            Finding("object listed twice", files.get(image, image), f"box {box}")
            for (image, _, box, _), times in alike.items()
            if times > 1
        ),
    ]


def _twice(names: Iterable[str]) -> Iterator[str]:
    return (name for name, times in Counter(names).items() if times > 1)


def _read_all(dataset: CocoDataset) -> Iterator[list[Finding]]:
    console = Console(stderr=True)
    sizes = map(tuple, dataset.sizes.tolist())
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        yield from track(
            pool.map(_check_image, dataset.files, sizes),
            "Reading images",
            len(dataset),
            console=console,
            disable=not console.is_terminal,
        )
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupted check ends at once


def _check_image(path: str, size: tuple[int, int]) -> list[Finding]:
    try:
        read_image(path, size)
    except ImageError as error:
        return [Finding(error.kind, path, str(error))]
    with Image.open(path) as file:
        mode, orientation = file.mode, file.getexif().get(ORIENTATION, 1)
    findings = [] if mode == "RGB" else [Finding(_conversion(mode), path, f"mode {mode}")]
    if orientation in range(2, 9):
        findings.append(Finding("rotated by EXIF", path, f"orientation {orientation}"))
    return findings


def _conversion(mode: str) -> str:
    if mode.startswith("I"):
        return "16-bit image"
    return {"L": "greyscale image", "1": "greyscale image", "CMYK": "CMYK image"}.get(
        mode, "image of another mode"
    )
