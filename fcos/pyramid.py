"""Feature pyramids: from the feature maps of a backbone to the levels of the head."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.layers import is_exporting
from backbones.ranges import Count, CountOrZero
from fcos.checked import checked


@runtime_checkable
class Pyramid(Protocol):
    """A module from backbone features to levels of `channels` at `strides`, finest first."""

    channels: int
    strides: tuple[int, ...]

    def __call__(self, features: list[Tensor]) -> list[Tensor]: ...


Init = Literal["caffe2", "torch"]


def _conv(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, *, init: Init
) -> nn.Conv2d:
    conv = nn.Conv2d(
        in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2
    )
    if init == "caffe2":
        nn.init.kaiming_uniform_(conv.weight, a=1)
        assert conv.bias is not None
        nn.init.zeros_(conv.bias)
    return conv


@checked
class FPN(nn.Module):
    """Feature pyramid network (arXiv:1612.03144) with the two extra levels of RetinaNet.

    Args:
        in_channels, in_strides: the backbone's `channels` and `strides`; each feature is a level.
        channels: channels of each level.
        extra_from: the source of the extra, coarser levels: "p5" (the coarsest output), "c5" (the
            coarsest feature) or None for no extra levels (the real-time models).
        extra_levels: the number of extra levels; each halves the resolution by a 3x3 convolution of
            stride 2.
        upsample: "nearest", or "bilinear" with aligned corners (the centre-ness-free system, whose
            maps have sizes 2n - 1).
        rectify_extra: apply a ReLU to the first extra level before the head, too, not only before
            the next level (an in-place ReLU in the centre-ness-free system's code).
        init: initialise the convolutions as "caffe2" (its XavierFill, biases zero) or as "torch".
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        in_strides: Sequence[int],
        channels: Count = 256,
        *,
        extra_from: Literal["p5", "c5"] | None = "p5",
        extra_levels: CountOrZero = 2,
        upsample: Literal["nearest", "bilinear"] = "nearest",
        rectify_extra: bool = False,
        init: Init = "caffe2",
    ) -> None:
        super().__init__()
        conv = partial(_conv, init=init)
        extra_levels = extra_levels if extra_from else 0
        self.channels = channels
        self.strides = (
            *in_strides,
            *(in_strides[-1] * 2 ** (level + 1) for level in range(extra_levels)),
        )
        self.extra_from = extra_from
        self.upsample = upsample
        self.rectify_extra = rectify_extra
        self.lateral = nn.ModuleList(conv(c, channels, 1) for c in in_channels)
        self.output = nn.ModuleList(conv(channels, channels, 3) for _ in in_channels)
        sources = [in_channels[-1] if extra_from == "c5" else channels] + [channels] * extra_levels
        self.extra = nn.ModuleList(
            conv(source, channels, 3, stride=2) for source in sources[:extra_levels]
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """One (N, C_i, h_i, w_i) per feature -> one (N, channels, h, w) per level."""
        merged = self.lateral[-1](features[-1])
        levels = [self.output[-1](merged)]
        for i in range(len(features) - 2, -1, -1):
            merged = self.lateral[i](features[i]) + self._upsampled(merged, features[i])
            levels.insert(0, self.output[i](merged))
        coarsest = features[-1] if self.extra_from == "c5" else levels[-1]
        for i, conv in enumerate(self.extra):
            coarsest = conv(coarsest if i == 0 else F.relu(coarsest))
            if i == 0 and self.rectify_extra:
                coarsest = F.relu(coarsest)
            levels.append(coarsest)
        return levels

    def _upsampled(self, x: Tensor, finer: Tensor) -> Tensor:
        size = finer.shape[-2:]
        if self.upsample == "nearest":
            return F.interpolate(x, size=size, mode="nearest")
        return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


MULTIPLE = 8  # the ratio of HRNet's coarsest stride, to which images are padded, to its finest


@checked
class HRFPN(nn.Module):
    """High-resolution pyramid (arXiv:1904.04514, figure 4): concatenates maps at the finest size.

    Every level is an average pooling of that one map, each with its own 3x3 convolution.

    Args:
        in_channels, in_strides: those of the backbone's four maps.
        channels: channels of each level.
        levels: the number of levels.
        conv_stride: stride of the levels' convolutions: 2 starts the pyramid at stride 8 (`5l`),
            1 at stride 4 (`6l`).
        init: as in `FPN`; HRNet-FCOS leaves it to torch.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        in_strides: Sequence[int],
        channels: Count = 256,
        *,
        levels: Count = 5,
        conv_stride: Literal[1, 2] = 2,
        init: Init = "torch",
    ) -> None:
        super().__init__()
        conv = partial(_conv, init=init)
        self.channels = channels
        self.strides = tuple(in_strides[0] * conv_stride * 2**level for level in range(levels))
        self.reduction = conv(sum(in_channels), channels, 1)
        self.output = nn.ModuleList(
            conv(channels, channels, 3, stride=conv_stride) for _ in range(levels)
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Four maps, finest first -> one (N, channels, h, w) per level."""
        merged = self._merged(features)
        levels = []
        for level, conv in enumerate(self.output):
            levels.append(conv(_halved(merged, level)))
        return levels

    def _merged(self, features: list[Tensor]) -> Tensor:
        size = features[0].shape[-2:]
        if torch.is_grad_enabled():
            upsampled = [F.interpolate(f, size=size, mode="bilinear") for f in features[1:]]
            return self.reduction(torch.cat([features[0], *upsampled], dim=1))
        # A 1x1 convolution and bilinear upsampling commute. Reducing each map at its own size saves
        # the concatenation and seven eighths of the arithmetic.
        weights = self.reduction.weight.split([f.shape[1] for f in features], dim=1)
        merged = F.conv2d(features[0], weights[0], self.reduction.bias)
        for feature, weight in zip(features[1:], weights[1:], strict=True):
            merged += F.interpolate(F.conv2d(feature, weight), size=size, mode="bilinear")
        return merged


def _halved(x: Tensor, times: int) -> Tensor:
    """Average over squares with sides of 2 ** `times`, or over the whole of a smaller map.

    In an exported graph, the sides of maps must be multiples of `MULTIPLE`.
    """
    window = 2**times
    if times == 0:
        return x
    if not is_exporting():
        return F.avg_pool2d(x, [min(window, side) for side in x.shape[-2:]], stride=window)
    if window <= MULTIPLE:
        return F.avg_pool2d(x, window)
    # The window cannot depend on the sides there: a smaller map is extended by zeros, which are not
    # counted. Averages of 8x8 pixels are extended, since that is faster.
    x, window = F.avg_pool2d(x, MULTIPLE), window // MULTIPLE
    height, width = x.shape[-2:]
    missing = (0, torch.sym_max(width, window) - width, 0, torch.sym_max(height, window) - height)
    filled = F.avg_pool2d(F.pad(torch.ones_like(x[:1, :1]), missing), window)
    return F.avg_pool2d(F.pad(x, missing), window) / filled
