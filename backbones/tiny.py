"""A plain stack of 3x3 convolutions: learns drawn shapes in minutes on a CPU."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from backbones.layers import ConvNorm, NormKind


class TinyStage(nn.Sequential):
    """3x3 convolutions, the first of stride 2; the others add to what they are given."""

    def __init__(
        self, in_channels: int, out_channels: int, depth: int, norm: NormKind, norm_eps: float
    ) -> None:
        super().__init__(
            *(
                ConvNorm(
                    out_channels if layer else in_channels,
                    out_channels,
                    3,
                    stride=1 if layer else 2,
                    norm=norm,
                    norm_eps=norm_eps,
                )
                for layer in range(depth)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self
        x = first(x)
        for layer in others:
            x = x + layer(x)
        return x


class TinyNet(nn.Module):
    """A few stages, each of half its predecessor's resolution.

    Args:
        widths, depths: channels and convolutions of each stage.
        out_stages: which stages, counted from 1, are returned.
        norm, norm_eps: see `layers.make_norm`.
    """

    def __init__(
        self,
        widths: Sequence[int] = (16, 32, 64, 128),
        depths: Sequence[int] = (1, 3, 4, 3),
        out_stages: Sequence[int] = (2, 3, 4),
        *,
        norm: NormKind = "bn",
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.out_stages = tuple(out_stages)
        self.channels = tuple(widths[stage - 1] for stage in self.out_stages)
        self.strides = tuple(2**stage for stage in self.out_stages)
        self.stages = nn.ModuleList(
            TinyStage(in_channels, width, depth, norm, norm_eps)
            for in_channels, width, depth in zip((3, *widths[:-1]), widths, depths, strict=True)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> features of `out_stages`, stage k at stride 2^k."""
        features = []
        for stage, layers in enumerate(self.stages, start=1):
            x = layers(x)
            if stage in self.out_stages:
                features.append(x)
        return features
