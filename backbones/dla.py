"""DLA-34: deep layer aggregation (arXiv:1707.06484).

Follows adet/modeling/backbone/dla.py of AdelaiDet, which is the network of ucbdrive/dla.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from backbones.layers import ConcatConvNorm, ConvNorm, NormKind, NormLayer
from backbones.ranges import Count, CountOrZero, NotNegative
from backbones.resnet import BasicBlock
from backbones.staged import StagedBackbone

WIDTHS = (64, 128, 256, 512)
DEPTHS = (1, 2, 2, 1)


class Tree(nn.Module):
    """Hierarchical deep aggregation (figure 3 of the paper).

    A tree of depth 1 has two blocks and a root, which is a 1x1 convolution over the outputs of both
    and all `children` that are passed in. A deeper tree has two subtrees in sequence, and the root
    of the second one aggregates all outputs.

    Args:
        in_channels, out_channels, stride: of the whole tree.
        depth: of the tree.
        level_root: whether the root also takes the pooled input of the tree.
        child_channels: channels of the children that are passed in.
        norm_layer: the norm of every convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        depth: int = 1,
        level_root: bool = False,
        child_channels: int = 0,
        norm_layer: NormLayer,
    ) -> None:
        super().__init__()
        self.depth = depth
        self.level_root = level_root
        if level_root:
            child_channels += in_channels
        if depth == 1:
            block = partial(BasicBlock, norm_layer=norm_layer)
            self.tree1: nn.Module = block(in_channels, out_channels, stride=stride)
            self.tree2: nn.Module = block(out_channels, out_channels)
            self.root = ConcatConvNorm(
                2 * out_channels + child_channels, out_channels, 1, norm_layer=norm_layer
            )
        else:
            tree = partial(Tree, depth=depth - 1, norm_layer=norm_layer)
            self.tree1 = tree(in_channels, out_channels, stride=stride)
            child_channels += out_channels
            self.tree2 = tree(out_channels, out_channels, child_channels=child_channels)
        self.project: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.project = ConvNorm(
                in_channels, out_channels, 1, activation=None, norm_layer=norm_layer
            )
            # Only blocks have shortcuts. The projection of a deeper tree is in every published
            # checkpoint and parameter count, but its output is not used.
            self.project.requires_grad_(depth == 1)

    def forward(self, x: Tensor, bottom: Tensor, *children: Tensor) -> Tensor:
        """Aggregate `x` and `children`; `bottom` is `x` at the size of the output."""
        if self.level_root:
            children = (*children, bottom)
        if self.depth > 1:
            x1 = self.tree1(x, bottom)
            return self.tree2(x1, x1, *children, x1)
        x1 = self.tree1(x, self.project(bottom))
        x2 = self.tree2(x1, x1)
        return self.root(x2, x1, *children)


class DLA(StagedBackbone):
    """DLA-34.

    Args:
        norm, norm_eps: see `layers.norm_layer`.
        frozen_stages: how many of (stem, stage 2, stage 3, ...) are not trained; their norms are
            constant too.
        out_stages: which of stages 2 to 5 (`level2` to `level5`) are returned.
    """

    def __init__(
        self,
        *,
        norm: NormKind = "bn",
        norm_eps: NotNegative = 1e-5,
        frozen_stages: CountOrZero = 0,
        out_stages: Sequence[Count] = (3, 4, 5),
    ) -> None:
        super().__init__(WIDTHS, out_stages, norm, norm_eps, frozen_stages)

        self.stem = nn.Sequential(
            ConvNorm(3, 16, 7, norm_layer=self.norm_of(1)),
            ConvNorm(16, 16, 3, norm_layer=self.norm_of(1)),
            ConvNorm(16, 32, 3, stride=2, norm_layer=self.norm_of(1)),
        )
        self.stages = nn.ModuleList(
            Tree(
                in_channels,
                out_channels,
                stride=2,
                depth=depth,
                level_root=stage > 2,
                norm_layer=self.norm_of(stage),
            )
            for stage, in_channels, out_channels, depth in zip(
                self.built_stages, (32, *WIDTHS[:-1]), WIDTHS, DEPTHS, strict=False
            )
        )
        self.freeze()

    def run_stage(self, stage: int, module: nn.Module, x: Tensor) -> Tensor:
        output: Tensor = module(x, F.max_pool2d(x, 2, ceil_mode=True))
        return output
