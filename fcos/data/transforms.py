"""Training augmentation: callables `(image, target, rng) -> (image, target)`.

Images are PIL, RGB; boxes are xyxy pixels in an array: tensors are made at the very end, in the
training process. All chance comes from the `random.Random` that is passed in, so that a run that
is resumed sees what it would have seen.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image

from fcos.data.dataset import Picture, Target
from fcos.preprocess import ShortestSide, resize_image

Transform = Callable[[Image.Image, Target, random.Random], Picture]


@dataclass(frozen=True)
class Compose:
    """One transform after another."""

    transforms: Sequence[Transform]

    def __call__(self, image: Image.Image, target: Target, rng: random.Random) -> Picture:
        for transform in self.transforms:
            image, target = transform(image, target, rng)
        return image, target


@dataclass(frozen=True)
class ResizeShortestSide:
    """Shorter side to one of `sizes`, longer at most `longest`; see `fcos.preprocess.ShortestSide`.

    Args:
        sizes: the sizes to choose from; or, for `sample="range"`, the least and the greatest.
        sample: "choice" takes one of `sizes`, "range" any integer between two.
        rounding: "nearest" (detectron2), "truncate" (maskrcnn-benchmark) or "floor" (torchvision).
        antialias: as Pillow; otherwise by four neighbours alone, as OpenMMLab and torchvision.
    """

    sizes: Sequence[int] = (800,)
    longest: int = 1333
    sample: Literal["choice", "range"] = "choice"
    rounding: Literal["nearest", "truncate", "floor"] = "nearest"
    antialias: bool = True

    def __post_init__(self) -> None:
        if not self.sizes or (self.sample == "range" and len(self.sizes) != 2):
            raise ValueError(f"sizes {list(self.sizes)} do not suit sample={self.sample!r}")

    def __call__(self, image: Image.Image, target: Target, rng: random.Random) -> Picture:
        if self.sample == "range":
            size = rng.randint(self.sizes[0], self.sizes[1])
        else:
            size = rng.choice(self.sizes)
        height, width = ShortestSide(size, self.longest, self.rounding)(image.height, image.width)
        factors = np.array([width / image.width, height / image.height] * 2)
        resized = _resize(image, width, height, self.antialias)
        return resized, with_boxes(target, target["boxes"] * factors)


@dataclass(frozen=True)
class HorizontalFlip:
    """Mirror the image, left to right.

    Args:
        probability: of being mirrored.
        plus_one: boxes end on their last pixel, so x becomes width - x - 1 (maskrcnn-benchmark)
            instead of width - x (detectron2).
    """

    probability: float = 0.5
    plus_one: bool = False

    def __call__(self, image: Image.Image, target: Target, rng: random.Random) -> Picture:
        if rng.random() >= self.probability:
            return image, target
        x1, y1, x2, y2 = target["boxes"].T
        right = image.width - (1 if self.plus_one else 0)
        boxes = np.stack([right - x2, y1, right - x1, y2], axis=1)
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), with_boxes(target, boxes)


@dataclass(frozen=True)
class SquareView:
    """The centre-ness-free system's view: the picture somewhere on a black square.

    Its longer side becomes `size`, in the middle of the square; or, with `probability`, `size`
    times a random scale, at a random place (utils_box/dataset.py). The target says as "picture"
    where it is, so that nothing is learned from the black: this is the last transform.

    Args:
        size: side of the square in pixels.
        scale: least and greatest random scale.
        probability: of random scale and place.
        margin: boxes are first kept this many pixels away from the picture's edges.
        min_area: boxes of fewer square pixels of the view are dropped.
    """

    size: int = 1025
    scale: tuple[float, float] = (0.8, 1.0)
    probability: float = 0.5
    margin: int = 1
    min_area: float = 32

    def __call__(self, image: Image.Image, target: Target, rng: random.Random) -> Picture:
        moved = rng.random() < self.probability
        factor = self.size / max(image.size) * (rng.uniform(*self.scale) if moved else 1.0)
        width, height = (int(side * factor + 0.5) for side in image.size)
        if moved:
            left, top = rng.randint(0, self.size - width), rng.randint(0, self.size - height)
        else:
            left, top = round((self.size - width) / 2), round((self.size - height) / 2)
        view = Image.new("RGB", (self.size, self.size))
        view.paste(_resize(image, width, height), (left, top))

        start = np.maximum(target["boxes"][:, :2], self.margin)
        end = np.minimum(target["boxes"][:, 2:], np.array(image.size) - self.margin)
        boxes = np.concatenate([start, end], axis=1) * factor + np.array([left, top] * 2)
        picture = np.array([left, top, left + width, top + height], dtype=np.float32)
        return view, {**with_boxes(target, boxes, self.min_area), "picture": picture}


def _resize(image: Image.Image, width: int, height: int, antialias: bool = True) -> Image.Image:
    if image.size == (width, height):
        return image
    if antialias:
        return image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    resized = resize_image(pixels, (height, width), "opencv")
    return Image.fromarray(resized.permute(1, 2, 0).numpy())


def with_boxes(target: Target, boxes: np.ndarray, min_area: float = 0.0) -> Target:
    """The target with other boxes, less those without area or of less than `min_area`."""
    boxes = boxes.astype(np.float32)
    sides = boxes[:, 2:] - boxes[:, :2]
    keep = (sides > 0).all(axis=1) & (sides.prod(axis=1) >= min_area)
    return {**target, "boxes": boxes[keep], "labels": target["labels"][keep]}
