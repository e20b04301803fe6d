"""Training augmentation: callables `(image, target, rng) -> (image, target)`.

Images are RGB PIL images and boxes are arrays of xyxy pixels; tensors are made when a batch is
collated. All random numbers come from the `random.Random` argument, so that a resumed run gets the
same images as one that was never stopped.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from fcos.boxes import Size
from fcos.checked import checked
from fcos.data.dataset import DetectionDataset, PILSample, Target
from fcos.preprocess import ShortestSide, resize_image

Transform = Callable[[Image.Image, Target, random.Random], PILSample]


@dataclass(frozen=True)
class Compose:
    """Apply transforms one after another."""

    transforms: Sequence[Transform]

    def __call__(self, image: Image.Image, target: Target, rng: random.Random) -> PILSample:
        for transform in self.transforms:
            image, target = transform(image, target, rng)
        return image, target


@checked
@dataclass(frozen=True)
class ResizeShortestSide:
    """Resize the shorter side to one of `sizes`, the longer side to at most `longest` pixels.

    Sizes are rounded as in `fcos.preprocess.ShortestSide`.

    Args:
        sizes: the sizes to choose from; for `sample="range"`, the smallest and the largest.
        sample: "choice" takes one of `sizes`, "range" any integer between two.
        rounding: "nearest" (detectron2), "truncate" (maskrcnn-benchmark) or "floor" (torchvision).
        antialias: as Pillow does; False interpolates between four pixels, as OpenCV (OpenMMLab)
            and torchvision do.
    """

    sizes: Sequence[int] = (800,)
    longest: int = 1333
    sample: Literal["choice", "range"] = "choice"
    rounding: Literal["nearest", "truncate", "floor"] = "nearest"
    antialias: bool = True

    def __post_init__(self) -> None:
        if not self.sizes or (self.sample == "range" and len(self.sizes) != 2):
            raise ValueError(f"sizes {list(self.sizes)} do not suit sample={self.sample!r}")

    def __call__(self, image: Image.Image, target: Target, rng: random.Random) -> PILSample:
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
    """Mirror the image left to right.

    Args:
        probability: the probability of flipping.
        plus_one: boxes end on their last pixel, so x becomes width - x - 1 (maskrcnn-benchmark)
            instead of width - x (detectron2).
    """

    probability: float = 0.5
    plus_one: bool = False

    def __call__(self, image: Image.Image, target: Target, rng: random.Random) -> PILSample:
        if rng.random() >= self.probability:
            return image, target
        x1, y1, x2, y2 = target["boxes"].T
        right = image.width - (1 if self.plus_one else 0)
        boxes = np.stack([right - x2, y1, right - x1, y2], axis=1)
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), with_boxes(target, boxes)


@dataclass(frozen=True)
class SquareView:
    """Place the image on a black square, as the centre-ness-free system (utils_box/dataset.py).

    Its longer side is resized to `size` and the image centred; or, with `probability`, resized to
    `size` times a random scale and placed at random. "picture" in the target is the image's xyxy
    rectangle in the square, outside of which nothing is learned. Use it as the last transform.

    Args:
        size: side of the square in pixels.
        scale: smallest and largest random scale.
        probability: the probability of a random scale and position.
        margin: boxes are first clipped to this many pixels inside the image's edges.
        min_area: boxes smaller than this in the square, in square pixels, are dropped.
    """

    size: int = 1025
    scale: tuple[float, float] = (0.8, 1.0)
    probability: float = 0.5
    margin: int = 1
    min_area: float = 32

    def __call__(self, image: Image.Image, target: Target, rng: random.Random) -> PILSample:
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


def build_transforms(config: Mapping[str, Any]) -> Compose:
    """Return the augmentation of a run's configuration."""
    augmentation, data = config["augmentation"], config["data"]
    flip = HorizontalFlip(data["flip"], data["plus_one"])
    if "square" in augmentation:
        view = SquareView(augmentation["square"], tuple(augmentation["scale_range"]))
        return Compose([flip, view])
    if "longest" not in augmentation:
        return Compose([flip])
    ranged = "shortest_range" in augmentation
    resize = ResizeShortestSide(
        augmentation["shortest_range" if ranged else "shortest"],
        augmentation["longest"],
        "range" if ranged else "choice",
        config["resize"].get("rounding", "nearest"),
        antialias=config.get("detector", {}).get("resize_method", "pil") in ("pil", "antialias"),
    )
    # Flipping first gives the same and moves fewer pixels, except for boxes that include their last
    # pixel, which in maskrcnn-benchmark is one of the resized image.
    return Compose([resize, flip] if data["plus_one"] else [flip, resize])


def largest_size(augmentation: Mapping[str, Any], dataset: DetectionDataset) -> Size:
    """Return (height, width) of the largest images that augmentation makes, in landscape."""
    if "square" in augmentation:
        return augmentation["square"], augmentation["square"]
    if "longest" in augmentation:
        shortest = augmentation.get("shortest") or augmentation["shortest_range"]
        return max(shortest), augmentation["longest"]
    height, width = dataset.sizes.max(axis=0).tolist()
    return height, width


def _resize(image: Image.Image, width: int, height: int, antialias: bool = True) -> Image.Image:
    if image.size == (width, height):
        return image
    if antialias:
        return image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    resized = resize_image(pixels, (height, width), "opencv")
    return Image.fromarray(resized.permute(1, 2, 0).numpy())


def with_boxes(target: Target, boxes: np.ndarray, min_area: float = 0.0) -> Target:
    """Return the target with other boxes, of which those with less than `min_area` are left out."""
    boxes = boxes.astype(np.float32)
    sides = boxes[:, 2:] - boxes[:, :2]
    keep = (sides > 0).all(axis=1) & (sides.prod(axis=1) >= min_area)
    return {**target, "boxes": boxes[keep], "labels": target["labels"][keep]}
