"""Drawing boxes with labels that stay inside the image and do not cover each other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

if TYPE_CHECKING:
    from fcos.data.dataset import DetectionDataset
    from fcos.data.loader import Batch
    from fcos.detector import Detector

Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]  # xyxy, pixels
Tile = tuple[Image.Image, Tensor, Tensor, Sequence[str]]  # image, boxes, labels, texts

# Colours that people with any colour vision can tell apart (Okabe and Ito, "Color Universal
# Design", 2008), without black.
COLOURS: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
TILE = 400  # pixels: the longest side of an image in a mosaic
TILES = 16  # the number of images in a mosaic
SCORE = 0.3  # the lowest score of the detections in a mosaic
NO_GLYPH = "\uffff"  # a code point without a character, for which fonts draw a placeholder


def draw_boxes(
    image: Image.Image,
    boxes: Tensor,
    labels: Tensor,
    texts: Sequence[str],
    width: int | None = None,
    font_file: str | None = None,
) -> None:
    """Draw boxes and their texts into an image, the first box on top.

    The text of the first box is placed first. A text that finds no free place is left out; its box
    still has the colour of its class.

    Args:
        image: RGB, changed in place.
        boxes: (n, 4) xyxy pixels.
        labels: (n,) class indices, which choose the colours.
        texts: the text of each box.
        width: line width in pixels; by default it depends on the size of the image.
        font_file: a TrueType or OpenType font for the script of the texts; by default DejaVu Sans,
            which has Latin, Greek, Cyrillic and more. Characters that the font does not have become
            "?".
    """
    draw = ImageDraw.Draw(image)
    line = width or max(2, round(max(image.size) / 400))
    size = max(11, 5 * line)
    font = ImageFont.truetype(font_file or default_font(), size)
    corners: list[Box] = [tuple(box) for box in boxes.tolist()]
    colours = [class_colour(label) for label in labels.tolist()]
    for box, colour in reversed(list(zip(corners, colours, strict=True))):
        draw.rectangle(box, outline=colour, width=line)
    taken: list[Box] = []
    for box, colour, text in zip(corners, colours, texts, strict=True):
        shown = drawable(text, font)
        place = place_label(draw.textbbox((0, 0), shown, font=font), box, image.size, line, taken)
        if place is not None:
            taken.append(place)
            draw.rectangle(place, fill=colour)
            draw.text((place[0] + line, place[1]), shown, _text_colour(colour), font=font)


def draw_mosaic(tiles: Sequence[Tile], path: Path) -> None:
    """Draw images, each with its boxes, labels and texts, in rows of equal number into a JPEG."""
    pictures = []
    for image, boxes, labels, texts in tiles:
        factor = TILE / max(image.size)
        picture = image.resize([max(1, round(side * factor)) for side in image.size])
        draw_boxes(picture, boxes * factor, labels, texts)
        pictures.append(picture)
    columns = math.ceil(math.sqrt(len(pictures)))
    width, height = (max(picture.size[side] for picture in pictures) for side in (0, 1))
    canvas = Image.new("RGB", (columns * width, math.ceil(len(pictures) / columns) * height))
    for number, picture in enumerate(pictures):
        canvas.paste(picture, (number % columns * width, number // columns * height))
    canvas.save(path, quality=85)


def draw_batch(batch: Batch, classes: Sequence[str], path: Path) -> None:
    """Draw the first images of a training batch, as the network gets them, with their boxes."""
    tiles = []
    for image, target in list(zip(*batch, strict=True))[:TILES]:
        names = [classes[label] for label in target["labels"].tolist()]
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        tiles.append((picture, target["boxes"], target["labels"], names))
    draw_mosaic(tiles, path)


def draw_detections(detector: Detector, dataset: DetectionDataset, path: Path) -> None:
    """Draw a detector's detections in the first images of a dataset.

    Detections of at least `SCORE` are drawn, and at least as many as the image has objects.
    """
    training = detector.training
    detector.eval()
    tiles = []
    for index in range(min(TILES, len(dataset))):
        image, target = dataset.open(index)
        (found,) = detector.detect(image)
        kept = found[: max(len(target["labels"]), int((found.scores >= SCORE).sum()))]
        texts = [f"{n} {score:.0%}" for n, score in zip(kept.names, kept.scores, strict=True)]
        tiles.append((image, kept.boxes.cpu(), kept.labels.cpu(), texts))
    detector.train(training)
    draw_mosaic(tiles, path)


def place_label(
    text: Box, box: Box, size: tuple[int, int], margin: int, taken: Sequence[Box]
) -> Box | None:
    """Return the first free place for a label: above the box, below it, or inside it.

    Args:
        text: xyxy of the text drawn at (0, 0).
        box: xyxy of the detection.
        size: (width, height) of the image.
        margin: around the text, in pixels.
        taken: places of other labels.

    Returns:
        xyxy of the label's background, moved into the image, or None where no place is free.
    """
    width, height = text[2] + 2 * margin, text[3] + margin
    for left, top in _label_corners(box, width, height):
        left = max(0.0, min(left, size[0] - 1 - width))
        top = max(0.0, min(top, size[1] - 1 - height))
        place = left, top, left + width, top + height
        if not any(_overlap(place, other) for other in taken):
            return place
    return None


def default_font() -> str:
    """Return DejaVu Sans, which comes with matplotlib; the font in Pillow has few letters."""
    from matplotlib import get_data_path

    return str(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))


def drawable(text: str, font: ImageFont.FreeTypeFont) -> str:
    """Return the text with "?" for each control character and each that the font does not have."""
    placeholder = bytes(font.getmask(NO_GLYPH))

    def has_glyph(character: str) -> bool:
        return character.isprintable() and bytes(font.getmask(character)) != placeholder

    return "".join(c if c == " " or has_glyph(c) else "?" for c in text)


def class_colour(label: int) -> Colour:
    """Return the colour in which a class is drawn; classes beyond the seventh share them."""
    return COLOURS[label % len(COLOURS)]


def _label_corners(box: Box, width: float, height: float) -> Iterator[tuple[float, float]]:
    """Yield the upper left corners to try, at either side of the box."""
    x1, y1, x2, y2 = box
    inside = range(round(y1), round(y2 - height) + 1, max(1, round(height) + 1))
    for top in (y1 - height, y2, *inside):
        yield x1, top
        yield x2 - width, top


def _overlap(one: Box, other: Box) -> bool:
    """Whether two boxes share a pixel; Pillow draws the last row and column of a rectangle."""
    return one[0] <= other[2] and other[0] <= one[2] and one[1] <= other[3] and other[1] <= one[3]


def _text_colour(background: Colour) -> str:
    """Return black or white, whichever is easier to read (ITU-R BT.601 luma)."""
    red, green, blue = background
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 110 else "white"
