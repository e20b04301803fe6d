"""The chunked assigner against the paper's rule, spelled out location by location."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.training_memory import MemoryTracker
from fcos import TargetAssigner, targets
from fcos.boxes import level_points

STRIDES = (4, 8)
SIZE_RANGES = [(-1.0, 12.0), (12.0, 1000.0)]
POINTS = [
    level_points((12 // s * 4, 16 // s * 4), (s, s), 0.5, torch.device("cpu")) for s in STRIDES
]


def assign_one_by_one(
    boxes: list[list[float]],
    *,
    inclusive_range: bool,
    radius: float | None,
    region: str,
    plus_one_area: bool,
) -> list[int]:
    """The index of each location's box, -1 for none."""
    chosen = []
    for points, stride, (low, high) in zip(POINTS, STRIDES, SIZE_RANGES, strict=True):
        for x, y in points.tolist():
            best, best_area = -1, float("inf")
            for index, (x1, y1, x2, y2) in enumerate(boxes):
                ltrb = (x - x1, y - y1, x2 - x, y2 - y)
                if min(ltrb) <= 0:
                    continue
                if inclusive_range and not low <= max(ltrb) <= high:
                    continue
                if not inclusive_range and not low < max(ltrb) < high:
                    continue
                if radius is not None:
                    dx, dy = x - (x1 + x2) / 2, y - (y1 + y2) / 2
                    square = max(abs(dx), abs(dy))
                    away = square if region == "square" else (dx * dx + dy * dy) ** 0.5
                    if away >= radius * stride:
                        continue
                extra = 1 if plus_one_area else 0
                area = (x2 - x1 + extra) * (y2 - y1 + extra)
                if area < best_area:
                    best, best_area = index, area
            chosen.append(best)
    return chosen


def assign(boxes: list[list[float]], options: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Labels are the boxes' indices."""
    assigner = TargetAssigner(SIZE_RANGES, **options)
    found = torch.tensor(boxes).reshape(-1, 4)
    targets = assigner(POINTS, STRIDES, found, torch.arange(len(boxes)))
    return targets.labels, targets.ltrb


@st.composite
def crowds(draw: st.DrawFn) -> list[list[float]]:
    """Up to 40 boxes on a half-pixel grid: ties, overlaps and sides on range ends are common."""
    sides = st.integers(1, 60)
    boxes = []
    for _ in range(draw(st.integers(0, 40))):
        x1, y1 = draw(st.integers(-10, 70)), draw(st.integers(-10, 50))
        boxes.append([x1 / 2, y1 / 2, (x1 + draw(sides)) / 2, (y1 + draw(sides)) / 2])
    return boxes


rules = st.fixed_dictionaries(
    {
        "inclusive_range": st.booleans(),
        "radius": st.sampled_from([None, 0.5, 1.5]),
        "region": st.sampled_from(["square", "disc"]),
        "plus_one_area": st.booleans(),
    }
)


@given(crowds(), rules)
def test_the_assigner_is_the_direct_formula(
    boxes: list[list[float]], options: dict[str, Any]
) -> None:
    labels, ltrb = assign(boxes, options)
    assert labels.tolist() == assign_one_by_one(boxes, **options)
    points = torch.cat(POINTS)
    for location in (labels >= 0).nonzero().flatten().tolist():
        x, y = points[location].tolist()
        x1, y1, x2, y2 = boxes[int(labels[location])]
        assert ltrb[location].tolist() == [x - x1, y - y1, x2 - x, y2 - y]


def test_images_without_boxes_are_all_background() -> None:
    labels, ltrb = assign([], {})
    assert labels.shape == (sum(map(len, POINTS)),)
    assert labels.dtype == torch.int64
    assert set(labels.tolist()) == {-1}
    assert ltrb.shape == (len(labels), 4)


WIDE, SQUARE = [2.0, 4.0, 18.0, 8.0], [6.0, 2.0, 14.0, 10.0]
CORNER = [0.0, -4.0, 10.1, 6.1]  # its centre is 4.95 pixels away from the point on both axes


@pytest.mark.parametrize(
    ("boxes", "options", "expected"),
    [
        # The smallest wins, and of equals the first; areas in the old convention prefer squares.
        ([[0, 0, 22, 22], [5, 1, 15, 11], [5, 1, 15, 11]], {}, [1, 0]),
        ([WIDE, SQUARE], {}, [0, -1]),
        ([WIDE, SQUARE], {"plus_one_area": True}, [1, -1]),
        # A distance on the border of two ranges belongs to both or to none.
        ([[-2, 0, 20, 12]], {"inclusive_range": True}, [0, 0]),
        ([[-2, 0, 20, 12]], {"inclusive_range": False}, [-1, -1]),
        # A disc cuts the corners of the square.
        ([CORNER], {"radius": 1.5, "region": "square"}, [0, -1]),
        ([CORNER], {"radius": 1.5, "region": "disc"}, [-1, -1]),
    ],
)
def test_the_target_of_one_point_on_each_level(
    boxes: list[list[float]], options: dict[str, Any], expected: list[int]
) -> None:
    point = torch.tensor([[10.0, 6.0]])
    assigner = TargetAssigner(SIZE_RANGES, **options)
    found = assigner([point, point], STRIDES, torch.tensor(boxes), torch.arange(len(boxes)))
    assert found.labels.tolist() == expected


def test_ranges_and_levels_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="2 pyramid levels but 1 size ranges"):
        TargetAssigner([(-1, 64)])(POINTS, STRIDES, torch.zeros(0, 4), torch.zeros(0).long())


def test_assigning_many_boxes_takes_little_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    strides = (8, 16, 32, 64, 128)
    ranges = [(-1.0, 64.0), (64.0, 128.0), (128.0, 256.0), (256.0, 512.0), (512.0, 1e8)]
    points = [
        level_points((-(-800 // s), -(-1344 // s)), (s, s), 0.5, torch.device("cpu"))
        for s in strides
    ]
    generator = torch.Generator().manual_seed(0)
    centre = torch.rand(1000, 2, generator=generator) * torch.tensor([800, 1344])
    side = 8 * 50 ** torch.rand(1000, 2, generator=generator)
    boxes = torch.cat((centre - side / 2, centre + side / 2), dim=1)
    labels = torch.arange(1000) % 80
    assigner = TargetAssigner(ranges, radius=1.5)
    with MemoryTracker() as memory:
        chunked = assigner(points, strides, boxes, labels)
    assert memory.peak < 60 * 2**20  # all pairs of locations and boxes would take 340 MB a float
    monkeypatch.setattr(targets, "CHUNK", 250)
    other = assigner(points, strides, boxes, labels)
    positive = chunked.labels >= 0
    assert positive.any()
    assert torch.equal(chunked.labels, other.labels)
    assert torch.equal(chunked.ltrb[positive], other.ltrb[positive])
