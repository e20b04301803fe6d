"""Points, distances and boxes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fcos.boxes import box_area, boxes_to_ltrb, centerness, level_points, ltrb_to_boxes

CPU = torch.device("cpu")
whole_pixels = st.integers(-2000, 2000)
distances = st.floats(0.125, 2000, width=32)


@given(st.tuples(*[whole_pixels] * 2), st.tuples(*[whole_pixels] * 4))
def test_distances_and_boxes_are_two_forms_of_one_thing(
    point: tuple[int, ...], box: tuple[int, ...]
) -> None:
    points, boxes = torch.tensor([point]).float(), torch.tensor([box]).float()
    assert torch.equal(ltrb_to_boxes(points, boxes_to_ltrb(points, boxes)), boxes)


@given(st.lists(st.tuples(*[distances] * 4), min_size=1, max_size=5))
def test_centerness_lies_between_0_and_1(ltrb: list[tuple[float, ...]]) -> None:
    values = centerness(torch.tensor(ltrb))
    assert bool(((values > 0) & (values <= 1)).all())


@pytest.mark.parametrize(
    ("ltrb", "expected"),
    [((5, 5, 5, 5), 1.0), ((1, 2, 4, 2), 0.5), ((1, 1, 4, 4), 0.25), ((4, 1, 1, 4), 0.25)],
)
def test_centerness_is_the_papers_equation_3(ltrb: tuple[int, ...], expected: float) -> None:
    assert float(centerness(torch.tensor(ltrb).float())) == pytest.approx(expected)


def test_the_old_convention_counts_both_border_pixels() -> None:
    box = torch.tensor([[2.0, 3.0, 5.0, 5.0]])
    assert box_area(box).tolist() == [6]
    assert box_area(box, plus_one=True).tolist() == [12]


@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        (0.5, [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12]]),
        (0.0, [[0, 0], [8, 0], [16, 0], [0, 8], [8, 8], [16, 8]]),
    ],
)
def test_points_run_row_by_row_as_x_y(offset: float, expected: list[list[int]]) -> None:
    points: Tensor = level_points((2, 3), (8, 8), offset, CPU)
    assert points.tolist() == expected


def test_points_of_odd_spacing_are_whole_pixels() -> None:
    assert level_points((1, 2), (7, 9), 0.5, CPU).tolist() == [[4, 3], [13, 3]]
