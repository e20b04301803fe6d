"""Detecting small objects in large images: overlapping tiles, whose detections are merged once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import box_area, nms

from fcos.boxes import Size
from fcos.detections import Detections
from fcos.detector import Detector
from fcos.images import ImageSource, load_image
from fcos.tta import Augmentation

OVERLAP = 0.2  # least overlap of neighbouring tiles, as a fraction of a tile's side
CUT_MARGIN = 0.01  # fraction of a tile's side: a box this near to an inner edge is cut off there
COVERED = 0.5  # a cut box is dropped if a whole box covers a larger fraction of it


def detect_sliced(
    detector: Detector,
    image: ImageSource,
    size: int,
    score_threshold: float = 0.0,
    batch_size: int = 1,
    tta: Sequence[Augmentation] = (),
) -> Detections:
    """Detect in an image and in overlapping tiles of it, and merge what they find.

    `supervision.InferenceSlicer` merges by NMS only. The halves of an object that a tile's edge
    cuts overlap the whole object too little for that and stay beside it. Here, a cut box is dropped
    if an uncut box of the same class covers most of it, and the rest goes through the detector's
    own NMS. The detector also runs on the whole image, for objects larger than a tile.

    Args:
        image: an image of any kind, see `images.load_image`.
        size: side of a tile in pixels. An image that is no larger has no tiles.
        score_threshold, batch_size, tta: see `Detector.detect`.

    Returns:
        Detections in pixels of the image, best first. There may be more than the detector's limit,
        which holds for each tile.

    Raises:
        ValueError: the size is not positive.
    """
    image, tta = load_image(image), tuple(tta)
    whole = detector.detect(image, score_threshold, tta=tta)[0]
    corners = tile_corners((image.shape[-2], image.shape[-1]), size)
    if len(corners) == 1:
        return whole
    tiles = (image[:, y : y + size, x : x + size] for y, x in corners)
    found = detector.detect(tiles, score_threshold, batch_size, tta)
    parts, cut = [whole], [torch.zeros(len(whole), dtype=torch.bool, device="cpu")]
    for corner, tile in zip(corners, found, strict=True):
        shift = tile.boxes.new_tensor(corner).flip(0).repeat(2)
        parts.append(Detections(tile.boxes + shift, tile.scores, tile.labels, tile.names, image))
        cut.append(_is_cut(parts[-1], corner, size).cpu())
    together = Detections(
        torch.cat([part.boxes for part in parts]),
        torch.cat([part.scores for part in parts]),
        torch.cat([part.labels for part in parts]),
        [name for part in parts for name in part.names],
        image,
    )
    return merge(detector, together, torch.cat(cut).to(together.boxes.device))


def tile_corners(image: Size, size: int) -> list[tuple[int, int]]:
    """Return the (y, x) corners of evenly spaced tiles that cover an image of (height, width)."""
    if size < 1:
        raise ValueError(f"a tile must have at least one pixel, not {size}")
    step = max(1, int(size * (1 - OVERLAP)))

    def starts(side: int) -> list[int]:
        count = 1 + -(-max(0, side - size) // step)
        return [(side - size) * i // max(1, count - 1) for i in range(count)] if count > 1 else [0]

    return [(y, x) for y in starts(image[0]) for x in starts(image[1])]


def merge(detector: Detector, found: Detections, cut: Tensor) -> Detections:
    """Keep the best of overlapping detections, and whole ones rather than `cut` ones (n,)."""
    boxes = detector.decoder.separate_classes(found.boxes, found.labels)
    covered = torch.zeros_like(cut)
    if cut.any() and not cut.all():
        covered[cut] = _covered_part(boxes[cut], boxes[~cut]) > COVERED
    remaining = (~covered).nonzero().flatten()
    scores = found.scores[remaining].double()
    return found[remaining[nms(boxes[remaining], scores, detector.decoder.nms_threshold)]]


def _is_cut(found: Detections, corner: tuple[int, int], size: int) -> Tensor:
    """Return (n,): whether a box ends at an edge of its tile that is not an edge of the image."""
    height, width = found.image.shape[-2:]
    top, left = corner
    bottom, right, margin = top + size, left + size, CUT_MARGIN * size
    x1, y1, x2, y2 = found.boxes.unbind(1)
    at_left, at_right = x1 < left + margin, x2 > right - margin
    at_top, at_bottom = y1 < top + margin, y2 > bottom - margin
    inner = (left > 0, top > 0, right < width, bottom < height)
    ends = torch.stack((at_left, at_top, at_right, at_bottom), dim=1)
    return (ends & ends.new_tensor(inner)).any(dim=1)


def _covered_part(boxes: Tensor, others: Tensor) -> Tensor:
    """Return (n,): the largest part of each box (n, 4) that one of the others (m, 4) covers."""
    corner = torch.maximum(boxes[:, None, :2], others[None, :, :2])
    opposite = torch.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = (opposite - corner).clamp(min=0).prod(dim=-1)
    return shared.amax(dim=1) / box_area(boxes).clamp(min=1e-9)
