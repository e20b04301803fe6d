"""Images that are made worse, as cameras and networks do, to measure what that costs in AP.

Four of the corruptions of Hendrycks and Dietterich (ICLR 2019), on which Michaelis et al. (2019)
measure detectors, with the parameters of their severities 1, 3 and 5.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from fcos.data.annotations import Annotations
from fcos.data.coco import CocoDataset
from fcos.data.dataset import PILSample

SEED = 0
STRENGTHS = (1, 2, 3)


def blur(image: Image.Image, sigma: float, image_id: int) -> Image.Image:
    """A Gaussian blur; `sigma` in pixels."""
    return image.filter(ImageFilter.GaussianBlur(sigma))


def noise(image: Image.Image, sigma: float, image_id: int) -> Image.Image:
    """Gaussian noise, the same each time for an image id; `sigma` as a part of white."""
    generator = np.random.default_rng((SEED, image_id))
    values = np.asarray(image, dtype=np.float32)
    added = generator.standard_normal(values.shape, dtype=np.float32)
    return _image(values + 255 * sigma * added)


def jpeg(image: Image.Image, quality: float, image_id: int) -> Image.Image:
    """Saved as a JPEG of this quality, between 1 and 95, and read again."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=int(quality))
    return Image.open(file).convert("RGB")


def contrast(image: Image.Image, part: float, image_id: int) -> Image.Image:
    """Only this part of each value's distance from the mean of its channel is left."""
    values = np.asarray(image, dtype=np.float32)
    mean = values.mean((0, 1))
    return _image(mean + part * (values - mean))


def _image(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))


# Each corruption with its parameters of strength 1, 2 and 3.
CORRUPTIONS: Mapping[
    str, tuple[Callable[[Image.Image, float, int], Image.Image], tuple[float, ...]]
] = {
    "blur": (blur, (1, 3, 6)),
    "noise": (noise, (0.08, 0.18, 0.38)),
    "jpeg": (jpeg, (25, 15, 7)),
    "contrast": (contrast, (0.4, 0.2, 0.05)),
}


class CorruptedDataset(CocoDataset):
    """A dataset whose images are corrupted when they are read.

    Args:
        annotations, image_dir, options: see `CocoDataset`.
        corruption: one of `CORRUPTIONS`.
        strength: 1, 2 or 3.
    """

    def __init__(
        self,
        annotations: Annotations,
        image_dir: str | Path,
        corruption: str,
        strength: int,
        **options: Any,
    ) -> None:
        super().__init__(annotations, image_dir, **options)
        self.corrupt, parameters = CORRUPTIONS[corruption]
        self.parameter = parameters[strength - 1]

    def open(self, index: int) -> PILSample:
        image, target = super().open(index)
        return self.corrupt(image, self.parameter, target["image_id"]), target
