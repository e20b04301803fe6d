"""Reading images of any kind as 8-bit RGB, or an error that says what is wrong with one."""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

ImageSource = str | Path | bytes | BinaryIO | Image.Image | np.ndarray | Tensor

ORIENTATION = 0x0112  # the EXIF tag
TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Not MPO, the JPEG of phones and cameras, whose other frames are previews or depth maps.
MULTI_FRAME_FORMATS = {"GIF", "TIFF", "PNG", "WEBP", "AVIF"}
ROUNDING = 1e-3  # by which float images may leave 0..1
SUFFIXES = (*(".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".avif"),)
BIT_DEPTHS = (8, 12, 16)  # of integer images, whose files do not say which it is


class ImageError(ValueError):
    """An image file cannot be used.

    The message names the file and the reason; `kind` is "image missing", "image unreadable" or
    "image of another size".
    """

    def __init__(self, message: str, kind: str = "image unreadable") -> None:
        super().__init__(message)
        self.kind = kind


def image_batches(
    images: ImageSource | Iterable[ImageSource], batch_size: int
) -> Iterator[list[Tensor]]:
    """Load images of any kind in batches of (3, H, W) tensors.

    Args:
        images: one image, an (N, 3, H, W) tensor, or any iterable of images, which is read no
            further than the batch needs.
        batch_size: images per batch; the last one may be smaller.

    Raises:
        ValueError, TypeError: there are no images, or one cannot be used; see `load_image`.
    """
    if isinstance(images, Tensor) and images.ndim == 4:
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
    """Load an image of any kind as an RGB tensor (3, H, W), uint8 0..255 or float 0..1.

    Files and PIL images are rotated by their EXIF orientation and converted to RGB. Arrays are
    RGB (H, W, 3) or grey (H, W) uint8; tensors are RGB (3, H, W), uint8 or float from 0 to 1. No
    other type is taken, since its values do not say what is white.

    Args:
        source: a path, the bytes of an image file, an open binary file, a PIL image, an array or a
            tensor.
        index: the image's position, which errors name.

    Raises:
        FileNotFoundError: there is no such file.
        ImageError: the file is not an image.
        ValueError, TypeError: an array or tensor has another shape, type or range, or the source is
            of another kind.
    """
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
    return source


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
    least, most = torch.stack(torch.aminmax(image.detach())).tolist()  # NaN if any value is
    if not (math.isfinite(least) and math.isfinite(most)):
        raise ValueError(f"image {index} has NaN or infinite values")
    if least < -ROUNDING or most > 1 + ROUNDING:
        raise ValueError(
            f"image {index} has values from {least:.4g} to {most:.4g}; floats must lie in 0..1: "
            "divide 0..255 by 255, clamp what an interpolation overshot, and do not normalise, "
            "which the detector does itself"
        )


def read_image(path: str | Path | BinaryIO, size: tuple[int, int] | None = None) -> Image.Image:
    """Read an image file as 8-bit RGB.

    Greyscale is repeated to three channels, CMYK and palettes are converted, transparency is
    dropped, and of several frames the first is taken. Images of 16- or 32-bit integers keep the
    eight highest of their `bit_depth`.

    Args:
        path: the file, or an open one.
        size: (height, width) in the annotations. An image with an EXIF orientation is rotated,
            unless the size tells that the annotations were made on the stored pixels.

    Raises:
        ImageError: the file is missing, unreadable, truncated or of another size.
    """
    name = path if isinstance(path, (str, Path)) else getattr(path, "name", "the bytes given")
    try:
        with Image.open(path) as file:
            file.load()
            image = upright_rgb(file, size)
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file", "image missing") from None
    except Exception as error:  # a broken file makes Pillow's many decoders raise anything at all
        raise ImageError(f"{name}: not a readable image ({error})") from None
    if size is not None and (image.height, image.width) != size:
        raise ImageError(
            f"{name}: the image is {image.width}x{image.height}, "
            f"its annotations say {size[1]}x{size[0]}",
            "image of another size",
        )
    return image


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of an image file, rotated by its EXIF orientation, without its pixels.

    Raises:
        ImageError: the file is missing or unreadable.
    """
    try:
        with Image.open(path) as file:
            turned = orientation(file) >= 5
            return file.size if turned else (file.height, file.width)
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file", "image missing") from None
    except Exception as error:  # as in `read_image`
        raise ImageError(f"{path}: not a readable image ({error})") from None


def image_sizes(paths: Iterable[str | Path]) -> list[tuple[int, int]]:
    """The `image_size` of each file, (0, 0) where it cannot be read."""

    def size(path: str | Path) -> tuple[int, int]:
        try:
            return image_size(path)
        except ImageError:
            return 0, 0

    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        return list(pool.map(size, paths))


def read_frames(path: str | Path | BinaryIO, name: str) -> Iterator[tuple[int | None, Image.Image]]:
    """Read every frame of an animation or of a TIFF with several pages as 8-bit RGB.

    Args:
        path: the file, or an open one.
        name: of the file, in errors.

    Yields:
        The frame's number from 0, or None for the image of a file that holds only one, and the
        frame, converted as by `read_image`.

    Raises:
        ImageError: the file is unreadable or truncated.
    """
    try:
        with Image.open(path) as file:
            count = getattr(file, "n_frames", 1) if file.format in MULTI_FRAME_FORMATS else 1
            for number in range(count):
                file.seek(number)
                yield (number if count > 1 else None), upright_rgb(file)
    except Exception as error:
        raise ImageError(f"{name}: not a readable image ({error})") from None


def upright_rgb(image: Image.Image, size: tuple[int, int] | None = None) -> Image.Image:
    """Convert an open image as `read_image` does.

    Raises:
        ValueError: the range of its pixel values is not known.
    """
    return _rgb(_upright(image, size))


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, from 2 to 8, or 1 where there is no valid one."""
    try:
        value = image.getexif().get(ORIENTATION)
    except Exception:  # of a malformed tag, of whatever type: the pixels are still good
        return 1
    return value if value in TRANSPOSE else 1


def bit_depth(values: np.ndarray) -> int:
    """The bits that an image of integers uses, judged by its largest value: 8, 12 or 16.

    Raises:
        ValueError: values are negative or need more than 16 bits.
    """
    least, most = int(values.min()), int(values.max())
    for bits in BIT_DEPTHS:
        if least >= 0 and most < 1 << bits:
            return bits
    raise ValueError(f"pixel values from {least} to {most} have no known range")


def _upright(image: Image.Image, size: tuple[int, int] | None) -> Image.Image:
    turn = orientation(image)
    if turn == 1:
        return image
    upright = image.transpose(TRANSPOSE[turn])
    annotated_as_stored = size == (image.height, image.width) != (upright.height, upright.width)
    return image if annotated_as_stored else upright


def _rgb(image: Image.Image) -> Image.Image:
    """Convert to RGB; Pillow's `convert` would clip values above 255."""
    if image.mode == "F":
        raise ValueError("floating-point pixel values have no known range")
    if image.mode.startswith("I"):
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """The eight highest bits of an image of wider integers, as uint8."""
    bits = bit_depth(values)
    if bits < 16:
        warnings.warn(
            f"an image of {values.dtype} is taken as {bits}-bit, judged by its largest value; "
            "save 8-bit images to be certain",
            stacklevel=2,
        )
    return (values.astype(np.uint16) >> (bits - 8)).astype(np.uint8)


def _is_file(source: object) -> bool:
    """Whether it is a path or an open file."""
    return isinstance(source, (str, Path)) or hasattr(source, "read")


def _channels_first(array: np.ndarray) -> Tensor:
    """An (H, W, 3) or (H, W) array as a (3, H, W) tensor."""
    if array.ndim == 2:
        array = array[..., None].repeat(3, axis=2)
    if array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(f"an image array must have shape (H, W, 3), this one has {array.shape}")
    if array.dtype != np.uint8:
        raise TypeError(
            f"an image array must be uint8 (H, W, 3), this one is {array.dtype} with values from "
            f"{array.min(initial=0):.4g} to {array.max(initial=0):.4g}"
        )
    return torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1)
