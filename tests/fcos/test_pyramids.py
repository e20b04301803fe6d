"""FPN and HRFPN: levels for any size of image, and their equivalent forms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fcos import FPN, HRFPN, Pyramid

CHANNELS, STRIDES = (8, 12, 16), (8, 16, 32)
sides = st.integers(33, 300)


def maps(height: int, width: int, channels: Any, strides: Any) -> list[Tensor]:
    """What convolutions of stride 2 make of an image of any size."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(1, c, -(-height // s), -(-width // s), generator=generator)
        for c, s in zip(channels, strides, strict=True)
    ]


@settings(max_examples=20)
@given(sides, sides, st.sampled_from(["p5", "c5", None]), st.sampled_from(["nearest", "bilinear"]))
@torch.no_grad()
def test_fpn_levels_halve_from_one_to_the_next(
    height: int, width: int, extra_from: Any, upsample: Any
) -> None:
    fpn = FPN(CHANNELS, STRIDES, 8, extra_from=extra_from, upsample=upsample)
    assert isinstance(fpn, Pyramid)
    assert fpn.strides == ((8, 16, 32, 64, 128) if extra_from else STRIDES)
    levels = fpn(maps(height, width, CHANNELS, STRIDES))
    for level, stride in zip(levels, fpn.strides, strict=True):
        assert level.shape == (1, 8, -(-height // stride), -(-width // stride))


def test_extra_levels_come_from_p5_or_c5() -> None:
    assert FPN(CHANNELS, STRIDES, 8, extra_from="p5").extra[0].in_channels == 8
    assert FPN(CHANNELS, STRIDES, 8, extra_from="c5").extra[0].in_channels == 16


@torch.no_grad()
def test_p7_is_computed_from_relu_of_p6() -> None:
    features = maps(128, 128, CHANNELS, STRIDES)
    fpn = FPN(CHANNELS, STRIDES, 8)
    *_, p6, p7 = fpn(features)
    assert bool((p6 < 0).any())
    assert torch.equal(p7, fpn.extra[1](F.relu(p6)))
    fpn.rectify_extra = True
    *_, rectified, same = fpn(features)
    assert torch.equal(rectified, F.relu(p6))
    assert torch.equal(same, p7)


HR_CHANNELS, HR_STRIDES = (4, 8, 16, 32), (4, 8, 16, 32)


@pytest.mark.parametrize(
    ("options", "strides"),
    [
        ({"levels": 5, "conv_stride": 2}, (8, 16, 32, 64, 128)),
        ({"levels": 6, "conv_stride": 1}, (4, 8, 16, 32, 64, 128)),
    ],
)
@torch.no_grad()
def test_hrfpn_levels_are_pooled_from_one_map(options: Any, strides: tuple[int, ...]) -> None:
    pyramid = HRFPN(HR_CHANNELS, HR_STRIDES, 8, **options)
    assert isinstance(pyramid, Pyramid)
    assert pyramid.strides == strides
    levels = pyramid(maps(256, 384, HR_CHANNELS, HR_STRIDES))
    expected = [(1, 8, 256 // stride, 384 // stride) for stride in strides]
    assert [tuple(level.shape) for level in levels] == expected


@torch.no_grad()
def test_hrfpn_takes_images_that_are_smaller_than_its_largest_window() -> None:
    pyramid = HRFPN(HR_CHANNELS, HR_STRIDES, 8, levels=6, conv_stride=1)
    features = maps(64, 32, HR_CHANNELS, HR_STRIDES)
    levels = pyramid(features)
    assert [tuple(level.shape[-2:]) for level in levels] == [
        *((16, 8), (8, 4), (4, 2), (2, 1), (1, 1), (1, 1))
    ]


@torch.no_grad()
def test_hrfpn_levels_of_an_exported_graph_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pyramid = HRFPN(HR_CHANNELS, HR_STRIDES, 8, levels=6, conv_stride=1)
    sizes = [(32, 32), (64, 32), (96, 160), (256, 288)]
    features = [maps(*size, HR_CHANNELS, HR_STRIDES) for size in sizes]
    expected = [pyramid(one) for one in features]
    monkeypatch.setattr("fcos.pyramid.is_exporting", lambda: True)
    torch.testing.assert_close([pyramid(one) for one in features], expected)


@settings(max_examples=20)
@given(st.integers(130, 300), st.integers(130, 300))
def test_reducing_before_upsampling_is_the_literal_form(height: int, width: int) -> None:
    pyramid = HRFPN(HR_CHANNELS, HR_STRIDES, 8)
    features = maps(height, width, HR_CHANNELS, HR_STRIDES)
    literal = pyramid(features)
    with torch.no_grad():
        shortcut = pyramid(features)
    for ours, theirs in zip(shortcut, literal, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
