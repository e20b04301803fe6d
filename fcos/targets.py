"""Assignment of ground-truth boxes to locations (arXiv:1904.01355, sections 3.1 and 3.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from backbones.ranges import Positive
from fcos.boxes import box_area, boxes_to_ltrb
from fcos.checked import checked

# Boxes are matched this many at a time, so that memory does not grow with their number.
CHUNK = 32


class Targets(NamedTuple):
    """Targets of the L locations of one image: `labels` (L,) int64, -1 for background; `ltrb` (L,
    4) distances in pixels, which only matter at locations with a label."""

    labels: Tensor
    ltrb: Tensor


@checked
class TargetAssigner:
    """Assign ground-truth boxes to locations.

    A location is positive for a box when it lies strictly inside, its largest distance to a side
    is within its level's size range, and, with centre sampling, it is near the box's centre. If
    several boxes qualify, the smallest wins, or the first of equal ones.

    Args:
        size_ranges: (low, high) in pixels for each level.
        inclusive_range: whether the ends of a range belong to it.
        radius: radius of centre sampling in strides, or None to sample the whole box.
        region: shape of the sampled centre: a "square" with half of its side `radius`, clipped to
            the box, or a "disc".
        plus_one_area: compute areas in the old convention, which counts both border pixels.
    """

    def __init__(
        self,
        size_ranges: Sequence[tuple[float, float]],
        *,
        inclusive_range: bool = True,
        radius: Positive | None = None,
        region: Literal["square", "disc"] = "square",
        plus_one_area: bool = False,
    ) -> None:
        self.size_ranges = [(float(low), float(high)) for low, high in size_ranges]
        for low, high in self.size_ranges:
            if low >= high:
                raise ValueError(f"size_ranges: nothing lies between {low:g} and {high:g}")
        self.inclusive_range = inclusive_range
        self.radius = radius
        self.region = region
        self.plus_one_area = plus_one_area

    def __call__(
        self, points: Sequence[Tensor], strides: Sequence[int], boxes: Tensor, labels: Tensor
    ) -> Targets:
        """Return the targets of one image.

        Args:
            points: (L_i, 2) image points of each level.
            strides: stride of each level in pixels.
            boxes: (n, 4) xyxy; n may be 0.
            labels: (n,) classes from 0.
        """
        if len(points) != len(self.size_ranges):
            raise ValueError(
                f"{len(points)} pyramid levels but {len(self.size_ranges)} size ranges: "
                "give one (low, high) per level"
            )
        counts = [len(p) for p in points]
        location = torch.cat(list(points))

        def per_location(values: Sequence[float]) -> Tensor:
            return torch.cat(
                [location.new_full((n, 1), v) for n, v in zip(counts, values, strict=True)]
            )

        low = per_location([low for low, _ in self.size_ranges])
        high = per_location([high for _, high in self.size_ranges])
        reach = per_location([(self.radius or 0) * stride for stride in strides])
        # Sorted by area, the first match is the winner, and no running minimum is needed.
        order = box_area(boxes, self.plus_one_area).argsort(stable=True)
        match = location.new_full((len(location),), -1, dtype=torch.long)
        if len(boxes) == 0:
            return Targets(match, location.new_zeros((len(location), 4)))
        for chunk in order.split(CHUNK):
            hit = self._positive(location, boxes[chunk], low, high, reach)
            first = hit.to(torch.uint8).argmax(dim=1)
            match = torch.where((match < 0) & hit.any(dim=1), chunk[first], match)
        box = match.clamp(min=0)
        return Targets(
            torch.where(match >= 0, labels[box], -1), boxes_to_ltrb(location, boxes[box])
        )

    def _positive(
        self, location: Tensor, boxes: Tensor, low: Tensor, high: Tensor, reach: Tensor
    ) -> Tensor:
        """Return (L, n): whether each of (L, 2) locations may learn each of (n, 4) boxes."""
        ltrb = boxes_to_ltrb(location[:, None], boxes[None])
        inside = ltrb.amin(-1) > 0
        extent = ltrb.amax(-1)
        if self.inclusive_range:
            in_range = (extent >= low) & (extent <= high)
        else:
            in_range = (extent > low) & (extent < high)
        positive = inside & in_range
        if self.radius is None:
            return positive
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        away = location[:, None] - centre[None]
        if self.region == "disc":
            return positive & (away.square().sum(-1) < reach.square())
        return positive & (away.abs().amax(-1) < reach)


def check_targets(targets: Sequence[dict[str, Tensor]], images: int, num_classes: int) -> None:
    """Refuse malformed ground truth, naming the image and what is wrong with it."""
    if len(targets) != images:
        raise ValueError(f"{len(targets)} targets for {images} images: give one per image")
    for index, target in enumerate(targets):
        if not isinstance(target, Mapping):
            raise TypeError(
                f"target {index} is a {type(target).__name__}; "
                "expected {'boxes': (n, 4), 'labels': (n,)}"
            )
        missing = {"boxes", "labels"} - set(target)
        if missing:
            raise ValueError(f"target {index} lacks {' and '.join(sorted(missing))}")
        boxes, labels = target["boxes"], target["labels"]
        if not (isinstance(boxes, Tensor) and isinstance(labels, Tensor)):
            raise TypeError(f"boxes and labels of target {index} must be tensors")
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ValueError(
                f"boxes of target {index} have shape {tuple(boxes.shape)}; expected (n, 4) xyxy"
            )
        if labels.shape != boxes.shape[:1]:
            raise ValueError(
                f"target {index} has {len(boxes)} boxes but labels of shape {tuple(labels.shape)}"
            )
        if labels.dtype != torch.int64:
            raise TypeError(f"labels of target {index} are {labels.dtype}; expected int64")
        if len(boxes) == 0:
            continue
        if not bool(torch.isfinite(boxes).all()):
            raise ValueError(f"boxes of target {index} hold NaN or infinity")
        flat = (boxes[:, 2:] <= boxes[:, :2]).any(dim=1).nonzero()[:, 0].tolist()
        if flat:
            raise ValueError(
                f"box {flat[0]} of target {index} has no area: {boxes[flat[0]].tolist()} "
                "(expected x1 < x2 and y1 < y2)"
            )
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= num_classes:
            raise ValueError(
                f"labels of target {index} run from {low} to {high}; "
                f"this detector has classes 0 to {num_classes - 1}"
            )
