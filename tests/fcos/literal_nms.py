"""Clipping and NMS box by box, which the tests of decoding and of augmentation compare with."""

from __future__ import annotations

from collections.abc import Sequence

Found = list[tuple[int, float, list[float]]]  # label, score, xyxy


def clipped(box: list[float], border: Sequence[float]) -> list[float]:
    """A box cut at 0 and at `border` (x, y)."""
    return [min(max(side, 0.0), border[axis % 2]) for axis, side in enumerate(box)]


def suppress(rows: Found, threshold: float, plus_one: bool, class_agnostic: bool) -> Found:
    """Greedy NMS of `rows`, which fall in score; the IoU of empty boxes is 0."""
    one = int(plus_one)

    def area(box: list[float]) -> float:
        return (box[2] - box[0] + one) * (box[3] - box[1] + one)

    def overlap(a: list[float], b: list[float]) -> float:
        width = min(a[2], b[2]) - max(a[0], b[0]) + one
        height = min(a[3], b[3]) - max(a[1], b[1]) + one
        shared = max(width, 0.0) * max(height, 0.0)
        union = area(a) + area(b) - shared
        return shared / union if union else 0.0

    kept: Found = []
    for label, score, box in rows:
        rivals = [other for rival, _, other in kept if class_agnostic or rival == label]
        if all(overlap(box, other) <= threshold for other in rivals):
            kept.append((label, score, box))
    return kept
