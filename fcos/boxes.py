"""Geometry that targets, losses and decoding share: points, distances and overlaps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Size = tuple[int, int]  # height, width


def level_points(size: Size, spacing: Size, offset: float, device: torch.device) -> Tensor:
    """Return the image points (h * w, 2) of a level's (h, w) cells as (x, y) pixels, row by row.

    Args:
        size: of the level in cells.
        spacing: (y, x) pixels between the points of neighbouring cells.
        offset: position of a point within its cell: 0.5 of the spacing, rounded down to whole
            pixels, for the published FCOS, 0 for the centre-ness-free system and torchvision.
    """
    height, width = size
    ys = torch.arange(height, device=device, dtype=torch.float32) * spacing[0]
    xs = torch.arange(width, device=device, dtype=torch.float32) * spacing[1]
    ys, xs = ys + int(spacing[0] * offset), xs + int(spacing[1] * offset)
    return torch.stack(
        (xs.expand(height, width), ys[:, None].expand(height, width)), dim=-1
    ).flatten(0, 1)


def inside(points: Tensor, boxes: Sequence[tuple[float, float, float, float]]) -> Tensor:
    """Return (n, L): whether points (L, 2) lie in each of n xyxy boxes, borders included."""
    x, y = points.unbind(1)
    return torch.stack([(x >= x1) & (x <= x2) & (y >= y1) & (y <= y2) for x1, y1, x2, y2 in boxes])


def ltrb_to_boxes(points: Tensor, ltrb: Tensor) -> Tensor:
    """Convert points (..., 2) and distances (..., 4) to xyxy boxes (..., 4)."""
    return torch.cat((points - ltrb[..., :2], points + ltrb[..., 2:]), dim=-1)


def boxes_to_ltrb(points: Tensor, boxes: Tensor) -> Tensor:
    """Return signed distances (..., 4) of points (..., 2) to the sides of xyxy boxes (..., 4)."""
    return torch.cat((points - boxes[..., :2], boxes[..., 2:] - points), dim=-1)


def box_area(boxes: Tensor, plus_one: bool = False) -> Tensor:
    """Return areas (...) of xyxy boxes (..., 4); `plus_one` counts the pixels of both borders."""
    extent = boxes[..., 2:] - boxes[..., :2] + int(plus_one)
    return extent[..., 0] * extent[..., 1]


def centerness(ltrb: Tensor) -> Tensor:
    """Return the centre-ness (...) of positive distances (..., 4) (arXiv:1904.01355, eq. 3)."""
    horizontal, vertical = ltrb[..., 0::2], ltrb[..., 1::2]
    ratio = (horizontal.amin(-1) / horizontal.amax(-1)) * (vertical.amin(-1) / vertical.amax(-1))
    return ratio.sqrt()
