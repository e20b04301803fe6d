"""A whole detector, small enough to build and run in milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backbones.layers import ConvNorm, norm_layer
from fcos import (
    FPN,
    Decoder,
    Detector,
    Head,
    ImageNormalizer,
    LongestSide,
    Loss,
    ShortestSide,
    TargetAssigner,
)

CLASSES = ("circle", "square", "star")


class TinyBackbone(nn.Module):
    """Two features of 8 and 16 channels at strides 8 and 16."""

    channels = (8, 16)
    strides = (8, 16)

    def __init__(self) -> None:
        super().__init__()
        self.fine = ConvNorm(3, 8, 7, stride=8, norm_layer=norm_layer("frozen_bn"))
        self.coarse = ConvNorm(8, 16, 3, stride=2, norm_layer=norm_layer("bn"))

    def forward(self, x: Tensor) -> list[Tensor]:
        fine = self.fine(x)
        return [fine, self.coarse(fine)]


def build_tiny(
    head: dict[str, Any] | None = None,
    loss: dict[str, Any] | None = None,
    decoder: dict[str, Any] | None = None,
    normalizer: ImageNormalizer | None = None,
    resize: ShortestSide | LongestSide | None = None,
    **detector: Any,
) -> Detector:
    """Three levels at strides 8, 16 and 32, three classes, and scores that pass the threshold."""
    torch.manual_seed(0)
    backbone = TinyBackbone()
    pyramid = FPN(backbone.channels, backbone.strides, 32, extra_levels=1)
    options = {"tower_depth": 1, "prior": 0.3, **(head or {})}
    built = Detector(
        backbone,
        pyramid,
        Head(pyramid.strides, len(CLASSES), pyramid.channels, **options),
        normalizer=normalizer or ImageNormalizer([104.0, 116.0, 123.0], [58.0] * 3),
        resize=resize or ShortestSide(64, 96),
        assigner=TargetAssigner([(-1, 32), (32, 64), (64, 1e8)], radius=1.5),
        loss=Loss(**(loss or {})),
        decoder=Decoder(**(decoder or {})),
        classes=CLASSES,
        **detector,
    )
    nn.init.normal_(built.head.box_pred.weight, std=0.5)
    nn.init.normal_(built.head.cls_logits.weight, std=0.5)
    return built


@pytest.fixture
def tiny_detector() -> Callable[..., Detector]:
    """`build_tiny`: arguments are those of `Head`, `Loss`, `Decoder`, ... as mappings."""
    return build_tiny


@pytest.fixture
def picture() -> Tensor:
    """A noisy RGB picture (3, 60, 90), uint8."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (3, 60, 90), generator=generator, dtype=torch.uint8)


@pytest.fixture
def target() -> dict[str, Tensor]:
    """Two boxes of different sizes in the picture."""
    return {
        "boxes": torch.tensor([[5.0, 5.0, 35.0, 40.0], [30.0, 10.0, 85.0, 55.0]]),
        "labels": torch.tensor([2, 0]),
    }
