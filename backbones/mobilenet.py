"""MobileNetV2: inverted residuals and linear bottlenecks (arXiv:1801.04381).

Follows fcos_core/modeling/backbone/mobilenet.py of the original FCOS; torchvision's is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from backbones.layers import ConvNorm, NormKind, NormLayer
from backbones.ranges import Count, CountOrZero, NotNegative, Positive
from backbones.staged import StagedBackbone

# Table 2 of the paper as (expansion, channels, blocks, stride), split where the stride doubles.
STAGES = (
    ((1, 16, 1, 1),),
    ((6, 24, 2, 2),),
    ((6, 32, 3, 2),),
    ((6, 64, 4, 2), (6, 96, 3, 1)),
    ((6, 160, 3, 2), (6, 320, 1, 1)),
)


class InvertedResidual(nn.Module):
    """1x1 convolution to more channels, depthwise 3x3, and 1x1 to fewer channels, not activated."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        expansion: int,
        stride: int = 1,
        norm_layer: NormLayer,
    ) -> None:
        super().__init__()
        width = in_channels * expansion
        self.residual = stride == 1 and in_channels == out_channels
        conv = partial(ConvNorm, norm_layer=norm_layer)
        self.expand: nn.Module = nn.Identity()
        if expansion > 1:
            self.expand = conv(in_channels, width, 1, activation="relu6")
        self.depthwise = conv(width, width, 3, stride=stride, groups=width, activation="relu6")
        self.project = conv(width, out_channels, 1, activation=None)

    def forward(self, x: Tensor) -> Tensor:
        out = self.project(self.depthwise(self.expand(x)))
        return out.add_(x) if self.residual else out


class MobileNetV2(StagedBackbone):
    """MobileNetV2 without its last 1x1 convolution.

    Args:
        width: multiplies all channels; they are rounded to multiples of 8.
        norm, norm_eps: see `layers.norm_layer`.
        frozen_stages: how many of (stem, stage 1, stage 2, ...) are not trained; their norms are
            constant too.
        out_stages: which of stages 1 to 5 are returned.
    """

    first_stage = 1

    def __init__(
        self,
        *,
        width: Positive = 1.0,
        norm: NormKind = "bn",
        norm_eps: NotNegative = 1e-5,
        frozen_stages: CountOrZero = 0,
        out_stages: Sequence[Count] = (3, 4, 5),
    ) -> None:
        stage_channels = [_scaled(rows[-1][1], width) for rows in STAGES]
        super().__init__(stage_channels, out_stages, norm, norm_eps, frozen_stages)

        in_channels = _scaled(32, width)
        self.stem = ConvNorm(
            3, in_channels, 3, stride=2, activation="relu6", norm_layer=self.norm_of(0)
        )
        for stage, rows in zip(self.built_stages, STAGES, strict=False):
            blocks = []
            for expansion, channels, count, stride in rows:
                block = partial(
                    InvertedResidual, expansion=expansion, norm_layer=self.norm_of(stage)
                )
                out_channels = _scaled(channels, width)
                blocks.append(block(in_channels, out_channels, stride=stride))
                blocks += [block(out_channels, out_channels) for _ in range(count - 1)]
                in_channels = out_channels
            self.stages.append(nn.Sequential(*blocks))
        self.freeze()


def _scaled(channels: int, width: float) -> int:
    """Round `channels * width` to a multiple of 8 that is smaller by a tenth at most."""
    scaled = max(8, int(channels * width + 4) // 8 * 8)
    return scaled if scaled >= 0.9 * channels * width else scaled + 8
