"""The images to measure on: a COCO-format dataset, as they are or corrupted."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter
from torch import Tensor

from benchmarks.cases import Dataset
from fcos.data.annotations import load_annotations
from fcos.data.dataset import CocoDataset, PILSample
from fcos.data.registry import coco_safe, resolve_dataset
from zoo.registry import Card

EMBEDDED = Path(__file__).resolve().parent / "data" / "coco_val_ccby"
STRENGTHS = (1, 2, 3)
Corruption = tuple[str, int]  # a name of `CORRUPTIONS`, and a strength


def embedded() -> Dataset:
    """Return the 31 images of COCO val2017 under CC BY that are part of this package."""
    return Dataset.of(EMBEDDED / "annotations.json", EMBEDDED / "images")


def safe_subset(dataset: Dataset, folder: Path) -> Dataset:
    """Return the images that may be redistributed, see `fcos.data.registry.coco_safe`.

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
    """Return the dataset that an entry is measured on if none is given.

    These are the embedded images, or drawn shapes for an entry that was trained on them. Shapes are
    drawn into `folder` unless they exist.
    """
    data = card.config["data"]
    if data["test"] != "shapes":
        return embedded()
    (source,) = resolve_dataset("shapes", folder, drawn=data["shapes"]["test"])
    assert isinstance(source.annotations, Path)
    return replace(Dataset.of(source.annotations, source.image_dir), name="shapes")


def image_ids(dataset: Dataset, limit: int | None = None) -> list[int]:
    """Return the ids of the first `limit` images, in the order of the annotation file."""
    return [image["id"] for image in _images_and_classes(dataset)["images"][:limit]]


def read_images(dataset: Dataset, limit: int | None = None) -> list[Tensor]:
    """Read the first `limit` images, each (3, H, W) uint8 RGB.

    Raises:
        ImageError: one cannot be read; the message names the file.
    """
    images = image_dataset(dataset, image_ids(dataset, limit))
    return [images[index][0] for index in range(len(images))]


def image_dataset(
    dataset: Dataset, ids: Iterable[int], corruption: Corruption | None = None
) -> CocoDataset:
    """Return the images of a dataset that have these ids, without their annotations.

    Raises:
        ImageError: a file is missing.
    """
    content, chosen = _images_and_classes(dataset), set(ids)
    images = [image for image in content["images"] if image["id"] in chosen]
    return ImageDataset({**content, "images": images}, dataset.images, corruption)


@lru_cache(maxsize=1)
def _images_and_classes(dataset: Dataset) -> dict[str, Any]:
    """Read the annotation file without its annotations; parsing COCO's takes half a second."""
    return {**load_annotations(dataset.annotations, labelled=False), "annotations": []}


class ImageDataset(CocoDataset):
    """Images that are corrupted as they are read, if a corruption is given."""

    def __init__(
        self, content: dict[str, Any], image_dir: str, corruption: Corruption | None
    ) -> None:
        super().__init__(content, image_dir, keep_empty=True)
        self.corruption = corruption

    def open(self, index: int) -> PILSample:
        image, target = super().open(index)
        if self.corruption:
            image = corrupt(image, *self.corruption, target["image_id"])
        return image, target


def corrupt(image: Image.Image, name: str, strength: int, image_id: int) -> Image.Image:
    """Degrade an image as cameras and networks do.

    These are four of the corruptions of Hendrycks and Dietterich (ICLR 2019), on which Michaelis et
    al. (2019) measure detectors, with the parameters of severities 1, 3 and 5.

    Args:
        image: an RGB image.
        name: one of `CORRUPTIONS`.
        strength: 1, 2 or 3.
        image_id: seeds the noise, so that it is the same each time.
    """
    function, parameters = CORRUPTIONS[name]
    return function(image, parameters[strength - 1], image_id)


def _blur(image: Image.Image, sigma: float, image_id: int) -> Image.Image:
    """Apply a Gaussian blur; `sigma` is in pixels."""
    return image.filter(ImageFilter.GaussianBlur(sigma))


def _noise(image: Image.Image, sigma: float, image_id: int) -> Image.Image:
    """Add Gaussian noise; `sigma` is a fraction of white."""
    values = np.asarray(image, dtype=np.float32)
    added = np.random.default_rng((0, image_id)).standard_normal(values.shape, dtype=np.float32)
    return _image(values + 255 * sigma * added)


def _jpeg(image: Image.Image, quality: float, image_id: int) -> Image.Image:
    """Compress as a JPEG of this quality, between 1 and 95."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=int(quality))
    return Image.open(file).convert("RGB")


def _contrast(image: Image.Image, part: float, image_id: int) -> Image.Image:
    """Reduce each value's distance from the mean of its channel to this fraction."""
    values = np.asarray(image, dtype=np.float32)
    mean = values.mean((0, 1))
    return _image(mean + part * (values - mean))


def _image(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))


# Each corruption with its parameters of strength 1, 2 and 3.
CORRUPTIONS: Mapping[
    str, tuple[Callable[[Image.Image, float, int], Image.Image], tuple[float, ...]]
] = {
    "blur": (_blur, (1, 3, 6)),
    "noise": (_noise, (0.08, 0.18, 0.38)),
    "jpeg": (_jpeg, (25, 15, 7)),
    "contrast": (_contrast, (0.4, 0.2, 0.05)),
}
