"""Image files, read as 8-bit RGB; errors say what is wrong with a file."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

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
SUFFIXES = (*(".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".avif"),)
BIT_DEPTHS = (8, 12, 16)  # of integer images, whose files do not state it


class ImageError(ValueError):
    """An image file cannot be used.

    The message names the file and the reason; `kind` is "image missing", "image unreadable" or
    "image of another size".
    """

    def __init__(self, message: str, kind: str = "image unreadable") -> None:
        super().__init__(message)
        self.kind = kind


def read_image(path: str | Path | BinaryIO, size: tuple[int, int] | None = None) -> Image.Image:
    """Read an image file as 8-bit RGB.

    Greyscale is repeated to three channels, CMYK and palettes are converted, transparency is
    dropped, and of several frames the first is taken. Images of 16- or 32-bit integers keep the
    eight highest of their `bit_depth`.

    An image of more than 178,956,970 pixels, Pillow's limit, is refused before it is decoded. While
    an image is read, it needs 4 bytes per pixel as an upright RGB JPEG or PNG, and at most 16 (a
    WebP file; with alpha or an orientation, 12), so that no file needs more than 2.9 GB.

    Args:
        path: the file, or an open one.
        size: (height, width) in the annotations. An image with an EXIF orientation is rotated,
            unless the size shows that the annotations were made on the stored pixels.

    Raises:
        ImageError: the file is missing, unreadable, truncated, too large or of another size.
    """
    with _open(path) as file:
        file.load()
        image = upright_rgb(file, size)
    if size is not None and (image.height, image.width) != size:
        raise ImageError(
            f"{path}: the image is {image.width}x{image.height}, "
            f"its annotations say {size[1]}x{size[0]}",
            "image of another size",
        )
    return image


def image_size(path: str | Path) -> tuple[int, int]:
    """Read (height, width) of an image file, rotated by its EXIF orientation, but not its pixels.

    Raises:
        ImageError: the file is missing or unreadable.
    """
    with _open(path) as file:
        turned = orientation(file) >= 5
        return file.size if turned else (file.height, file.width)


def image_sizes(paths: Iterable[str | Path]) -> list[tuple[int, int]]:
    """Return the `image_size` of each file, (0, 0) for those that cannot be read."""

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
        name: the file's name in errors.

    Yields:
        The frame's number from 0, or None for the image of a file that holds only one, and the
        frame, converted as by `read_image`.

    Raises:
        ImageError: the file is unreadable or truncated.
    """
    with _open(path, name) as file:
        count = getattr(file, "n_frames", 1) if file.format in MULTI_FRAME_FORMATS else 1
        for number in range(count):
            file.seek(number)
            yield (number if count > 1 else None), upright_rgb(file)


@contextmanager
def _open(path: str | Path | BinaryIO, name: str | Path | None = None) -> Iterator[Image.Image]:
    """Open an image file; any failure becomes an `ImageError` that names the file."""
    if name is None:
        name = path if isinstance(path, (str, Path)) else getattr(path, "name", "the bytes given")
    try:
        with Image.open(path) as file:
            yield file
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file", "image missing") from None
    except Exception as error:  # Pillow's decoders raise errors of any type for broken files
        raise ImageError(f"{name}: not a readable image ({error})") from None


def upright_rgb(image: Image.Image, size: tuple[int, int] | None = None) -> Image.Image:
    """Convert an open image as `read_image` does.

    Raises:
        ValueError: the range of its pixel values is not known.
    """
    if (turn := orientation(image)) != 1:
        upright = image.transpose(TRANSPOSE[turn])
        annotated_as_stored = size == (image.height, image.width) != (upright.height, upright.width)
        image = image if annotated_as_stored else upright
    if image.mode == "F":
        raise ValueError("floating-point pixel values have no known range")
    if image.mode.startswith("I"):  # `convert` would clip values above 255
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    return image if image.mode == "RGB" else image.convert("RGB")


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, from 2 to 8, or 1 where there is no valid one."""
    try:
        value = image.getexif().get(ORIENTATION)
    except Exception:  # a malformed tag, whatever the error: the pixels are still good
        return 1
    return value if value in TRANSPOSE else 1


def bit_depth(values: np.ndarray) -> int:
    """Return the bits that an image of integers uses, judged by its largest value: 8, 12 or 16.

    Raises:
        ValueError: values are negative or need more than 16 bits.
    """
    least, most = int(values.min()), int(values.max())
    for bits in BIT_DEPTHS:
        if least >= 0 and most < 1 << bits:
            return bits
    raise ValueError(f"pixel values from {least} to {most} have no known range")


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Return the eight highest bits of an image of wider integers, as uint8."""
    bits = bit_depth(values)
    if bits < 16:
        warnings.warn(
            f"an image of {values.dtype} is taken as {bits}-bit, judged by its largest value; "
            "save 8-bit images to be certain",
            stacklevel=2,
        )
    return (values.astype(np.uint16) >> (bits - 8)).astype(np.uint8)
