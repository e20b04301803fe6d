"""What a detector found in one image, and the forms in which other tools take it."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.ops import box_iou
from torchvision.transforms.functional import to_pil_image

if TYPE_CHECKING:
    import pandas as pd

# Colours that people with any colour vision can tell apart (Okabe and Ito, "Color Universal
# Design", 2008), without black.
COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
Colour = tuple[int, int, int]


@dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """The objects found in one image, best first.

    `d[i]`, `d[:10]` and `d[d.scores > 0.5]` are `Detections` again, and so is each item of a loop.

    Args:
        boxes: (n, 4) xyxy float32, in pixels of the original image.
        scores: (n,).
        labels: (n,) class indices from 0.
        names: the n class names.
        image: (3, H, W), RGB.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    names: list[str]
    image: Tensor

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: int | slice | Sequence[Any] | np.ndarray | Tensor) -> Detections:
        """The chosen detections: one index, a slice, a list of indices, or a mask of n booleans."""
        index = index.cpu() if isinstance(index, Tensor) else index
        chosen = torch.arange(len(self))[index].reshape(-1)
        names = [self.names[i] for i in chosen.tolist()]
        on_device = chosen.to(self.boxes.device)
        boxes, scores, labels = (x[on_device] for x in (self.boxes, self.scores, self.labels))
        return Detections(boxes, scores, labels, names, self.image)

    def __iter__(self) -> Iterator[Detections]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        best = [f"{n} {s:.2f}" for n, s in zip(self.names[:3], self.scores.tolist(), strict=False)]
        found = ", ".join([*best, "..."] if len(self) > len(best) else best)
        height, width = self.image.shape[-2:]
        return f"Detections({len(self)} in {width}x{height} pixels{': ' if found else ''}{found})"

    def to_dict(self) -> dict[str, list[Any]]:
        """{"boxes", "scores", "labels", "names"} as plain lists, ready for JSON."""
        return {
            "boxes": self.boxes.tolist(),
            "scores": self.scores.tolist(),
            "labels": self.labels.tolist(),
            "names": list(self.names),
        }

    def to_pandas(self) -> pd.DataFrame:
        """A row per detection: x1, y1, x2, y2, score, label and name."""
        import pandas as pd

        frame = pd.DataFrame(self.boxes.cpu().numpy(), columns=["x1", "y1", "x2", "y2"])
        scores, labels = self.scores.cpu().numpy(), self.labels.cpu().numpy()
        return frame.assign(score=scores, label=labels, name=self.names)

    def to_coco(
        self, image_id: int | str = 1, category_ids: Sequence[int] | None = None
    ) -> list[dict[str, Any]]:
        """Results in COCO's format, each with the name of its class as "category".

        Args:
            image_id: the image's id in the annotation file.
            category_ids: the annotation file's category id of each label. The default is 1 for
                label 0, 2 for label 1 and so on, which is not the numbering of COCO itself.
        """
        rows = []
        for (x1, y1, x2, y2), score, label, name in zip(*self.to_dict().values(), strict=True):
            category = label + 1 if category_ids is None else category_ids[label]
            row = {"image_id": image_id, "category_id": category, "category": name}
            rows.append({**row, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score})
        return rows

    def to_supervision(self) -> Any:
        """`supervision.Detections`, for its annotators, trackers and zones.

        Raises:
            ImportError: supervision is not installed.
        """
        try:
            import supervision
        except ImportError:
            raise ImportError(
                "supervision is not installed: pip install 'fcos-zoo[supervision]'"
            ) from None
        return supervision.Detections(
            xyxy=self.boxes.cpu().numpy(),
            confidence=self.scores.cpu().numpy(),
            class_id=self.labels.cpu().numpy(),
            data={"class_name": np.array(self.names, dtype=str)},
        )

    def draw(self, width: int | None = None) -> Image.Image:
        """The image with its boxes, class names and scores, the best on top.

        Args:
            width: of the lines in pixels; default: by the size of the image.
        """
        image: Image.Image = to_pil_image(self.image.cpu()).convert("RGB")
        draw = ImageDraw.Draw(image)
        line = width or max(2, round(max(image.size) / 400))
        font = ImageFont.load_default(size=max(11, 5 * line))
        for i in reversed(range(len(self))):
            box = self.boxes[i].tolist()
            colour = class_colour(int(self.labels[i]))
            draw.rectangle(box, outline=colour, width=line)
            text = f"{self.names[i]} {float(self.scores[i]):.2f}"
            background = _label_place(draw.textbbox((0, 0), text, font=font), box, image.size, line)
            draw.rectangle(background, fill=colour)
            draw.text((background[0] + line, background[1]), text, _text_colour(colour), font=font)
        return image

    def _repr_png_(self) -> bytes:
        """The drawn image, which notebooks show."""
        buffer = io.BytesIO()
        self.draw().save(buffer, "PNG")
        return buffer.getvalue()


def _label_place(
    text: tuple[float, float, float, float],
    box: Sequence[float],
    size: tuple[int, int],
    margin: int,
) -> tuple[float, float, float, float]:
    """Where a label's background goes: above the box's upper left corner, moved into the image.

    Args:
        text: xyxy of the text drawn at (0, 0).
        box: xyxy of the detection.
        size: (width, height) of the image.
        margin: around the text, in pixels.
    """
    width, height = text[2] + 2 * margin, text[3] + margin
    left = max(0.0, min(box[0], size[0] - 1 - width))
    top = max(0.0, min(box[1] - height, size[1] - 1 - height))
    return left, top, left + width, top + height


def _text_colour(background: Colour) -> str:
    """Black or white, whichever is easier to read (ITU-R BT.601 luma)."""
    red, green, blue = background
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 110 else "white"


def matches(
    one: Mapping[str, Tensor], other: Mapping[str, Tensor], iou: float = 0.99, score: float = 1e-3
) -> int:
    """The number of detections that two results for one image have in common, each counted once.

    Args:
        one, other: {"boxes": (n, 4), "scores": (n,), "labels": (n,)}, best first.
        iou: two boxes of a class match from this IoU on.
        score: the largest difference of matching scores.
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


def class_colour(label: int) -> Colour:
    """The colour in which a class is drawn; classes beyond the seventh share them."""
    return COLOURS[label % len(COLOURS)]


def class_names(labels: Tensor, classes: Sequence[str]) -> list[str]:
    """The name of each label."""
    return [classes[label] for label in labels.tolist()]
