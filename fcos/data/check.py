"""What is wrong with a dataset, found before a week of training does."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from fcos.data.coco import CocoDataset
from fcos.data.read import ORIENTATION, ImageError, read_image

# Training and evaluation refuse these; of everything else they make what the finding says.
REFUSED = ("image missing", "image unreadable", "image of another size")


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be, or not as usual."""

    kind: str
    where: str
    detail: str = ""

    @property
    def refused(self) -> bool:
        return self.kind in REFUSED


@dataclass(frozen=True)
class Report:
    """A dataset as training would see it, and all that was found."""

    images: int
    objects: int
    classes: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """No image that training would refuse."""
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
        The report. Kinds of findings that are refused: "image missing", "image unreadable",
        "image of another size". Left out: "image without objects", "crowd left out",
        "unknown image", "unknown category", "malformed box", "box without area". Put right:
        "box clipped", "greyscale image", "CMYK image", "16-bit image", "rotated by EXIF" and other
        conversions. To know: "class without objects".

    Raises:
        ValueError: it is no COCO annotation file, or it has no image at all.
    """
    findings: list[Finding] = []
    dataset = CocoDataset(
        annotations,
        images,
        keep_empty=True,
        skip_unreadable=True,
        note=lambda kind, where: findings.append(Finding(kind, where)),
    )
    objects = np.bincount(dataset.labels, minlength=len(dataset.classes))
    findings += [
        Finding("class without objects", name)
        for name, number in zip(dataset.classes, objects, strict=True)
        if number == 0
    ]
    console = Console(stderr=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(_check_image, dataset.files, map(tuple, dataset.sizes.tolist()))
        for some in track(
            found, "Reading images", len(dataset), console=console, disable=not console.is_terminal
        ):
            findings += some
    return Report(len(dataset), int(objects.sum()), dataset.classes, tuple(findings))


def _check_image(path: str, size: tuple[int, int]) -> list[Finding]:
    try:
        read_image(path, size)
    except ImageError as error:
        return [Finding(error.kind, path, str(error))]
    with Image.open(path) as file:
        mode, orientation = file.mode, file.getexif().get(ORIENTATION, 1)
    findings = [] if mode == "RGB" else [Finding(_conversion(mode), path, f"mode {mode}")]
    if orientation != 1:
        findings.append(Finding("rotated by EXIF", path, f"orientation {orientation}"))
    return findings


def _conversion(mode: str) -> str:
    if mode.startswith("I"):
        return "16-bit image"
    return {"L": "greyscale image", "1": "greyscale image", "CMYK": "CMYK image"}.get(
        mode, "image converted"
    )
