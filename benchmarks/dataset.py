"""The images to measure on: a COCO-format dataset, decoded before anything is timed."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.cases import Dataset
from fcos.data.annotations import load_annotations
from fcos.data.image_files import find_files
from fcos.data.registry import coco_safe, resolve_dataset
from fcos.image_io import read_image as read_file
from fcos.images import load_image
from zoo.registry import Card

EMBEDDED = Path(__file__).resolve().parent / "data" / "coco_val_ccby"


def embedded() -> Dataset:
    """The 31 images of COCO val2017 under CC BY that are part of this package."""
    return Dataset.of(EMBEDDED / "annotations.json", EMBEDDED / "images")


def safe_subset(dataset: Dataset, folder: Path) -> Dataset:
    """The images that may be redistributed, see `fcos.data.registry.coco_safe`.

    Their annotation file is written into `folder`.
    """
    content = json.dumps(coco_safe(dataset.annotations), sort_keys=True)
    path = folder / "coco_safe.json"
    if not path.is_file() or path.read_text() != content:
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"coco_safe.{os.getpid()}"  # other shards may write it at the same time
        part.write_text(content)
        part.replace(path)
    return replace(Dataset.of(path, dataset.images), refined=dataset.refined)


def default_dataset(card: Card, folder: Path) -> Dataset:
    """The dataset that an entry is measured on if none is given.

    That is the embedded images, or the drawn shapes for an entry trained on those. Shapes are
    drawn into `folder` unless they are there already.
    """
    data = card.config["data"]
    if data["test"] != "shapes":
        return embedded()
    (source,) = resolve_dataset("shapes", folder, drawn=data["shapes"]["test"])
    assert isinstance(source.annotations, Path)
    return replace(Dataset.of(source.annotations, source.image_dir), name="shapes")


def image_ids(dataset: Dataset, limit: int | None = None) -> list[int]:
    """Ids of the first `limit` images, in the order of the annotation file."""
    return list(_records(dataset))[:limit]


def read_image(dataset: Dataset, image_id: int) -> Tensor:
    """An image as (3, H, W) uint8 RGB.

    Raises:
        ImageError: it cannot be read; the message names the file.
    """
    record = _records(dataset)[image_id]
    path, size = Path(dataset.images) / record["file_name"], (record["height"], record["width"])
    if not path.is_file():
        (found,) = find_files([record["file_name"]], Path(dataset.images))
        path = Path(dataset.images) / (found or record["file_name"])
    return load_image(read_file(path, None if 0 in size else size))


def read_images(dataset: Dataset, limit: int | None = None) -> list[Tensor]:
    """The first `limit` images, each (3, H, W) uint8 RGB."""
    return [read_image(dataset, image_id) for image_id in image_ids(dataset, limit)]


@lru_cache(maxsize=1)
def _records(dataset: Dataset) -> dict[int, dict[str, Any]]:
    """The annotation file's image records by id; parsing COCO's file takes half a second."""
    images = load_annotations(dataset.annotations, labelled=False)["images"]
    return {image["id"]: image for image in images}
