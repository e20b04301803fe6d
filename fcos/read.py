"""Reading one image file as 8-bit RGB, or saying what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

ORIENTATION = 0x0112  # the EXIF tag


class ImageError(ValueError):
    """An image file that must not be used as it is.

    The message names the file and the reason; `kind` is "image missing", "image unreadable" or
    "image of another size".
    """

    def __init__(self, message: str, kind: str = "image unreadable") -> None:
        super().__init__(message)
        self.kind = kind


def read_image(path: str | Path, size: tuple[int, int] | None = None) -> Image.Image:
    """Read an image file as 8-bit RGB.

    Greyscale is repeated to three channels, CMYK and palettes are converted, transparency is
    dropped, 16-bit greyscale keeps its high byte, and of several frames the first is taken.

    Args:
        path: the file.
        size: its (height, width) in the annotations. A picture with an EXIF orientation is turned
            upright, unless the annotations were made on the unturned pixels, as their size tells.

    Raises:
        ImageError: the file is missing, unreadable, truncated or of another size.
    """
    try:
        with Image.open(path) as file:
            file.load()
            image = upright_rgb(file, size)
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file", "image missing") from None
    except Exception as error:  # a broken file makes Pillow's many decoders raise anything at all
        raise ImageError(f"{path}: not a readable image ({error})") from None
    if size is not None and (image.height, image.width) != size:
        raise ImageError(
            f"{path}: the image is {image.width}x{image.height}, "
            f"its annotations say {size[1]}x{size[0]}",
            "image of another size",
        )
    return image


def upright_rgb(image: Image.Image, size: tuple[int, int] | None = None) -> Image.Image:
    """An image as `read_image` gives it.

    Raises:
        ValueError: its pixels have no known range.
    """
    return _rgb(_upright(image, size))


def _upright(image: Image.Image, size: tuple[int, int] | None) -> Image.Image:
    if image.getexif().get(ORIENTATION, 1) == 1:
        return image
    upright = ImageOps.exif_transpose(image)
    annotated_as_stored = size == (image.height, image.width) != (upright.height, upright.width)
    return image if annotated_as_stored else upright


def _rgb(image: Image.Image) -> Image.Image:
    """Convert to RGB; `convert` alone would clip 16-bit values at 255."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        if image.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise ValueError(f"pixel values of mode {image.mode} have no known range")
        image = Image.fromarray((values.astype(np.uint16) >> 8).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")
