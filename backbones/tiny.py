"""A plain stack of 3x3 convolutions, which learns to detect drawn shapes in minutes on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from backbones.layers import ConvNorm, NormKind, NormLayer
from backbones.ranges import Count, NotNegative
from backbones.staged import StagedBackbone


class TinyStage(nn.Sequential):
    """3x3 convolutions: the first has stride 2, and each of the others has a shortcut."""

    def __init__(
        self, in_channels: int, out_channels: int, depth: int, norm_layer: NormLayer
    ) -> None:
        conv = partial(ConvNorm, kernel_size=3, norm_layer=norm_layer)
        first = conv(in_channels, out_channels, stride=2)
        super().__init__(first, *(conv(out_channels, out_channels) for _ in range(depth - 1)))

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self
        x = first(x)
        for layer in others:
            x = x + layer(x)
        return x


class TinyNet(StagedBackbone):
    """A few stages, each at half the resolution of the one before.

    Args:
        widths, depths: channels and convolutions of each stage.
        out_stages: which stages, counted from 1, are returned.
        norm, norm_eps: see `layers.norm_layer`.
    """

    first_stage = 1

    def __init__(
        self,
        widths: Sequence[Count] = (16, 32, 64, 128),
        depths: Sequence[Count] = (1, 3, 4, 3),
        out_stages: Sequence[Count] = (2, 3, 4),
        *,
        norm: NormKind = "bn",
        norm_eps: NotNegative = 1e-5,
    ) -> None:
        super().__init__(widths, out_stages, norm, norm_eps, frozen_stages=0)
        self.stages = nn.ModuleList(
            TinyStage(in_channels, width, depth, self.norm_of(stage))
            for stage, in_channels, width, depth in zip(
                self.built_stages, (3, *widths[:-1]), widths, depths, strict=False
            )
        )
