"""The detections in one image, and conversions of them for other tools."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import box_iou
from torchvision.transforms.functional import to_pil_image

from fcos.drawing import draw_boxes
from fcos.images import check_options
from fcos.text import printable

if TYPE_CHECKING:
    import pandas as pd

JPEG_LIMIT = 65535  # pixels per side


@dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """The objects found in one image, best first.

    `d[i]`, `d[:10]` and `d[d.scores > 0.5]` are `Detections` again, and so is each item of a loop.

    Args:
        boxes: (n, 4) xyxy float32, in pixels of the original image.
        scores: (n,).
        labels: (n,) class indices from 0.
        names: the n class names.
        image: (3, H, W), RGB; of `detect`, a copy of what was given.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    names: list[str]
    image: Tensor

    @staticmethod
    def of(
        result: Mapping[str, Tensor], image: Tensor, classes: Sequence[str], threshold: float
    ) -> Detections:
        """Convert a result: best first, with class names, without scores below the threshold."""
        n = int((result["scores"] >= threshold).sum())
        # Copies, as tensors of inference mode cannot be changed in place.
        boxes, scores, labels = (result[key][:n].clone() for key in ("boxes", "scores", "labels"))
        return Detections(boxes, scores, labels, [classes[i] for i in labels.tolist()], image)

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: int | slice | Sequence[Any] | np.ndarray | Tensor) -> Detections:
        """Select detections by an index, a slice, a list of indices, or a mask of n booleans."""
        index = index.cpu() if isinstance(index, Tensor) else index
        chosen = torch.arange(len(self), device="cpu")[index].reshape(-1)
        names = [self.names[i] for i in chosen.tolist()]
        on_device = chosen.to(self.boxes.device)
        boxes, scores, labels = (x[on_device] for x in (self.boxes, self.scores, self.labels))
        return Detections(boxes, scores, labels, names, self.image)

    def __iter__(self) -> Iterator[Detections]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        names = map(printable, self.names[:3])
        best = [f"{n} {s:.2f}" for n, s in zip(names, self.scores.tolist(), strict=False)]
        found = ", ".join([*best, "..."] if len(self) > len(best) else best)
        height, width = self.image.shape[-2:]
        return f"Detections({len(self)} in {width}x{height} pixels{': ' if found else ''}{found})"

    def filter(
        self, classes: str | Iterable[str] | None = None, score_threshold: float = 0.0
    ) -> Detections:
        """Return the detections of some classes, by name, and of at least a score from 0 to 1.

        `detections.filter(["person", "car"], 0.5)`
        """
        check_options(score_threshold)
        wanted = (
            {classes}
            if isinstance(classes, str)
            else set(self.names if classes is None else classes)
        )
        if others := [name for name in wanted if not isinstance(name, str)]:
            raise TypeError(f"filter takes the names of classes, not {others[0]!r}")
        named = self.scores.new_tensor([name in wanted for name in self.names], dtype=torch.bool)
        return self[named & (self.scores >= score_threshold)]

    def to_dict(self) -> dict[str, list[Any]]:
        """Return {"boxes", "scores", "labels", "names"} as plain lists, ready for JSON."""
        return {
            "boxes": self.boxes.tolist(),
            "scores": self.scores.tolist(),
            "labels": self.labels.tolist(),
            "names": list(self.names),
        }

    def to_json(self) -> str:
        """Return `to_dict` as JSON text."""
        return json.dumps(self.to_dict())

    def to_pandas(self) -> pd.DataFrame:
        """Return a row per detection: x1, y1, x2, y2, score, label and name."""
        import pandas as pd

        frame = pd.DataFrame(self.boxes.cpu().numpy(), columns=["x1", "y1", "x2", "y2"])
        scores, labels = self.scores.cpu().numpy(), self.labels.cpu().numpy()
        return frame.assign(score=scores, label=labels, name=self.names)

    def to_coco(
        self, image_id: int | str = 1, category_ids: Sequence[int] | None = None
    ) -> list[dict[str, Any]]:
        """Return results in COCO's format, each with its class name as "category".

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
        """Convert to `supervision.Detections`, for its annotators, trackers and zones.

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

    def draw(self, width: int | None = None, font_file: str | None = None) -> Image.Image:
        """Return the image with its boxes, class names and scores, the best on top.

        Args:
            width: line width in pixels; by default it depends on the size of the image.
            font_file: a font for scripts that DejaVu Sans lacks; see `drawing.draw_boxes`.
        """
        pixels = self.image if self.image.dtype == torch.uint8 else self.image.float()
        image: Image.Image = to_pil_image(pixels.cpu()).convert("RGB")
        scores = self.scores.tolist()
        texts = [f"{name} {score:.2f}" for name, score in zip(self.names, scores, strict=True)]
        draw_boxes(image, self.boxes, self.labels, texts, width, font_file)
        return image

    def save(self, path: str | Path, font_file: str | None = None) -> Path:
        """Write the drawn image in the format that the path's suffix names.

        Returns:
            The file written, a PNG instead of a JPEG where a side is longer than a JPEG's can be.
        """
        path = Path(path)
        if path.suffix.lower() in (".jpg", ".jpeg") and max(self.image.shape) > JPEG_LIMIT:
            path = path.with_suffix(".png")
        self.draw(font_file=font_file).save(path, quality=92)
        return path

    def _repr_png_(self) -> bytes:
        """Return the drawn image, which notebooks show."""
        buffer = io.BytesIO()
        self.draw().save(buffer, "PNG")
        return buffer.getvalue()


def matches(
    one: Mapping[str, Tensor], other: Mapping[str, Tensor], iou: float = 0.99, score: float = 1e-3
) -> int:
    """Return the number of detections that two results for one image have in common.

    Args:
        one, other: {"boxes": (n, 4), "scores": (n,), "labels": (n,)}, best first.
        iou: the lowest IoU of boxes that match.
        score: the largest difference of scores that match.
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
