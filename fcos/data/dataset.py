"""Detection datasets in memory, read from annotations in COCO's format."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from fcos.data.annotations import Annotations, Note, category_names, load_annotations, valid_objects
from fcos.data.image_files import existing_images
from fcos.image_io import ImageError, image_size, image_sizes, read_image

if TYPE_CHECKING:  # datasets are checked and listed without torch
    from torch import Tensor

CLIP_TOLERANCE = 0.01  # pixels; boxes of official files exceed the image by rounding errors

Target = dict[str, Any]
PILSample = tuple[Image.Image, Target]  # boxes and labels are still arrays


@dataclass(eq=False)
class DetectionDataset:
    """Images with boxes and classes; `dataset[i]` reads image i.

    The annotations are a few flat arrays, which loader processes share after a fork.

    Args:
        classes: class names by label.
        category_ids: the annotation file's category id of each label, for results.
        files: the path of each image.
        image_ids: (n,) the annotation file's image ids.
        sizes: (n, 2) heights and widths in the annotations.
        boxes: (m, 4) xyxy in pixels, those of image 0 first.
        labels: (m,) class indices.
        ends: (n,) for each image, the number of boxes of all images up to and including this one.
        counts: the number of irregularities in the annotations, by kind.
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
        """Whether each image is at least as high as wide, (n,) bool."""
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
        """Return `dataset[index]` with a PIL image and arrays instead of tensors."""
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
        """Return the annotations of an image as arrays, without reading the image."""
        end = self.ends[index]
        start = self.ends[index - 1] if index else 0
        return {
            "boxes": self.boxes[start:end].copy(),
            "labels": self.labels[start:end].copy(),
            "image_id": int(self.image_ids[index]),
            "file_name": self.files[index],
        }


def as_tensors(target: Target) -> Target:
    """Convert the arrays of a target to tensors."""
    import torch

    return {
        key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        for key, value in target.items()
    }


class CocoDataset(DetectionDataset):
    """A dataset in COCO's annotation format, with the targets that training needs.

    Classes are the file's categories in the order of their ids. Boxes are clipped to the image.
    Crowd regions, boxes without area, malformed objects (`fcos.data.annotations.valid_objects`) and
    images without objects are left out, and counted in `counts`.

    Args:
        annotations: the annotation file, or its content.
        image_dir: the folder that its file names start from.
        keep_empty: keep images without objects; most published recipes leave them out.
        plus_one: boxes end on their last pixel (x + w - 1), the older convention of
            maskrcnn-benchmark, instead of after it.
        whole_pixels: truncate box coordinates to integers, as the centre-ness-free system does.
        skip_unreadable: see `DetectionDataset`; missing files are then left out at once.
        note: called with the kind and the place of every irregularity.

    Raises:
        ValueError: the file is not a COCO annotation file; the message names it.
        ImageError: images are missing, unless `skip_unreadable`.
    """

    def __init__(
        self,
        annotations: Annotations,
        image_dir: str | Path,
        *,
        keep_empty: bool = False,
        plus_one: bool = False,
        whole_pixels: bool = False,
        skip_unreadable: bool = False,
        note: Note | None = None,
    ) -> None:
        content = load_annotations(annotations)
        counts: Counter[str] = Counter()

        def count(kind: str, where: str) -> None:
            counts[kind] += 1
            if note is not None:
                note(kind, where)

        for kind, where in content["notes"]:
            count(kind, where)
        images = existing_images(content["images"], Path(image_dir), skip_unreadable, count)
        files = [image["file_name"] for image in images]
        sizes = image_dimensions(images, Path(image_dir), skip_unreadable, count)
        classes = category_names(content)
        row_of = {image["id"]: row for row, image in enumerate(images)}
        label_of = {category_id: label for label, category_id in enumerate(classes)}
        objects = [thing for thing in valid_objects(content, count) if thing["image_id"] in row_of]
        for crowd in (thing for thing in objects if thing["iscrowd"]):
            count("crowd left out", files[row_of[crowd["image_id"]]])
        objects = [thing for thing in objects if not thing["iscrowd"]]
        rows = np.array([row_of[thing["image_id"]] for thing in objects], dtype=np.int64)
        labels = np.array([label_of[thing["category_id"]] for thing in objects], dtype=np.int64)
        xywh = np.array([thing["bbox"] for thing in objects], dtype=np.float64).reshape(-1, 4)

        boxes, has_area, clipped = _clip(xywh, sizes[rows], plus_one, whole_pixels)
        for kind, mask in (("box clipped", clipped & has_area), ("box without area", ~has_area)):
            for row in rows[mask]:
                count(kind, files[row])
        rows, labels, boxes = rows[has_area], labels[has_area], boxes[has_area]

        order = np.argsort(rows, kind="stable")  # the objects of an image keep the file's order
        per_image = np.bincount(rows, minlength=len(images))
        for row in np.flatnonzero(per_image == 0):
            count("image without objects", files[row])
        chosen = np.flatnonzero((per_image > 0) | keep_empty)
        if len(chosen) == 0:
            found = ", ".join(f"{number:,} x {finding}" for finding, number in counts.items())
            raise ValueError(f"no image in {image_dir} has an object to train on: {found}")
        super().__init__(
            classes=tuple(classes.values()),
            category_ids=tuple(classes),
            files=[os.path.join(image_dir, files[row]) for row in chosen],
            image_ids=np.array([images[row]["id"] for row in chosen], dtype=np.int64),
            sizes=sizes[chosen],
            boxes=boxes[order],
            labels=labels[order],
            ends=np.cumsum(per_image[chosen]),
            counts=counts,
            skip_unreadable=skip_unreadable,
        )


def image_dimensions(
    images: Sequence[Mapping[str, Any]], root: Path, skip_unreadable: bool, note: Note
) -> np.ndarray:
    """Return heights and widths (n, 2), which are read from the images if annotations have none.

    An image that cannot be read gets a size of 1x1 if it is to be skipped.
    """
    sizes = np.array([(image["height"], image["width"]) for image in images], dtype=np.int64)
    unknown = np.flatnonzero((sizes == 0).any(axis=1)).tolist()
    paths = [root / images[row]["file_name"] for row in unknown]
    for row, path, size in zip(unknown, paths, image_sizes(paths), strict=True):
        if 0 not in size:
            note("size read from the image", images[row]["file_name"])
        elif not skip_unreadable:
            image_size(path)  # raises an error with the reason
        sizes[row] = np.maximum(size, 1)
    return sizes


def _clip(
    xywh: np.ndarray, sizes: np.ndarray, plus_one: bool, whole_pixels: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clip boxes to their images.

    Returns:
        The boxes, (n, 4) float32 xyxy; (n,) whether each has an area; (n,) whether it was clipped.
    """
    last = 1 if plus_one else 0
    corners = np.concatenate([xywh[:, :2], xywh[:, :2] + np.maximum(xywh[:, 2:] - last, 0)], axis=1)
    if whole_pixels:
        corners = np.trunc(corners)
    limits = np.tile(sizes[:, ::-1] - last, 2)
    boxes = np.clip(corners, 0, limits).astype(np.float32)
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    clipped = (np.abs(boxes - corners) > CLIP_TOLERANCE).any(axis=1)
    return boxes, has_area, clipped


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
