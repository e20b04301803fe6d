"""ResNet and ResNeXt in the Caffe2 style that FCOS was trained on (arXiv:1512.03385, 1611.05431).

Follows fcos_core/modeling/backbone/resnet.py of the original FCOS and detectron2's
modeling/backbone/resnet.py, which are the same network under other names.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from backbones.deformable import DeformConv2d
from backbones.layers import AffineConv2d, ConvNorm, NormKind, NormLayer
from backbones.ranges import Count, CountOrZero, NotNegative
from backbones.staged import StagedBackbone

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut."""

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int = 1, norm_layer: NormLayer
    ) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_channels, out_channels, 3, stride=stride, norm_layer=norm_layer)
        self.conv2 = ConvNorm(out_channels, out_channels, 3, activation=None, norm_layer=norm_layer)

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        """Apply the block; `shortcut` has the shape of the output and is `x` by default."""
        return F.relu_(self.conv2(self.conv1(x)).add_(x if shortcut is None else shortcut))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution with a shortcut; the stride is in the first (MSRA) or second."""

    def __init__(
        self,
        in_channels: int,
        width: int,
        out_channels: int,
        *,
        stride: int = 1,
        stride_in_1x1: bool = False,
        groups: int = 1,
        deformable: bool = False,
        norm_layer: NormLayer,
    ) -> None:
        super().__init__()
        stride_1x1, stride_3x3 = (stride, 1) if stride_in_1x1 else (1, stride)
        conv = partial(ConvNorm, norm_layer=norm_layer)
        self.conv1 = conv(in_channels, width, 1, stride=stride_1x1)
        conv_3x3 = DeformConv2d if deformable else AffineConv2d
        self.conv2 = conv(width, width, 3, stride=stride_3x3, groups=groups, conv_layer=conv_3x3)
        self.conv3 = conv(width, out_channels, 1, activation=None)
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.shortcut = conv(in_channels, out_channels, 1, stride=stride, activation=None)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv3(self.conv2(self.conv1(x)))
        return F.relu_(out.add_(self.shortcut(x)))


class ResNet(StagedBackbone):
    """ResNet-50/101/152, or ResNeXt by `groups` and `width_per_group`.

    Args:
        depth: 50, 101 or 152.
        groups, width_per_group: 1 and 64 for ResNet, 32 and 8 or 64 and 4 for the ResNeXt of the
            published models.
        stride_in_1x1: True for the MSRA weights, False for the ResNeXt and torchvision ones.
        deformable: modulated deformable 3x3 convolutions in stages 2 to 5 (res2 to res5).
        zero_offsets: initialise the offset convolutions with zeros (detectron2, OpenMMLab), not
            randomly (the original FCOS).
        norm, norm_eps: see `layers.norm_layer`; `eps` 0 is maskrcnn-benchmark's frozen norm.
        frozen_stages: how many of (stem, res2, res3, ...) are not trained; their norms are
            constant too.
        out_stages: which of stages 2 to 5 are returned.
    """

    def __init__(
        self,
        depth: int = 50,
        *,
        groups: Count = 1,
        width_per_group: Count = 64,
        stride_in_1x1: bool = True,
        deformable: Sequence[bool] = (False, False, False, False),
        zero_offsets: bool = True,
        norm: NormKind = "frozen_bn",
        norm_eps: NotNegative = 1e-5,
        frozen_stages: CountOrZero = 2,
        out_stages: Sequence[Count] = (3, 4, 5),
    ) -> None:
        if depth not in BLOCKS:
            raise ValueError(f"ResNet depth {depth} is not one of 50, 101, 152")
        super().__init__((256, 512, 1024, 2048), out_stages, norm, norm_eps, frozen_stages)
        self.stride_in_1x1 = stride_in_1x1

        self.stem = ConvNorm(3, 64, 7, stride=2, norm_layer=self.norm_of(1))
        in_channels = 64
        for stage, blocks in zip(self.built_stages, BLOCKS[depth], strict=False):
            block = partial(
                Bottleneck,
                width=groups * width_per_group * 2 ** (stage - 2),
                out_channels=64 * 2**stage,
                stride_in_1x1=stride_in_1x1,
                groups=groups,
                deformable=deformable[stage - 2],
                norm_layer=self.norm_of(stage),
            )
            first = block(in_channels, stride=1 if stage == self.first_stage else 2)
            in_channels = 64 * 2**stage
            others = (block(in_channels) for _ in range(blocks - 1))
            self.stages.append(nn.Sequential(first, *others))
        for module in self.modules():
            if isinstance(module, DeformConv2d) and not zero_offsets:
                nn.init.kaiming_uniform_(module.offset.weight, a=1)
        self.freeze()

    def run_stage(self, stage: int, module: nn.Module, x: Tensor) -> Tensor:
        if stage == self.first_stage:
            x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
        return super().run_stage(stage, module, x)
