"""Images of any kind as tensors for a detector: files, arrays and tensors, one or many."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fcos.image_io import read_image, upright_rgb
from fcos.preprocess import check_image

ImageSource = str | Path | bytes | BinaryIO | Image.Image | np.ndarray | Tensor


def check_options(score_threshold: float, batch_size: int = 1) -> None:
    """Refuse a score that no detection can have, and an empty batch.

    Raises:
        ValueError: one is out of range; the message names the option and its value.
    """
    if not 0 <= score_threshold <= 1:
        raise ValueError(f"score_threshold must be from 0 to 1, not {score_threshold}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")


def image_batches(
    images: ImageSource | Iterable[ImageSource], batch_size: int
) -> Iterator[list[Tensor]]:
    """Load images of any kind in batches of (3, H, W) tensors.

    Args:
        images: one image, an (N, 3, H, W) tensor, an (N, H, W, 3) array, or any iterable of images,
            which is read no further than the batch needs.
        batch_size: images per batch; the last one may be smaller.

    Raises:
        ValueError, TypeError: there are no images, or one cannot be used; see `load_image`.
    """
    if isinstance(images, (Tensor, np.ndarray)) and images.ndim == 4:
        images = list(images)
    single = isinstance(images, (bytes, Image.Image, np.ndarray, Tensor)) or _is_file(images)
    if single or not isinstance(images, Iterable):
        images = [images]  # type: ignore[list-item]
    remaining = enumerate(images)
    empty = True
    while batch := list(islice(remaining, batch_size)):
        empty = False
        yield [load_image(image, index) for index, image in batch]
    if empty:
        raise ValueError("no images: pass at least one image to `detect`")


def load_image(source: ImageSource, index: int = 0) -> Tensor:
    """Load an image of any kind as a new RGB tensor (3, H, W), uint8 0..255 or float 0..1.

    Files and PIL images are rotated by their EXIF orientation and converted to RGB. Arrays are
    RGB (H, W, 3) or grey (H, W) uint8; tensors are RGB (3, H, W), uint8 or float from 0 to 1. No
    other type is taken, since its values do not say what is white.

    Args:
        source: a path, the bytes of an image file, an open binary file, a PIL image, an array or a
            tensor.
        index: position of the image, for errors.

    Raises:
        FileNotFoundError: there is no such file.
        ImageError: the file is not an image.
        ValueError, TypeError: an array or tensor has another shape, type or range, or the source is
            of another kind.
    """
    # Results hold the image, whose array or tensor the caller may fill with the next one.
    shared = isinstance(source, (np.ndarray, Tensor))
    if isinstance(source, (str, Path)) and not Path(source).exists():
        raise FileNotFoundError(f"no such image: {source}")
    if isinstance(source, bytes):
        source = io.BytesIO(source)
    if isinstance(source, Image.Image):
        source = np.array(upright_rgb(source))
    elif not isinstance(source, (np.ndarray, Tensor)) and _is_file(source):
        source = np.array(read_image(source))
    if isinstance(source, np.ndarray):
        source = _channels_first(source)
    if not isinstance(source, Tensor):
        raise TypeError(
            f"image {index} must be a path, bytes, an open file, a PIL image, an array or a "
            f"tensor, not {type(source).__name__}"
        )
    check_image(source, index)
    return source.detach().clone() if shared else source


def _is_file(source: object) -> bool:
    """Whether `source` is a path or an open file."""
    return isinstance(source, (str, Path)) or hasattr(source, "read")


def _channels_first(array: np.ndarray) -> Tensor:
    """Convert an (H, W, 3) or (H, W) array to a (3, H, W) tensor."""
    if array.ndim == 2:
        array = array[..., None].repeat(3, axis=2)
    if array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(
            f"an image array must have shape (H, W, 3) or (H, W), this one has {array.shape}: "
            "drop an alpha channel, and put the channels last"
        )
    if array.dtype != np.uint8:
        values = ""
        if array.size and array.dtype.kind in "biuf":
            values = f" with values from {array.min():.4g} to {array.max():.4g}"
        raise TypeError(
            f"an image array must be uint8 (H, W, 3), this one is {array.dtype}{values}"
        )
    # An array that shares a PIL image's memory is read-only, which torch warns of.
    return torch.from_numpy(np.require(array, requirements=["C", "W"])).permute(2, 0, 1)
