"""The official COCO splits under a root folder, and proof that an evaluation set is minival."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcos.data.coco import load_annotations

Source = str | Path | Mapping[str, Any]

MINIVAL_IMAGES = 5000
# SHA-256 of the ids of the 4,952 images of val2017 that have annotations, ascending, in decimal,
# separated by spaces. (minival2014 has the same images and annotations.)
MINIVAL_ANNOTATED = "4eb450a8bbceb096870d56608cf4e9284570c0f8800f87c93179517f6abfa9eb"


@dataclass(frozen=True)
class Split:
    """An annotation file and the folder of its images."""

    annotations: Path
    images: Path


@dataclass(frozen=True)
class Splits:
    """What to train on, several splits joined, and what to evaluate on."""

    train: tuple[Split, ...]
    val: Split


def coco_2017(root: str | Path) -> Splits:
    """train2017 and val2017 (the same 5,000 images as minival of 2014) under `root`."""
    return Splits(
        train=(_split(root, "instances_train2017", "train2017"),),
        val=_split(root, "instances_val2017", "val2017"),
    )


def coco_2014(root: str | Path) -> Splits:
    """trainval35k, that is train2014 and val2014 without minival, and minival under `root`."""
    return Splits(
        train=(
            _split(root, "instances_train2014", "train2014"),
            _split(root, "instances_valminusminival2014", "val2014"),
        ),
        val=_split(root, "instances_minival2014", "val2014"),
    )


def _split(root: str | Path, annotations: str, images: str) -> Split:
    split = Split(Path(root) / "annotations" / f"{annotations}.json", Path(root) / images)
    for path in (split.annotations, split.images):
        if not path.exists():
            raise FileNotFoundError(
                f"{path} is missing: the root folder of COCO holds annotations/, with its JSON "
                f"files, and {images}/, with its images"
            )
    return split


def check_is_minival(annotations: Source, training: Sequence[Source] = ()) -> None:
    """Refuse to call a set of images val2017 or minival unless it is.

    APs have been published on all 40,504 images of val2014, most of which were trained on.

    Args:
        annotations: the annotation file to evaluate on, or its content.
        training: the annotation files that were trained on.

    Raises:
        ValueError: it does not have the 5,000 images of minival, or shares some with training.
    """
    content = load_annotations(annotations)
    images = {image["id"] for image in content["images"]}
    name = "these annotations" if isinstance(annotations, Mapping) else str(annotations)
    if len(images) != MINIVAL_IMAGES:
        raise ValueError(
            f"{name}: not val2017/minival, which has {MINIVAL_IMAGES:,} images; this has "
            f"{len(images):,}"
        )
    annotated = sorted({thing["image_id"] for thing in content["annotations"]} & images)
    digest = hashlib.sha256(" ".join(map(str, annotated)).encode()).hexdigest()
    if digest != MINIVAL_ANNOTATED:
        raise ValueError(f"{name}: 5,000 images, but not those of val2017/minival")
    for source in training:
        shared = images & {image["id"] for image in load_annotations(source)["images"]}
        if shared:
            raise ValueError(
                f"{name}: {len(shared):,} of its images were trained on, {min(shared)} the first"
            )
