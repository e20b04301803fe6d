"""Multi-scale testing: several looks at a picture, whose candidates go through one NMS.

What the original FCOS calls `TEST.BBOX_AUG` (engine/bbox_aug.py), and its published 49.0 % AP is
measured with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fcos.boxes import Size
from fcos.decode import Candidates


@dataclass(frozen=True)
class View:
    """A look at a picture.

    Args:
        scale: of the entry's test-time size.
        limit: of its longest side at test time.
        mirrored: left is right.
    """

    scale: float = 1.0
    limit: float = 1.0
    mirrored: bool = False


# For 800/1333 these are the published 400 to 1200 pixels, 2000 at most, as they are and mirrored.
MULTI_SCALE = (
    View(mirrored=True),
    *(
        View(scale, limit=1.5, mirrored=mirrored)
        for scale in (0.5, 0.625, 0.75, 0.875, 1.125, 1.25, 1.375, 1.5)
        for mirrored in (False, True)
    ),
)


def mirror(candidates: Candidates, sizes: Sequence[Size], plus_one: bool) -> Candidates:
    """Candidates in mirrored images of these sizes, as they lie in the images themselves."""
    x1, y1, x2, y2 = candidates.boxes.unbind(-1)
    width = x1.new_tensor([width - int(plus_one) for _, width in sizes])[:, None]
    return candidates._replace(boxes=torch.stack((width - x2, y1, width - x1, y2), dim=-1))


def rescale(candidates: Candidates, factors: Sequence[tuple[float, float]]) -> Candidates:
    """Candidates with the boxes of each image times its factors (y, x)."""
    scale = candidates.boxes.new_tensor(factors).flip(-1).repeat(1, 2)
    return candidates._replace(boxes=candidates.boxes * scale[:, None])


def join(views: Sequence[Candidates]) -> Candidates:
    """The candidates of all views of each image."""
    return Candidates(*(torch.cat(parts, dim=1) for parts in zip(*views, strict=True)))
