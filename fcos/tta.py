"""Test-time augmentation: the candidates of resized and flipped copies of an image share one NMS.

This is `TEST.BBOX_AUG` of the original FCOS (engine/bbox_aug.py), the setting of its published
49.0 AP.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from backbones.ranges import Positive
from fcos.boxes import Size
from fcos.checked import checked
from fcos.postprocess import Candidates


@checked
@dataclass(frozen=True)
class Augmentation:
    """A copy of the image that the detector also runs on.

    Args:
        scale: size of the copy relative to the model's test-time size.
        limit: factor on the longest side that the test-time resize allows.
        flip: flip the copy horizontally.
    """

    scale: Positive = 1.0
    limit: Positive = 1.0
    flip: bool = False


# For a test-time size of 800/1333 these are the published 400 to 1200 pixels, at most 2000 on the
# longer side, each with and without flipping.
TTA_MULTI_SCALE = (
    Augmentation(flip=True),
    *(
        Augmentation(scale, limit=1.5, flip=flip)
        for scale in (0.5, 0.625, 0.75, 0.875, 1.125, 1.25, 1.375, 1.5)
        for flip in (False, True)
    ),
)


def flip_boxes(candidates: Candidates, sizes: Sequence[Size], plus_one: bool) -> Candidates:
    """Move candidates found in flipped images of these (height, width) to the original images."""
    x1, y1, x2, y2 = candidates.boxes.unbind(-1)
    width = x1.new_tensor([width - int(plus_one) for _, width in sizes])[:, None]
    return candidates._replace(boxes=torch.stack((width - x2, y1, width - x1, y2), dim=-1))
