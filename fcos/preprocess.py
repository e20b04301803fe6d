"""From images to network input: test-time resizing, normalisation and padding into a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, Literal, get_args

import numpy as np
import torch
from annotated_types import Len
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from backbones.layers import KeepFloat32
from backbones.ranges import Count, Positive
from fcos.boxes import Size
from fcos.checked import checked

ResizeMethod = Literal["pil", "opencv", "tensor", "antialias"]
ROUNDING = 1e-3  # tolerance for values of float images outside of 0..1
PILLOW_BITS = 22  # of the fraction in Pillow's fixed-point weights


@checked
@dataclass(frozen=True)
class ShortestSide:
    """Resize the shorter side to `size`, with a longer side of at most `longest`.

    `rounding` "nearest" rounds both sides by int(x + 0.5), as detectron2's ResizeShortestEdge and
    OpenMMLab do; "truncate" rounds the longer side down, as maskrcnn-benchmark does
    (data/transforms/transforms.py); "floor" rounds both sides down, as torchvision does.
    """

    size: Count = 800
    longest: Count = 1333
    rounding: Literal["nearest", "truncate", "floor"] = "nearest"

    def __call__(self, height: int, width: int) -> Size:
        short, long = min(height, width), max(height, width)
        if self.rounding == "nearest":
            scale = self.size / short
            sides = [scale * side if side != short else self.size for side in (height, width)]
            if max(sides) > self.longest:
                factor = self.longest / max(sides)
                sides = [side * factor for side in sides]
            return _at_least_one(sides[0] + 0.5, sides[1] + 0.5)
        if self.rounding == "floor":
            factor = min(self.size / short, self.longest / long)
            return _at_least_one(height * factor, width * factor)
        size = self.size
        if long / short * size > self.longest:
            size = max(1, round(self.longest * short / long))
        if height < width:
            return size, int(size * width / height)
        return int(size * height / width), size

    def back(self, original: Size, resized: Size) -> tuple[float, float]:
        """Return the (y, x) factors from the resized image to the original."""
        return original[0] / resized[0], original[1] / resized[1]

    def scaled(self, scale: float, limit: float) -> ShortestSide:
        """Return the rule for `scale` times `size` and `limit` times `longest`."""
        size, longest = round(self.size * scale), round(self.longest * limit)
        return replace(self, size=size, longest=longest)


@checked
@dataclass(frozen=True)
class LongestSide:
    """Resize the longer side to `size`, int(x + 0.5) on both sides: the centre-ness-free system."""

    size: Count = 1025

    def __call__(self, height: int, width: int) -> Size:
        scale = self.size / max(height, width)
        return _at_least_one(height * scale + 0.5, width * scale + 0.5)

    def back(self, original: Size, resized: Size) -> tuple[float, float]:
        """Return the (y, x) factors from the resized image to the original: equal, not rounded."""
        scale = max(original) / self.size
        return scale, scale

    def scaled(self, scale: float, limit: float) -> LongestSide:
        """Return the rule for `scale` times `size`, but at most `limit` times."""
        return replace(self, size=round(self.size * min(scale, limit)))


def _at_least_one(height: float, width: float) -> Size:
    """Round to whole pixels, at least one: published rules shrink very thin images to nothing."""
    return max(1, int(height)), max(1, int(width))


def resize_image(
    image: Tensor,
    size: Size,
    method: ResizeMethod = "pil",
    device: torch.device | str | None = None,
) -> Tensor:
    """Resize a (3, H, W) image to `size` by bilinear interpolation.

    Args:
        image: uint8 0..255 or float 0..1.
        size: (height, width).
        method: "pil" is Pillow's antialiased filter on uint8, bit for bit the input of most
            published pipelines, on every device. "antialias" is the same filter on floats, not
            rounded. "opencv" interpolates between four pixels and rounds to uint8, as OpenMMLab
            does (OpenCV's fixed point differs by a grey level at most). "tensor" interpolates
            between four pixels in floats, as torchvision's detectors do.
        device: where to compute; by default, and always for "opencv", where the image is.

    Raises:
        ValueError: there is no such method.
    """
    methods = get_args(ResizeMethod)
    if method not in methods:
        raise ValueError(f"resize method {method!r} is not one of {', '.join(methods)}")
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    if method in ("tensor", "antialias"):
        pixels = as_float(image.to(device))[None]
        antialias = method == "antialias"
        return interpolate(pixels, size=size, mode="bilinear", antialias=antialias)[0]
    if image.dtype != torch.uint8:
        image = (image * 255).round().clamp(0, 255).to(torch.uint8)
    if method == "opencv":
        scaled = interpolate(image[None].float(), size=size, mode="bilinear")[0]
        return scaled.round().to(torch.uint8)
    if torch.device(device or image.device).type == "cpu":
        return _resize_by_pillow(image.cpu(), size)
    return resize_as_pillow(image.to(device), size)


def _resize_by_pillow(image: Tensor, size: Size) -> Tensor:
    if image.stride(-1) == 1:  # planar, which NumPy is slow to interleave
        channels = [Image.fromarray(channel.numpy()) for channel in image]
        pil_image = Image.merge("RGB", channels)
    else:
        pil_image = Image.fromarray(image.permute(1, 2, 0).numpy())
    resized = pil_image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)


def resize_as_pillow(image: Tensor, size: Size) -> Tensor:
    """Resize like `_resize_by_pillow`, bit for bit, but on the image's device.

    Pillow (Resample.c) resizes along x, rounds to uint8, then resizes along y, all in integers.
    """
    for target in (size[1], size[0]):
        indices, weights = _pillow_weights(image.shape[2], target, image.device)
        total = torch.full_like(weights[0], 1 << PILLOW_BITS - 1)  # a half, to round
        for index, weight in zip(indices, weights, strict=True):
            total = total + image.index_select(2, index) * weight
        image = (total >> PILLOW_BITS).to(torch.uint8).mT  # swaps x and y, twice
    return image


@lru_cache(maxsize=256)
def _pillow_weights(source: int, target: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return (T, target) indices of the pixels of a row of `source`, and fixed-point int32 weights.

    The filter is a triangle whose half width is a pixel of source or target, whichever is larger.
    """
    scale = source / target
    width = max(scale, 1.0)
    # On the CPU, whatever torch's default device is: the result is kept for later calls.
    centers = (torch.arange(target, dtype=torch.float64, device="cpu") + 0.5) * scale
    first = (centers - width + 0.5).long().clamp(min=0)
    last = (centers + width + 0.5).long().clamp(max=source) - 1
    indices = first + torch.arange(2 * math.ceil(width) + 1, device="cpu")[:, None]
    # In Pillow's order of operations, since a rounding error may change a weight by 1.
    weights = (1 - ((indices - centers + 0.5) * (1 / width)).abs()).clamp(min=0)
    weights = torch.where(indices <= last, weights, 0.0)
    fixed = (weights / sum(weights) * (1 << PILLOW_BITS) + 0.5).int()
    return indices.clamp(max=source - 1).to(device), fixed.to(device)


def as_float(image: Tensor) -> Tensor:
    """Convert a uint8 0..255 or float 0..1 image to float 0..1."""
    return image.float() / 255 if image.dtype == torch.uint8 else image.float()


def check_image(image: object, index: int) -> None:
    """Raise an error unless `image` is a (3, H, W) tensor, uint8 or float from 0 to 1."""
    if not isinstance(image, Tensor):
        raise TypeError(
            f"image {index} is a {type(image).__name__}; pass (3, H, W) tensors here, "
            "or an image of any kind to `detect`"
        )
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(
            f"image {index} has shape {tuple(image.shape)}; expected (3, H, W), RGB channels first"
        )
    if min(image.shape[-2:]) < 1:
        raise ValueError(f"image {index} is empty: shape {tuple(image.shape)}")
    if image.dtype == torch.uint8:
        return
    if not image.is_floating_point():
        raise TypeError(f"image {index} is {image.dtype}; expected uint8 0..255 or float 0..1")
    least, most = torch.stack(torch.aminmax(image.detach())).tolist()  # NaN if any value is NaN
    if not (math.isfinite(least) and math.isfinite(most)):
        raise ValueError(f"image {index} has NaN or infinite values")
    if least < -ROUNDING or most > 1 + ROUNDING:
        raise ValueError(
            f"image {index} has values from {least:.4g} to {most:.4g}; floats must lie in 0..1: "
            "divide 0..255 by 255, clamp what an interpolation overshot, and do not normalise, "
            "which the detector does itself"
        )


@dataclass
class ImageBatch:
    """A padded batch (N, 3, H, W); image i has `sizes[i]` and its corner at `offsets[i]` (y, x)."""

    tensor: Tensor
    sizes: list[Size]
    offsets: list[Size]


@checked
class ImageNormalizer(KeepFloat32):
    """Normalise RGB images as one published system does and pad them into a batch.

    Args:
        mean, std: per channel, in the network's channel order and value range.
        channel_order: "BGR" (Caffe2's weights) or "RGB".
        value_range: 255 or 1, the network's scale of pixel values.
        divisor: heights and widths are padded to multiples of it.
        square: before the normalisation, pad with black to a square whose side is a multiple of
            `divisor` plus one, with the image in its centre, as the centre-ness-free system does.
            Otherwise, pad with zeros at the right and the bottom, after the normalisation.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Annotated[Sequence[float], Len(3, 3)],
        std: Annotated[Sequence[Positive], Len(3, 3)],
        channel_order: Literal["BGR", "RGB"] = "BGR",
        value_range: Literal[1, 255] = 255,
        divisor: Count = 32,
        square: bool = False,
    ) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            tensor = torch.tensor(list(values), dtype=torch.float32).view(3, 1, 1)
            self.register_buffer(name, tensor, persistent=False)
        self.channel_order = channel_order
        self.value_range = value_range
        self.divisor = divisor
        self.square = square

    def normalize(self, image: Tensor) -> Tensor:
        """Convert RGB images (..., 3, H, W), uint8 or float 0..1, to the float32 input."""
        image = image.to(self.mean.device, non_blocking=True)
        if image.dtype == torch.uint8:
            image = image.float() if self.value_range == 255 else image.float() / 255
        else:
            image = image.float() * self.value_range
        if self.channel_order == "BGR":
            image = image.flip(-3)
        return (image - self.mean) / self.std

    def forward(self, images: Sequence[Tensor]) -> ImageBatch:
        """Batch (3, H, W) RGB images; different sizes are padded to the largest."""
        if len(images) == 0:
            raise ValueError("no images: pass a list of at least one (3, H, W) tensor")
        for index, image in enumerate(images):
            check_image(image, index)
        sizes: list[Size] = [(image.shape[-2], image.shape[-1]) for image in images]
        (height, width), offsets = self.layout(sizes)
        empty = -self.mean / self.std if self.square else torch.zeros_like(self.mean)
        batch = empty.expand(len(images), 3, height, width).contiguous()
        for index, (image, (top, left), (h, w)) in enumerate(
            zip(images, offsets, sizes, strict=True)
        ):
            batch[index, :, top : top + h, left : left + w] = self.normalize(image)
        return ImageBatch(batch, sizes, offsets)

    def layout(self, sizes: Sequence[Size]) -> tuple[Size, list[Size]]:
        """Return (height, width) of a batch of images of these sizes, and their (y, x) corners."""
        height, width = max(s[0] for s in sizes), max(s[1] for s in sizes)
        if not self.square:
            height, width = (-(-side // self.divisor) * self.divisor for side in (height, width))
            return (height, width), [(0, 0)] * len(sizes)
        side = -(-(max(height, width) - 1) // self.divisor) * self.divisor + 1
        offsets = [(round((side - h) / 2), round((side - w) / 2)) for h, w in sizes]
        return (side, side), offsets
