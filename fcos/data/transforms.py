"""Training augmentation: callables `(image, target, rng) -> (image, target)`.

Images are uint8 RGB (3, H, W), boxes xyxy pixels. All chance comes from the `random.Random` that is
passed in, so that a run that is resumed sees what it would have seen.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fcos.data.dataset import Sample, Target
from fcos.images import ShortestSide, resize_image

Transform = Callable[[Tensor, Target, random.Random], Sample]


@dataclass(frozen=True)
class Compose:
    """One transform after another."""

    transforms: Sequence[Transform]

    def __call__(self, image: Tensor, target: Target, rng: random.Random) -> Sample:
        for transform in self.transforms:
            image, target = transform(image, target, rng)
        return image, target


@dataclass(frozen=True)
class ResizeShortestSide:
    """Shorter side to one of `sizes`, the longer at most `longest`, as `fcos.images.ShortestSide`.

    Args:
        sizes: the sizes to choose from; or, for `sample="range"`, the least and the greatest.
        sample: "choice" takes one of `sizes`, "range" any integer between two.
        rounding: "nearest" (detectron2) or "truncate" (maskrcnn-benchmark).
    """

    sizes: Sequence[int] = (800,)
    longest: int = 1333
    sample: Literal["choice", "range"] = "choice"
    rounding: Literal["nearest", "truncate"] = "nearest"

    def __post_init__(self) -> None:
        if not self.sizes or (self.sample == "range" and len(self.sizes) != 2):
            raise ValueError(f"sizes {list(self.sizes)} do not suit sample={self.sample!r}")

    def __call__(self, image: Tensor, target: Target, rng: random.Random) -> Sample:
        if self.sample == "range":
            size = rng.randint(self.sizes[0], self.sizes[1])
        else:
            size = rng.choice(self.sizes)
        height, width = image.shape[-2:]
        to = ShortestSide(size, self.longest, self.rounding)(height, width)
        factors = torch.tensor([to[1] / width, to[0] / height]).repeat(2)
        return resize_image(image, to), with_boxes(target, target["boxes"] * factors)


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

    def __call__(self, image: Tensor, target: Target, rng: random.Random) -> Sample:
        if rng.random() >= self.probability:
            return image, target
        x1, y1, x2, y2 = target["boxes"].unbind(1)
        right = image.shape[-1] - (1 if self.plus_one else 0)
        return image.flip(-1), with_boxes(target, torch.stack([right - x2, y1, right - x1, y2], 1))


@dataclass(frozen=True)
class SquareView:
    """The centre-ness-free system's view: the picture somewhere on a black square.

    Its longer side becomes `size`, in the middle of the square; or, with `probability`, `size`
    times a random scale, at a random place (utils_box/dataset.py).

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

    def __call__(self, image: Tensor, target: Target, rng: random.Random) -> Sample:
        height, width = image.shape[-2:]
        moved = rng.random() < self.probability
        factor = self.size / max(height, width) * (rng.uniform(*self.scale) if moved else 1.0)
        to = int(height * factor + 0.5), int(width * factor + 0.5)
        free = self.size - to[0], self.size - to[1]
        if moved:
            top, left = rng.randint(0, free[0]), rng.randint(0, free[1])
        else:
            top, left = round(free[0] / 2), round(free[1] / 2)
        view = image.new_zeros((self.size, self.size, 3)).permute(2, 0, 1)
        view[:, top : top + to[0], left : left + to[1]] = resize_image(image, to)

        far = torch.tensor([width - self.margin, height - self.margin])
        start, end = target["boxes"].split(2, dim=1)
        boxes = torch.cat([start.clamp(min=self.margin), end.minimum(far)], 1)
        boxes = boxes * factor + torch.tensor([left, top, left, top])
        return view, with_boxes(target, boxes, self.min_area)


def with_boxes(target: Target, boxes: Tensor, min_area: float = 0.0) -> Target:
    """The target with other boxes, less those without area or of less than `min_area`."""
    sides = boxes[:, 2:] - boxes[:, :2]
    keep = (sides > 0).all(1) & (sides.prod(1) >= min_area)
    return {**target, "boxes": boxes[keep], "labels": target["labels"][keep]}
