"""What a detector found in one image."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.ops import box_iou
from torchvision.transforms.functional import to_pil_image


@dataclass(frozen=True)
class Detections:
    """Boxes found in one image, best first.

    `boxes` (n, 4) xyxy float32 pixels of the original image, `scores` (n,), `labels` (n,) class
    indices from 0, `names` their class names, `image` the picture itself as (3, H, W) RGB.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    names: list[str]
    image: Tensor

    def __len__(self) -> int:
        return len(self.scores)

    def draw(self, width: int | None = None) -> Image.Image:
        """The picture with boxes, class names and scores; `width` of the lines in pixels."""
        picture: Image.Image = to_pil_image(self.image.cpu()).convert("RGB")
        draw = ImageDraw.Draw(picture)
        line = width or max(2, round(max(picture.size) / 400))
        font = ImageFont.load_default(size=max(11, 5 * line))
        for i in reversed(range(len(self))):
            x1, y1, x2, y2 = self.boxes[i].tolist()
            colour = class_colour(int(self.labels[i]))
            draw.rectangle((x1, y1, x2, y2), outline=colour, width=line)
            text = f"{self.names[i]} {float(self.scores[i]):.2f}"
            _, _, text_width, text_height = draw.textbbox((0, 0), text, font=font)
            top = max(0.0, y1 - text_height - 2 * line)
            draw.rectangle((x1, top, x1 + text_width + 2 * line, top + text_height + line), colour)
            draw.text((x1 + line, top), text, fill="black", font=font)
        return picture


def matches(
    one: Mapping[str, Tensor], other: Mapping[str, Tensor], iou: float = 0.99, score: float = 1e-3
) -> int:
    """How many detections two answers for one image have in common, each counted once.

    Args:
        one, other: {"boxes": (n, 4), "scores": (n,), "labels": (n,)}, best first.
        iou: that two boxes of a class must have.
        score: by which their scores may differ.
    """
    overlap = box_iou(one["boxes"].float(), other["boxes"].float())
    overlap = overlap * (one["labels"][:, None] == other["labels"][None])
    overlap[(one["scores"][:, None] - other["scores"][None]).abs() > score] = 0
    matched = 0
    for row in overlap:
        if len(row) and float(row.max()) >= iou:
            matched += 1
            overlap[:, int(row.argmax())] = 0
    return matched


def class_colour(label: int) -> tuple[int, int, int]:
    """A bright colour for a class; neighbours in number are far apart in hue."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618033988749895 % 1, 0.65, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def class_names(labels: Tensor, classes: Sequence[str]) -> list[str]:
    """The name of each label."""
    return [classes[label] for label in labels.tolist()]
