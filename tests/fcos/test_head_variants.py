"""The head's published variants: shapes, and what each argument changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backbones.deformable import DeformConv2d
from fcos import Head, Level

STRIDES = (8, 16)
SIZES = ((5, 7), (3, 4))


def features(channels: int = 32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, channels, *size, generator=generator) for size in SIZES]


@torch.no_grad()
def outputs(**options: Any) -> list[Level]:
    torch.manual_seed(0)
    return Head(STRIDES, 3, 32, **options).eval()(features())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tower_depth": 0, "shared_depth": 4},
        {"norm": "bn"},
        {"norm": "sync_bn", "shared_depth": 1},
        {"norm": "none", "quality_on": None, "box": "exp"},
        {"deformable_last": True},
        {"quality_on": "class", "box": "exp"},
        {"box_scales": False, "tower_bias": False},
    ],
)
def test_every_variant_gives_the_same_shapes(options: dict[str, Any]) -> None:
    for level, stride, (h, w) in zip(outputs(**options), STRIDES, SIZES, strict=True):
        assert level.stride == stride
        assert level.logits.shape == (2, 3, h, w)
        assert level.ltrb.shape == (2, 4, h, w)
        assert bool((level.ltrb >= 0).all())
        if options.get("quality_on", "box"):
            assert level.quality is not None
            assert level.quality.shape == (2, 1, h, w)
        else:
            assert level.quality is None


def test_rectified_distances_are_in_strides_and_exponential_ones_in_pixels() -> None:
    for level in outputs(tower_depth=0):
        assert level.stride > 1
    head = Head(STRIDES, 3, 32, tower_depth=0)
    nn.init.zeros_(head.box_pred.weight)
    nn.init.constant_(head.box_pred.bias, 2.0)
    assert [float(level.ltrb.detach().unique()) for level in head(features())] == [16, 32]
    head.box = "exp"
    expected = [float(torch.tensor(2.0).exp())] * 2
    assert [float(level.ltrb.detach().unique()) for level in head(features())] == expected


def test_each_level_scales_its_boxes() -> None:
    head = Head(STRIDES, 3, 32)
    assert head.scales is not None
    before = head(features())
    with torch.no_grad():
        head.scales[1].fill_(3.0)
    after = head(features())
    assert torch.equal(before[0].ltrb, after[0].ltrb)
    torch.testing.assert_close(before[1].ltrb * 3, after[1].ltrb)


@pytest.mark.parametrize(("quality_on", "other"), [("box", "cls_tower"), ("class", "box_tower")])
def test_the_quality_reads_one_tower(quality_on: Any, other: str) -> None:
    head = Head(STRIDES, 3, 32, quality_on=quality_on)
    torch.stack([level.quality.sum() for level in head(features())]).sum().backward()
    assert all(p.grad is None for p in getattr(head, other).parameters())


def test_batch_norms_keep_statistics_of_each_level() -> None:
    head = Head(STRIDES, 3, 32, norm="bn").train()
    head(features()[:1])
    norms = head.cls_tower[0].norm
    assert isinstance(norms, nn.ModuleList)
    assert norms[0].running_mean.any()
    assert not norms[1].running_mean.any()


def test_only_the_last_layer_of_a_tower_is_deformable() -> None:
    head = Head(STRIDES, 3, 32, deformable_last=True)
    kinds = [isinstance(layer.conv, DeformConv2d) for layer in head.box_tower]
    assert kinds == [False, False, False, True]


def test_a_new_head_believes_in_background() -> None:
    torch.manual_seed(0)
    head = Head(STRIDES, 3, 32, prior=0.01)
    for level in head(features()):
        assert float(level.logits.detach().sigmoid().mean()) == pytest.approx(0.01, rel=0.1)
