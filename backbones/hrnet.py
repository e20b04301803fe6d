"""HRNetV2: parallel branches of strides 4 to 32 that exchange features (arXiv:1908.07919).

Follows maskrcnn_benchmark/modeling/backbone/hrnet.py of HRNet-FCOS, and has the same outputs for
inputs whose sides are multiples of the coarsest stride.
"""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from backbones.layers import ConvNorm, NormKind, NormLayer, constant_norm, norm_layer
from backbones.ranges import Count, CountOrZero, NotNegative
from backbones.resnet import BasicBlock, Bottleneck

MODULES = (1, 4, 3)  # exchange modules in stages 2, 3 and 4, which have 2, 3 and 4 branches


class Fusion(nn.Module):
    """Sum all branches at the resolution of branch `target`, followed by a ReLU.

    Finer branches are downsampled by 3x3 convolutions of stride 2. Coarser ones pass a 1x1
    convolution and nearest-neighbour upsampling.
    """

    def __init__(self, target: int, widths: tuple[int, ...], norm_layer: NormLayer) -> None:
        super().__init__()
        self.target = target
        conv = partial(ConvNorm, norm_layer=norm_layer)
        self.down = nn.ModuleList()
        for source, width in enumerate(widths[:target]):
            steps = [conv(width, width, 3, stride=2) for _ in range(target - source - 1)]
            last = conv(width, widths[target], 3, stride=2, activation=None)
            self.down.append(nn.Sequential(*steps, last))
        self.up = nn.ModuleList(
            conv(width, widths[target], 1, activation=None) for width in widths[target + 1 :]
        )

    def forward(self, branches: list[Tensor]) -> Tensor:
        terms = [down(x) for down, x in zip(self.down, branches, strict=False)]
        terms.append(branches[self.target])
        # Nearest-neighbour upsampling is linear: the coarser branches are added at their own small
        # sizes, coarsest first, and only the sum is upsampled to the target's size.
        if self.up:
            coarser = [up(x) for up, x in zip(self.up, branches[self.target + 1 :], strict=True)]
            total = coarser.pop()
            while coarser:
                finer = coarser.pop()
                total = finer.add_(F.interpolate(total, size=finer.shape[-2:]))
            terms.append(F.interpolate(total, size=branches[self.target].shape[-2:]))
        total = terms[0] + terms[1]
        for term in terms[2:]:
            total.add_(term)
        return F.relu_(total)


class ExchangeModule(nn.Module):
    """Four basic blocks on each branch, then a fusion of all branches at each resolution."""

    def __init__(self, widths: tuple[int, ...], norm_layer: NormLayer) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(BasicBlock(width, width, norm_layer=norm_layer) for _ in range(4)))
            for width in widths
        )
        self.fusions = nn.ModuleList(
            Fusion(target, widths, norm_layer) for target in range(len(widths))
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        features = [branch(x) for branch, x in zip(self.branches, features, strict=True)]
        return [fusion(features) for fusion in self.fusions]


class HRNet(nn.Module):
    """HRNetV2-W18/W32/W40/W48.

    Args:
        width: channels of the finest branch; each coarser one has twice as many.
        norm, norm_eps: see `layers.norm_layer`; "eval_bn" is that of HRNet-FCOS without SyncBN.
        frozen_stages: how many of (stem, stage 1) are not trained; their norms are constant too.
    """

    def __init__(
        self,
        width: Count = 32,
        *,
        norm: NormKind = "eval_bn",
        norm_eps: NotNegative = 1e-5,
        frozen_stages: CountOrZero = 0,
    ) -> None:
        super().__init__()
        if not 0 <= frozen_stages <= 2:
            raise ValueError(f"HRNet can freeze 0 to 2 stages (stem, stage 1), not {frozen_stages}")
        self.channels = (width, 2 * width, 4 * width, 8 * width)
        self.strides = (4, 8, 16, 32)
        trained_norm = norm_layer(norm, norm_eps)
        frozen_norm = norm_layer(constant_norm(norm), norm_eps)
        stem_norm, stage1_norm = (
            frozen_norm if stage < frozen_stages else trained_norm for stage in (0, 1)
        )
        self.stem = nn.Sequential(
            ConvNorm(3, 64, 3, stride=2, norm_layer=stem_norm),
            ConvNorm(64, 64, 3, stride=2, norm_layer=stem_norm),
        )
        self.stage1 = nn.Sequential(
            *(
                Bottleneck(64 if block == 0 else 256, 64, 256, norm_layer=stage1_norm)
                for block in range(4)
            )
        )
        # The input of each branch: stage 1 for the first two, then the coarsest branch so far.
        sources = (256, 256, *self.channels[1:3])
        self.transitions = nn.ModuleList(
            ConvNorm(source, channels, 3, stride=stride, norm_layer=trained_norm)
            for source, channels, stride in zip(sources, self.channels, (1, 2, 2, 2), strict=True)
        )
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(ExchangeModule(self.channels[:branches], trained_norm) for _ in range(modules))
            )
            for branches, modules in enumerate(MODULES, start=2)
        )
        for module in [self.stem, self.stage1][:frozen_stages]:
            module.requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> four features, width * (1, 2, 4, 8) channels at strides 4, 8, 16, 32."""
        x = self.stage1(self.stem(x))
        features = [self.transitions[0](x)]
        for stage, transition in zip(self.stages, self.transitions[1:], strict=True):
            coarsest = x if len(features) == 1 else features[-1]
            features = stage([*features, transition(coarsest)])
        return features
