"""Test-time sizes: what the published pipelines print, and what no image may break."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcos import LongestSide, ShortestSide
from fcos.boxes import Size

# (height, width) of images of COCO val2017, and what the published code resized them to.
DETECTRON2 = [
    ((640, 427), (1199, 800)),
    ((480, 640), (800, 1067)),
    ((500, 333), (1201, 800)),
    ((428, 640), (800, 1196)),
    ((426, 640), (800, 1202)),
    ((640, 634), (808, 800)),
]
DETECTRON2_REAL_TIME = [
    ((334, 500), (492, 736)),
    ((230, 352), (481, 736)),
    ((426, 640), (490, 736)),
    ((480, 640), (512, 683)),
]
MASKRCNN_BENCHMARK = [
    ((640, 424), (1207, 800)),
    ((426, 640), (800, 1201)),
    ((480, 640), (800, 1066)),
    ((334, 500), (800, 1197)),
    ((230, 352), (800, 1224)),
    ((427, 640), (800, 1199)),
    ((640, 457), (1120, 800)),
    ((400, 500), (800, 1000)),
    ((500, 375), (1066, 800)),
]
sides = st.integers(1, 6000)


PUBLISHED = [
    (ShortestSide(800, 1333, "nearest"), DETECTRON2),
    (ShortestSide(512, 736, "nearest"), DETECTRON2_REAL_TIME),
    (ShortestSide(800, 1333, "truncate"), MASKRCNN_BENCHMARK),
]


@pytest.mark.parametrize(("rule", "sizes"), PUBLISHED)
def test_sizes_are_rounded_as_published(rule: ShortestSide, sizes: list[tuple[Size, Size]]) -> None:
    assert [rule(*original) for original, _ in sizes] == [resized for _, resized in sizes]
    assert rule.back((427, 640), (800, 1199)) == (427 / 800, 640 / 1199)


def test_the_centerness_free_system_fixes_the_longer_side() -> None:
    rule = LongestSide(1025)
    assert rule(358, 640) == (573, 1025)
    assert rule(640, 358) == (1025, 573)
    assert rule.back((358, 640), (573, 1025)) == (640 / 1025, 640 / 1025)


RULES = [
    ShortestSide(),
    ShortestSide(rounding="truncate"),
    ShortestSide(rounding="floor"),
    LongestSide(),
]


@given(sides, sides, st.sampled_from(RULES))
def test_no_side_vanishes(height: int, width: int, rule: ShortestSide | LongestSide) -> None:
    assert min(rule(height, width)) >= 1
    assert min(rule(1, 3000 + width)) == 1


@given(sides, sides, st.sampled_from(["nearest", "floor"]))
def test_the_longer_side_keeps_its_limit(height: int, width: int, rounding: str) -> None:
    assert max(ShortestSide(800, 1333, rounding)(height, width)) <= 1333
    assert max(LongestSide(1025)(height, width)) == 1025


@given(sides, sides, st.sampled_from(RULES))
def test_turning_an_image_turns_its_size(
    height: int, width: int, rule: ShortestSide | LongestSide
) -> None:
    assert rule(width, height) == rule(height, width)[::-1]
