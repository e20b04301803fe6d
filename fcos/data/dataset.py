"""A detection dataset in memory: image files, boxes and labels in flat arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from fcos.image_io import ImageError, read_image

if TYPE_CHECKING:  # datasets are checked and listed without torch
    from torch import Tensor

Target = dict[str, Any]
PILSample = tuple[Image.Image, Target]  # before tensors are made: boxes and labels are arrays


@dataclass(eq=False)
class DetectionDataset:
    """Images with boxes and classes; `dataset[i]` reads image i.

    The annotations are a few flat arrays, which forked loader processes share.

    Args:
        classes: class names by label.
        category_ids: the annotation file's category id of each label; detections go back to it.
        files: path of each image.
        image_ids: (n,) the annotation file's image ids.
        sizes: (n, 2) heights and widths in the annotations.
        boxes: (m, 4) xyxy in pixels, those of image 0 first.
        labels: (m,) class indices.
        ends: (n,) for each image, the number of boxes up to and including its own.
        counts: number of irregularities in the annotations, by kind.
        skip_unreadable: False raises an `ImageError` that names the file when an image is missing,
            unreadable, truncated or of another size than annotated; True takes the next readable
            image instead, and `skipped` in the target counts the files that were skipped.
    """

    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    files: list[str]
    image_ids: np.ndarray
    sizes: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    ends: np.ndarray
    counts: Counter[str] = field(default_factory=Counter)
    skip_unreadable: bool = False

    def __len__(self) -> int:
        return len(self.files)

    @property
    def portrait(self) -> np.ndarray:
        """(n,) bool: whether the image is at least as high as wide."""
        return self.sizes[:, 0] >= self.sizes[:, 1]

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        """Read an image.

        Returns:
            The image, (3, H, W) uint8 RGB, and its target: `boxes` (n, 4) float32 xyxy pixels,
            `labels` (n,) int64 from 0, `image_id`, `file_name` and `skipped`.
        """
        import torch

        image, target = self.open(index)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1), as_tensors(target)

    def open(self, index: int) -> PILSample:
        """Like `dataset[index]`, with a PIL image and arrays instead of tensors."""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of a dataset of {len(self)} images")
        for skipped in range(len(self)):
            candidate = (index + skipped) % len(self)
            height, width = self.sizes[candidate].tolist()
            try:
                image = read_image(self.files[candidate], (height, width))
            except ImageError:
                if not self.skip_unreadable:
                    raise
            else:
                return image, {**self.target(candidate), "skipped": skipped}
        raise ImageError(
            f"none of the {len(self)} images can be read; the first is {self.files[0]}"
        )

    def target(self, index: int) -> Target:
        """The annotations of an image, without reading the image; boxes and labels are arrays."""
        end = self.ends[index]
        start = self.ends[index - 1] if index else 0
        return {
            "boxes": self.boxes[start:end].copy(),
            "labels": self.labels[start:end].copy(),
            "image_id": int(self.image_ids[index]),
            "file_name": self.files[index],
        }


def as_tensors(target: Target) -> Target:
    """A target with its arrays converted to tensors."""
    import torch

    return {
        key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        for key, value in target.items()
    }


def concatenate(datasets: Sequence[DetectionDataset]) -> DetectionDataset:
    """Join datasets of the same classes, such as VOC 2007 and 2012."""
    first, *others = datasets
    for other in others:
        if (other.classes, other.category_ids) != (first.classes, first.category_ids):
            raise ValueError("datasets with different classes or category ids cannot be joined")
    offsets = np.cumsum([0] + [len(d.labels) for d in datasets[:-1]])
    return DetectionDataset(
        classes=first.classes,
        category_ids=first.category_ids,
        files=[file for d in datasets for file in d.files],
        image_ids=np.concatenate([d.image_ids for d in datasets]),
        sizes=np.concatenate([d.sizes for d in datasets]),
        boxes=np.concatenate([d.boxes for d in datasets]),
        labels=np.concatenate([d.labels for d in datasets]),
        ends=np.concatenate([d.ends + o for d, o in zip(datasets, offsets, strict=True)]),
        counts=sum((d.counts for d in datasets), Counter()),
        skip_unreadable=first.skip_unreadable,
    )
