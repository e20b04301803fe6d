"""Check a dataset before training: what is refused, left out, converted or assumed."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from fcos.data.annotations import Annotations, load_annotations
from fcos.data.dataset import CocoDataset, DetectionDataset
from fcos.image_io import ImageError, bit_depth, orientation, read_image

T = TypeVar("T")

# The effect of a finding on training and evaluation.
REFUSED = "refused"  # they stop
LEFT_OUT = "left out"  # they skip the image or the object
CORRECTED = "corrected"
ASSUMED = "assumed"  # they make an assumption that may be wrong
INFO = "for information"  # none
KINDS = {
    REFUSED: [
        *("image missing", "image unreadable", "image of another size", "nothing to train on"),
    ],
    LEFT_OUT: [
        *("image without objects", "image without annotation file", "crowd left out"),
        *("unknown image", "unknown category", "malformed box", "malformed iscrowd"),
        *("box without area", "supercategory left out"),
    ],
    CORRECTED: [
        *("malformed area", "box of the segmentation", "id as text", "size read from the image"),
        *("file name corrected", "box clipped", "greyscale image", "CMYK image", "16-bit image"),
        *("image of another mode", "rotated by EXIF"),
    ],
    ASSUMED: ["12-bit values", "8-bit values in a wider type"],
    INFO: [
        *("class without objects", "class name used twice", "file listed twice"),
        *("annotation id used twice", "object listed twice"),
    ],
}
OUTCOMES = {kind: outcome for outcome, kinds in KINDS.items() for kind in kinds}
# Faults of single images, which training can skip.
IMAGE_FAULTS = {"image missing", "image unreadable", "image of another size"}


@dataclass(frozen=True)
class Finding:
    """An irregularity of a dataset; `kind` is one of `OUTCOMES`."""

    kind: str
    where: str
    detail: str = ""

    @property
    def outcome(self) -> str:
        """The effect on training and evaluation."""
        return OUTCOMES[self.kind]

    @property
    def refused(self) -> bool:
        """Whether training refuses the dataset because of it."""
        return self.outcome == REFUSED


@dataclass(frozen=True)
class Report:
    """The size of a dataset as training sees it, and all findings."""

    images: int
    objects: int
    classes: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether training accepts the dataset."""
        return not any(finding.refused for finding in self.findings)

    @property
    def counts(self) -> Counter[str]:
        """The number of findings of each kind."""
        return Counter(finding.kind for finding in self.findings)


def check(annotations: Annotations, image_dir: str | Path) -> Report:
    """Check an annotation file and read all of its images.

    Args:
        annotations: a COCO annotation file, or its content (`fcos.data.voc.voc_annotations`).
        image_dir: the folder that its file names start from.

    Raises:
        ValueError: it is not a COCO annotation file, or none of its images exists.
    """
    content = load_annotations(annotations)
    findings: list[Finding] = []
    dataset = CocoDataset(
        content,
        image_dir,
        keep_empty=True,
        skip_unreadable=True,
        note=lambda kind, where: findings.append(Finding(kind, where)),
    )
    objects = np.bincount(dataset.labels, minlength=len(dataset.classes))
    if not objects.any():
        findings.append(Finding("nothing to train on", str(image_dir), "no image has an object"))
    findings += [
        Finding("class without objects", name)
        for name, number in zip(dataset.classes, objects, strict=True)
        if number == 0
    ]
    findings += _repetitions(content, dataset.classes)
    findings += check_images(dataset)
    return Report(len(dataset), int(objects.sum()), dataset.classes, tuple(findings))


def check_images(dataset: DetectionDataset) -> list[Finding]:
    """Read every image of a dataset; returns what is wrong with images, or converted."""
    console = Console(stderr=True)
    sizes = map(tuple, dataset.sizes.tolist())
    findings: list[Finding] = []
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they become findings
            for found in track(
                pool.map(_check_image, dataset.files, sizes),
                "Reading images",
                len(dataset),
                console=console,
                disable=not console.is_terminal,
            ):
                findings += found
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupted check ends at once
    return findings


def _repetitions(content: Mapping[str, Any], classes: Iterable[str]) -> Iterator[Finding]:
    """Yield names, files, ids and objects that occur more than once, which is not an error."""
    file_of = {str(image["id"]): image["file_name"] for image in content["images"]}
    rows = content["annotations"]
    ids = [str(row["id"]) for row in rows if row.get("id") is not None]
    fields = ("image_id", "category_id", "bbox", "iscrowd")
    objects = [tuple(str(row.get(field)) for field in fields) for row in rows]
    for name in _repeated(classes):
        yield Finding("class name used twice", name)
    for name in _repeated(image["file_name"] for image in content["images"]):
        yield Finding("file listed twice", name)
    for id in _repeated(ids):
        yield Finding("annotation id used twice", id)
    for image, _, box, _ in _repeated(objects):
        yield Finding("object listed twice", file_of.get(image, image), f"box {box}")


def _repeated(values: Iterable[T]) -> list[T]:
    return [value for value, times in Counter(values).items() if times > 1]


def _check_image(path: str, size: tuple[int, int]) -> list[Finding]:
    try:
        read_image(path, size)
    except ImageError as error:
        return [Finding(error.kind, path, str(error))]
    with Image.open(path) as file:
        findings = [] if file.mode == "RGB" else [_conversion(path, file)]
        turn = orientation(file)
    if turn != 1:
        findings.append(Finding("rotated by EXIF", path, f"orientation {turn}"))
    return findings


def _conversion(path: str, image: Image.Image) -> Finding:
    """Return how an image of another mode than RGB is read."""
    detail = f"mode {image.mode}"
    if image.mode.startswith("I"):
        values = np.asarray(image)
        kinds = {8: "8-bit values in a wider type", 12: "12-bit values", 16: "16-bit image"}
        return Finding(kinds[bit_depth(values)], path, f"{detail}, values up to {values.max()}")
    kinds_of_mode = {"L": "greyscale image", "1": "greyscale image", "CMYK": "CMYK image"}
    return Finding(kinds_of_mode.get(image.mode, "image of another mode"), path, detail)
