"""A plain stack of 3x3 convolutions: learns drawn shapes in minutes on a CPU."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from backbones.layers import ConvNorm, NormKind


class TinyNet(nn.Module):
    """Stages of 3x3 convolutions, each of half its predecessor's resolution.

    Args:
        widths, depths: channels and convolutions of each stage, the first at stride 2.
        out_stages: which stages, counted from 1, are returned.
        norm, norm_eps: see `layers.make_norm`.
    """

    def __init__(
        self,
        widths: Sequence[int] = (16, 32, 64, 96),
        depths: Sequence[int] = (1, 2, 3, 3),
        out_stages: Sequence[int] = (2, 3, 4),
        *,
        norm: NormKind = "bn",
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.out_stages = tuple(out_stages)
        self.channels = tuple(widths[stage - 1] for stage in self.out_stages)
        self.strides = tuple(2**stage for stage in self.out_stages)
        self.stages = nn.ModuleList()
        in_channels = 3
        for width, depth in zip(widths, depths, strict=True):
            layers = []
            for layer in range(depth):
                stride = 2 if layer == 0 else 1
                layers.append(
                    ConvNorm(in_channels, width, 3, stride=stride, norm=norm, norm_eps=norm_eps)
                )
                in_channels = width
            self.stages.append(nn.Sequential(*layers))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> features of `out_stages`, stage k at stride 2^k."""
        features = []
        for stage, layers in enumerate(self.stages, start=1):
            x = layers(x)
            if stage in self.out_stages:
                features.append(x)
        return features
