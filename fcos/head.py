"""The FCOS head (arXiv:1904.01355, figure 2), shared by all levels of the pyramid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor, nn

from backbones.deformable import DeformConv2d
from backbones.layers import KeepFloat32, NormKind, norm_layer
from backbones.ranges import CountOrZero
from fcos.checked import checked

HeadNorm = Literal["gn", "none"] | NormKind


class Level(NamedTuple):
    """The head's raw outputs on one pyramid level.

    `logits` (N, C, h, w) before the sigmoid; `ltrb` (N, 4, h, w) distances to the left, top, right
    and bottom of the box in pixels of the network's input; `quality` (N, 1, h, w) logits or None.
    """

    stride: int
    logits: Tensor
    ltrb: Tensor
    quality: Tensor | None


class Float32Conv2d(KeepFloat32, nn.Conv2d):
    """A convolution that computes in float32 within a network of lower precision, or autocast."""

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast(_autocast_device(input), enabled=False):
            return super().forward(input.to(self.weight.dtype))


class Float32Parameters(KeepFloat32, nn.ParameterList):
    """Parameters that stay in float32 within a network of lower precision."""


class GroupNorm(KeepFloat32, nn.GroupNorm):
    """`nn.GroupNorm` in the type of its input, within a network of lower precision or autocast too.

    Its affine terms stay in float32, and so do the statistics inside the kernel. Autocast would
    compute on a float32 copy of the input and keep that for the backward pass.
    """

    def forward(self, input: Tensor) -> Tensor:
        # CPUs take float32 terms with inputs of every type, CUDA takes a single type.
        dtype = self.weight.dtype if input.is_cpu else input.dtype
        weight, bias = self.weight.to(dtype), self.bias.to(dtype)
        with torch.autocast(_autocast_device(input), enabled=False):
            return F.group_norm(input, self.num_groups, weight, bias, self.eps)


def _autocast_device(tensor: Tensor) -> str:
    return "cuda" if tensor.is_cuda else "cpu"  # tensors without values have no autocast


class TowerLayer(nn.Module):
    """3x3 convolution, norm, ReLU. Batch norms keep separate statistics for each level.

    A deformable convolution keeps the initialisation of torch, as in the original FCOS and
    OpenMMLab. AdelaiDet's has a range wider by the root of six, which the norm makes irrelevant.
    """

    def __init__(
        self, channels: int, levels: int, norm: HeadNorm, bias: bool, deformable: bool
    ) -> None:
        super().__init__()
        conv = DeformConv2d if deformable else nn.Conv2d
        self.conv = conv(channels, channels, 3, padding=1, bias=bias)
        if not deformable:
            nn.init.normal_(self.conv.weight, std=0.01)
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)
        self.norm: nn.Module
        if norm == "none":
            self.norm = nn.Identity()
        elif norm == "gn":
            self.norm = GroupNorm(32, channels)
        else:
            make_norm = norm_layer(norm)
            self.norm = nn.ModuleList(make_norm(channels) for _ in range(levels))

    def forward(self, x: Tensor, level: int) -> Tensor:
        x = self.conv(x)
        norm = self.norm[level] if isinstance(self.norm, nn.ModuleList) else self.norm
        return F.relu_(norm(x))


class Tower(nn.ModuleList):
    """A stack of tower layers."""

    def __init__(
        self,
        depth: int,
        channels: int,
        levels: int,
        norm: HeadNorm,
        bias: bool,
        deformable_last: bool,
    ) -> None:
        super().__init__(
            TowerLayer(channels, levels, norm, bias, deformable_last and layer == depth - 1)
            for layer in range(depth)
        )

    def forward(self, x: Tensor, level: int) -> Tensor:
        for layer in self:
            x = layer(x, level)
        return x


@checked
class Head(nn.Module):
    """Predict classes, boxes and quality on every level, with the published variants as arguments.

    Args:
        strides: the pyramid's strides in pixels.
        num_classes: foreground classes.
        channels: channels of the pyramid and the towers.
        tower_depth: layers of the separate class and box towers.
        shared_depth: layers of a common tower before them.
        norm: of the tower layers: "gn" (32 groups), a batch norm of `backbones.layers`, or "none".
        tower_bias: the convolutions of the towers have biases.
        deformable_last: the towers' last convolution is deformable.
        zero_offsets: initialise its offset convolution with zeros (OpenMMLab), not with random
            numbers of small standard deviation.
        quality_on: which tower predicts the quality ("box" or "class"), or None for no quality
            branch.
        box: "relu" predicts distances in strides, rectified; "exp" their exponential in pixels.
        box_scales: multiply the box prediction by a learned factor per level.
        prior: initial foreground probability (focal loss, arXiv:1708.02002, section 3.3).
    """

    def __init__(
        self,
        strides: Sequence[int],
        num_classes: int,
        channels: int = 256,
        *,
        tower_depth: CountOrZero = 4,
        shared_depth: CountOrZero = 0,
        norm: HeadNorm = "gn",
        tower_bias: bool = True,
        deformable_last: bool = False,
        zero_offsets: bool = False,
        quality_on: Literal["box", "class"] | None = "box",
        box: Literal["relu", "exp"] = "relu",
        box_scales: bool = True,
        prior: Annotated[float, Interval(gt=0, lt=1)] = 0.01,
    ) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.quality_on = quality_on
        self.box = box
        layers = (channels, len(self.strides), norm, tower_bias, deformable_last)
        self.shared_tower = Tower(shared_depth, *layers)
        self.cls_tower = Tower(tower_depth, *layers)
        self.box_tower = Tower(tower_depth, *layers)
        for module in self.modules():
            if isinstance(module, DeformConv2d) and not zero_offsets:
                nn.init.normal_(module.offset.weight, std=0.01)
        self.cls_logits = self._predictor(channels, num_classes, -math.log(1 / prior - 1))
        # Distances reach hundreds of pixels, more than the eight bits of bf16 resolve.
        self.box_pred = self._predictor(channels, 4, conv=Float32Conv2d)
        self.quality = self._predictor(channels, 1) if quality_on else None
        self.scales = Float32Parameters(torch.ones(1) for _ in self.strides) if box_scales else None

    @staticmethod
    def _predictor(
        in_channels: int, out_channels: int, bias: float = 0.0, conv: type[nn.Conv2d] = nn.Conv2d
    ) -> nn.Conv2d:
        predictor = conv(in_channels, out_channels, 3, padding=1)
        nn.init.normal_(predictor.weight, std=0.01)
        assert predictor.bias is not None
        nn.init.constant_(predictor.bias, bias)
        return predictor

    @property
    def num_classes(self) -> int:
        return self.cls_logits.out_channels

    def forward(self, features: list[Tensor]) -> list[Level]:
        """One (N, channels, h, w) per level -> one `Level`, in float32."""
        return [self._level(x, level) for level, x in enumerate(features)]

    def _level(self, x: Tensor, level: int) -> Level:
        x = self.shared_tower(x, level)
        cls_features, box_features = self.cls_tower(x, level), self.box_tower(x, level)
        box = self.box_pred(box_features)
        if self.scales is not None:
            box = box * self.scales[level]
        stride = self.strides[level]
        ltrb = F.relu(box) * stride if self.box == "relu" else torch.exp(box)
        quality = None
        if self.quality is not None:
            source = box_features if self.quality_on == "box" else cls_features
            quality = self.quality(source).float()
        return Level(stride, self.cls_logits(cls_features).float(), ltrb, quality)
