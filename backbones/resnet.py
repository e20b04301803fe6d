"""ResNet and ResNeXt in the Caffe2 style that FCOS was trained on (arXiv:1512.03385, 1611.05431).

After fcos_core/modeling/backbone/resnet.py of the original FCOS and detectron2's
modeling/backbone/resnet.py; both are this network with other names.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from backbones.deformable import DeformConv2d
from backbones.layers import ConvNorm, NormKind, constant_norm

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with a shortcut; the stride is in the first 1x1 (MSRA) or in the 3x3."""

    def __init__(
        self,
        in_channels: int,
        width: int,
        out_channels: int,
        *,
        stride: int,
        stride_in_1x1: bool,
        groups: int,
        deformable: bool,
        norm: NormKind,
        norm_eps: float,
    ) -> None:
        super().__init__()
        stride_1x1, stride_3x3 = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = ConvNorm(
            in_channels, width, 1, stride=stride_1x1, norm=norm, norm_eps=norm_eps
        )
        self.conv2 = ConvNorm(
            width,
            width,
            3,
            stride=stride_3x3,
            groups=groups,
            deformable=deformable,
            norm=norm,
            norm_eps=norm_eps,
        )
        self.conv3 = ConvNorm(width, out_channels, 1, activation=None, norm=norm, norm_eps=norm_eps)
        self.shortcut = (
            ConvNorm(
                in_channels,
                out_channels,
                1,
                stride=stride,
                activation=None,
                norm=norm,
                norm_eps=norm_eps,
            )
            if in_channels != out_channels
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv3(self.conv2(self.conv1(x)))
        return F.relu_(out.add_(self.shortcut(x)))


class ResNet(nn.Module):
    """ResNet-50/101/152, ResNeXt with `groups` and `width_per_group`.

    Args:
        depth: 50, 101 or 152.
        groups, width_per_group: 1 x 64 is ResNet; 32 x 8 and 64 x 4 are the ResNeXt of the
            published models.
        stride_in_1x1: True for the MSRA weights, False for the ResNeXt and torchvision ones.
        deformable: modulated deformable 3x3 convolutions in stages 2 to 5 (res2 to res5).
        zero_offsets: these begin as plain convolutions (detectron2, OpenMMLab), otherwise with
            offsets of random weights (the original FCOS).
        norm, norm_eps: see `layers.make_norm`; `eps` 0 is maskrcnn-benchmark's frozen norm.
        frozen_stages: how many of (stem, res2, res3, ...) are not trained; their norms are
            constant too.
        out_stages: which of stages 2 to 5 are returned.
    """

    def __init__(
        self,
        depth: int = 50,
        *,
        groups: int = 1,
        width_per_group: int = 64,
        stride_in_1x1: bool = True,
        deformable: Sequence[bool] = (False, False, False, False),
        zero_offsets: bool = True,
        norm: NormKind = "frozen_bn",
        norm_eps: float = 1e-5,
        frozen_stages: int = 2,
        out_stages: Sequence[int] = (3, 4, 5),
    ) -> None:
        super().__init__()
        if depth not in BLOCKS:
            raise ValueError(f"ResNet depth {depth} is not one of 50, 101, 152")
        self.stride_in_1x1 = stride_in_1x1
        self.out_stages = tuple(out_stages)
        self.channels = tuple(64 * 2**stage for stage in self.out_stages)
        self.strides = tuple(2**stage for stage in self.out_stages)

        def norm_of(stage: int) -> NormKind:
            return constant_norm(norm) if stage <= frozen_stages else norm

        self.stem = ConvNorm(3, 64, 7, stride=2, norm=norm_of(1), norm_eps=norm_eps)
        self.stages = nn.ModuleList()
        in_channels = 64
        for stage, blocks in enumerate(BLOCKS[depth], start=2):
            out_channels = 64 * 2**stage
            layers = []
            for block in range(blocks):
                layers.append(
                    Bottleneck(
                        in_channels,
                        groups * width_per_group * 2 ** (stage - 2),
                        out_channels,
                        stride=2 if block == 0 and stage > 2 else 1,
                        stride_in_1x1=stride_in_1x1,
                        groups=groups,
                        deformable=deformable[stage - 2],
                        norm=norm_of(stage),
                        norm_eps=norm_eps,
                    )
                )
                in_channels = out_channels
            self.stages.append(nn.Sequential(*layers))
        for module in self.modules():
            if isinstance(module, DeformConv2d) and not zero_offsets:
                nn.init.kaiming_uniform_(module.offset.weight, a=1)
        for module in [self.stem, *self.stages][:frozen_stages]:
            module.requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> features of `out_stages`; stage k has 64 * 2^k channels at stride 2^k."""
        x = F.max_pool2d(self.stem(x), kernel_size=3, stride=2, padding=1)
        features = []
        for stage, layers in enumerate(self.stages, start=2):
            x = layers(x)
            if stage in self.out_stages:
                features.append(x)
        return features
