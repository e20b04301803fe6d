"""MobileNetV2: inverted residuals and linear bottlenecks (arXiv:1801.04381).

After fcos_core/modeling/backbone/mobilenet.py of the original FCOS; torchvision's is the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from backbones.layers import ConvNorm, NormKind, constant_norm

# Table 2 of the paper as (expansion, channels, blocks, stride), split where the stride doubles.
STAGES = (
    ((1, 16, 1, 1),),
    ((6, 24, 2, 2),),
    ((6, 32, 3, 2),),
    ((6, 64, 4, 2), (6, 96, 3, 1)),
    ((6, 160, 3, 2), (6, 320, 1, 1)),
)


class InvertedResidual(nn.Module):
    """1x1 to more channels, 3x3 on each alone, 1x1 back to few without an activation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        expansion: int,
        stride: int,
        norm: NormKind,
        norm_eps: float,
    ) -> None:
        super().__init__()
        width = in_channels * expansion
        self.residual = stride == 1 and in_channels == out_channels
        self.expand = (
            ConvNorm(in_channels, width, 1, activation="relu6", norm=norm, norm_eps=norm_eps)
            if expansion > 1
            else nn.Identity()
        )
        self.depthwise = ConvNorm(
            width,
            width,
            3,
            stride=stride,
            groups=width,
            activation="relu6",
            norm=norm,
            norm_eps=norm_eps,
        )
        self.project = ConvNorm(
            width, out_channels, 1, activation=None, norm=norm, norm_eps=norm_eps
        )

    def forward(self, x: Tensor) -> Tensor:
        out = self.project(self.depthwise(self.expand(x)))
        return out.add_(x) if self.residual else out


class MobileNetV2(nn.Module):
    """MobileNetV2 without its last 1x1 convolution.

    Args:
        width: multiplies all channels; they are rounded to multiples of 8.
        norm, norm_eps: see `layers.make_norm`.
        frozen_stages: how many of (stem, stage 1, stage 2, ...) are not trained; their norms are
            constant too.
        out_stages: which of stages 1 to 5 are returned.
    """

    def __init__(
        self,
        *,
        width: float = 1.0,
        norm: NormKind = "bn",
        norm_eps: float = 1e-5,
        frozen_stages: int = 0,
        out_stages: Sequence[int] = (3, 4, 5),
    ) -> None:
        super().__init__()
        self.out_stages = tuple(out_stages)
        self.channels = tuple(_scaled(STAGES[stage - 1][-1][1], width) for stage in self.out_stages)
        self.strides = tuple(2**stage for stage in self.out_stages)

        def norm_of(stage: int) -> NormKind:
            return constant_norm(norm) if stage < frozen_stages else norm

        in_channels = _scaled(32, width)
        self.stem = ConvNorm(
            3, in_channels, 3, stride=2, activation="relu6", norm=norm_of(0), norm_eps=norm_eps
        )
        self.stages = nn.ModuleList()
        for stage, rows in enumerate(STAGES, start=1):
            blocks = []
            for expansion, channels, count, stride in rows:
                for block in range(count):
                    out_channels = _scaled(channels, width)
                    blocks.append(
                        InvertedResidual(
                            in_channels,
                            out_channels,
                            expansion=expansion,
                            stride=stride if block == 0 else 1,
                            norm=norm_of(stage),
                            norm_eps=norm_eps,
                        )
                    )
                    in_channels = out_channels
            self.stages.append(nn.Sequential(*blocks))
        for module in [self.stem, *self.stages][:frozen_stages]:
            module.requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> features of `out_stages`, stage k at stride 2^k."""
        x = self.stem(x)
        features = []
        for stage, blocks in enumerate(self.stages, start=1):
            x = blocks(x)
            if stage in self.out_stages:
                features.append(x)
        return features


def _scaled(channels: int, width: float) -> int:
    """`channels * width` as a multiple of 8, less than it by a tenth at most."""
    scaled = max(8, int(channels * width + 4) // 8 * 8)
    return scaled if scaled >= 0.9 * channels * width else scaled + 8
