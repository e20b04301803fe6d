"""The real images that are measured on, decoded beforehand."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.cell import Dataset
from fcos.data.coco import load_annotations
from fcos.data.sets import parts
from fcos.preprocess import load_image
from fcos.read import read_image
from zoo.card import Card

FOLDER = Path(__file__).resolve().parent / "data" / "coco_val_ccby"


@dataclass(frozen=True)
class Picture:
    """An image of a dataset: (3, H, W) uint8 RGB and its id."""

    image_id: int
    image: Tensor


def embedded() -> Dataset:
    """The 31 CC BY images of COCO val2017 that come with this package."""
    return Dataset.of(FOLDER / "annotations.json", FOLDER / "images")


def own(card: Card, folder: Path) -> Dataset:
    """What an entry is measured on unless something else is named: the embedded images, or of one
    that knows drawn shapes those of its test, which are drawn into `folder` if they are not there.
    """
    data = card.config["data"]
    if data["test"] != "shapes":
        return embedded()
    part = parts("shapes", folder, drawn=data["shapes"]["test"])[0]
    assert isinstance(part.annotations, Path)
    return replace(Dataset.of(part.annotations, part.images), name="shapes")


def image_ids(dataset: Dataset, limit: int | None = None) -> list[int]:
    """Ids of the first `limit` images, in the annotation file's order."""
    return list(_rows(dataset))[:limit]


def read(dataset: Dataset, image_id: int) -> Picture:
    """One image, by its id."""
    return read_all(dataset, [image_id])[0]


def read_all(dataset: Dataset, ids: list[int]) -> list[Picture]:
    """Images by their ids.

    Raises:
        ImageError: one cannot be read; the message names it.
    """
    rows = _rows(dataset)
    found = []
    for image_id in ids:
        row = rows[image_id]
        size = row["height"], row["width"]
        image = load_image(read_image(Path(dataset.images) / row["file_name"], size))
        found.append(Picture(image_id, image))
    return found


@lru_cache(maxsize=1)
def _rows(dataset: Dataset) -> dict[int, dict[str, Any]]:
    """The annotation file's images by id, in its order; COCO's takes half a second to read."""
    images = load_annotations(dataset.annotations, labelled=False)["images"]
    return {image["id"]: image for image in images}
