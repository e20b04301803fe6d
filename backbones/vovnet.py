"""VoVNet: one-shot aggregation (arXiv:1904.09730), with effective squeeze-excitation (1911.06667).

Follows fcos_core/modeling/backbone/vovnet.py of VoVNet-FCOS and adet/modeling/backbone/vovnet.py of
AdelaiDet. The published sizes, as arguments of `VoVNet` where they differ from its defaults:

    V-27-slim   blocks (1, 1, 1, 1), widths (64, 80, 96, 112), channels (128, 256, 384, 512)
    V-39        blocks (1, 1, 2, 2)
    V-57        blocks (1, 1, 4, 3)
    V-75        blocks (1, 2, 6, 3)
    V-93        blocks (1, 3, 8, 3)
    V-99        blocks (1, 3, 9, 3)
    V-19        blocks (1, 1, 1, 1), 3 layers per block
    V-19-slim   V-19 with widths (64, 80, 96, 112), channels (112, 256, 384, 512)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from backbones.layers import ConcatConvNorm, ConvNorm, NormKind, NormLayer, is_exporting
from backbones.ranges import Count, CountOrZero, NotNegative
from backbones.staged import StagedBackbone


class EffectiveSqueezeExcitation(nn.Module):
    """Scale each channel by a gate that a fully connected layer computes from the channel means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(self.fc(x.mean((2, 3), keepdim=True)))


class OneShotAggregation(nn.Module):
    """A chain of 3x3 convolutions, and a 1x1 convolution over the input and all their outputs."""

    def __init__(
        self,
        in_channels: int,
        width: int,
        out_channels: int,
        *,
        layers: int,
        ese: bool,
        identity: bool,
        norm_layer: NormLayer,
    ) -> None:
        super().__init__()
        self.identity = identity
        self.layers = nn.ModuleList(
            ConvNorm(in_channels if layer == 0 else width, width, 3, norm_layer=norm_layer)
            for layer in range(layers)
        )
        self.concat = ConcatConvNorm(
            in_channels + layers * width, out_channels, 1, norm_layer=norm_layer
        )
        self.ese = EffectiveSqueezeExcitation(out_channels) if ese else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(features[-1]))
        out = self.ese(self.concat(*features))
        return out + x if self.identity else out


class VoVNet(StagedBackbone):
    """VoVNet, or VoVNetV2 with `ese`.

    Args:
        blocks: aggregation blocks in each of stages 2 to 5.
        layers_per_block: 3x3 convolutions in a block.
        stage_widths: their channels, by stage.
        stage_channels: output channels of each stage.
        stem: channels of the three 3x3 convolutions before stage 2.
        ese: effective squeeze-excitation in every block.
        norm, norm_eps: see `layers.norm_layer`; `eps` 0 is maskrcnn-benchmark's frozen norm.
        frozen_stages: how many of (stem, stage 2, stage 3, ...) are not trained; their norms are
            constant too.
        out_stages: which of stages 2 to 5 are returned.
    """

    def __init__(
        self,
        blocks: Sequence[Count] = (1, 1, 2, 2),
        *,
        layers_per_block: Count = 5,
        stage_widths: Sequence[Count] = (128, 160, 192, 224),
        stage_channels: Sequence[Count] = (256, 512, 768, 1024),
        stem: Sequence[Count] = (64, 64, 128),
        ese: bool = False,
        norm: NormKind = "frozen_bn",
        norm_eps: NotNegative = 1e-5,
        frozen_stages: CountOrZero = 0,
        out_stages: Sequence[Count] = (3, 4, 5),
    ) -> None:
        super().__init__(stage_channels, out_stages, norm, norm_eps, frozen_stages)

        self.stem = nn.Sequential(
            *(
                ConvNorm(a, b, 3, stride=stride, norm_layer=self.norm_of(1))
                for a, b, stride in zip((3, *stem[:-1]), stem, (2, 1, 2), strict=True)
            )
        )
        in_channels = stem[-1]
        for stage, count, width, out_channels in zip(
            self.built_stages, blocks, stage_widths, stage_channels, strict=False
        ):
            block = partial(
                OneShotAggregation,
                width=width,
                out_channels=out_channels,
                layers=layers_per_block,
                ese=ese,
                norm_layer=self.norm_of(stage),
            )
            first = block(in_channels, identity=False)
            others = (block(out_channels, identity=True) for _ in range(count - 1))
            self.stages.append(nn.Sequential(first, *others))
            in_channels = out_channels
        self.freeze()

    def run_stage(self, stage: int, module: nn.Module, x: Tensor) -> Tensor:
        return super().run_stage(stage, module, x if stage == self.first_stage else _halve(x))


def _halve(x: Tensor) -> Tensor:
    """Max pooling (3x3, stride 2) without padding at the top and left; sizes are rounded up."""
    if is_exporting():  # OpenVINO refuses maps smaller than the window, even in `ceil_mode`
        return F.max_pool2d(F.pad(x, (0, 2, 0, 2)), kernel_size=3, stride=2)
    height, width = x.shape[-2:]
    if height % 2 or width % 2:  # zeros never win, as blocks have no negative outputs
        x = F.pad(x, (0, width % 2, 0, height % 2))
    return F.max_pool2d(x, kernel_size=3, stride=2, ceil_mode=True)
