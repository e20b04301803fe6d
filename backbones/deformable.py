"""Modulated deformable convolution (DCNv2, arXiv:1811.11168)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from backbones.conv import AffineConv2d

BAND = 4 << 20  # bytes of samples at a time, which a processor's cache can hold


class DeformConv2d(AffineConv2d):
    """A convolution that moves each tap by a learned offset and weighs it by a learned mask.

    `offset` is a plain convolution with 3 outputs a tap, 27 for a 3x3 kernel: 18 offsets, (dy, dx)
    tap by tap in row-major order, then 9 mask logits; one deformable group. Sampling outside of the
    map reads zeros.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, **kwargs: Any
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, **kwargs)
        self.looks_up = True  # False in a graph, where it is to be one operator
        self.taps = kernel_size * kernel_size
        self.offset = nn.Conv2d(
            in_channels,
            3 * self.taps,
            kernel_size,
            stride=(self.stride[0], self.stride[1]),
            padding=kernel_size // 2,
        )
        nn.init.zeros_(self.offset.weight)
        assert self.offset.bias is not None
        nn.init.zeros_(self.offset.bias)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        offset, mask = self.moves(input)
        # torchvision's kernel for CPUs has one thread and takes many times as long as a lookup.
        quick = self.looks_up and input.is_cpu and not torch.is_grad_enabled()
        way = self.by_lookup if quick else self.by_kernel
        return way(input, offset, mask, weight, bias)

    def moves(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets in pixels (N, 2 * taps, h, w) and masks of 0..1 (N, taps, h, w), in float32."""
        offset, mask = self.offset(input).float().split([2 * self.taps, self.taps], dim=1)
        return offset, mask.sigmoid()

    def by_kernel(
        self, input: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        """The convolution by torchvision's operator, in float32."""
        return deform_conv2d(
            input.float(),
            offset,
            weight.float(),
            None if bias is None else bias.float(),
            stride=tuple(self.stride),
            padding=tuple(int(p) for p in self.padding),
            mask=mask,
        ).to(input.dtype)

    def by_lookup(
        self, input: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        """The same from torch's own parts, sampled in float32.

        A sample is the weighted sum of four pixels, which is what `F.embedding_bag` looks up. The
        samples of an output's taps are laid out as a tile of their own, so that a plain convolution
        whose stride is its kernel's size does the rest; a band of outputs at a time.
        """
        (images, _, height, width), channels = offset.shape, input.shape[1]
        k, stride, padding = self.kernel_size[0], self.stride[0], int(self.padding[0])
        # A border of zeros, one pixel wide and two where positions are rounded down, is what lies
        # outside of the map.
        pixels = F.pad(input.float(), (1, 2, 1, 2)).permute(0, 2, 3, 1)
        size = (pixels.shape[1], pixels.shape[2])
        corners, shares = corners_of(offset, mask, size, k, stride, padding)
        lookup = pixels.reshape(-1, channels)
        if torch.compiler.is_compiling():  # a graph for all sizes has no bands
            parts = [(corners, shares)]
        else:
            band = max(1, BAND // (k * width * k * channels * lookup.element_size()))
            parts = list(zip(corners.split(band), shares.split(band), strict=True))
        bands = []
        for places, weights in parts:
            found = F.embedding_bag(
                places.flatten(0, -2),
                lookup,
                mode="sum",
                per_sample_weights=weights.flatten(0, -2),
            )
            tiles = found.view(1, -1, width * k, channels).permute(0, 3, 1, 2).to(input.dtype)
            bands.append(F.conv2d(tiles, weight, bias, k, groups=self.groups).permute(0, 2, 3, 1))
        return torch.cat(bands, dim=1).view(images, height, width, -1).permute(0, 3, 1, 2)


def corners_of(
    offset: Tensor, mask: Tensor, size: tuple[int, int], kernel_size: int, stride: int, padding: int
) -> tuple[Tensor, Tensor]:
    """Which four pixels each sample is made of, and how much of each.

    Args:
        offset, mask: as `DeformConv2d.moves` gives them.
        size: (height, width) of the map with its border of one pixel, and of two at its end.

    Returns:
        Places in the flattened maps (N * h, kernel_size, w, kernel_size, 4) int64, and the same of
        bilinear weights times masks.
    """
    images, _, height, width = offset.shape
    k, device = kernel_size, offset.device
    dy, dx = offset.view(images, k, k, 2, height, width).permute(3, 0, 4, 1, 5, 2)
    taps = torch.arange(k, device=device) - padding
    y = torch.arange(height, device=device)[:, None] * stride + taps
    x = torch.arange(width, device=device)[:, None] * stride + taps
    # A diverged network's positions are none at all: they must stay within the map all the same.
    y = (y[:, :, None, None] + dy).nan_to_num(-1).clamp(-1, size[0] - 3) + 1
    x = (x + dx).nan_to_num(-1).clamp(-1, size[1] - 3) + 1
    top, left = y.floor(), x.floor()
    image = torch.arange(images, device=device).view(-1, 1, 1, 1, 1)
    corner = image * (size[0] * size[1]) + (top * size[1] + left).long()
    corners = torch.stack((corner, corner + 1, corner + size[1], corner + size[1] + 1), dim=-1)
    mask = mask.view(images, k, k, height, width).permute(0, 3, 1, 4, 2)
    down, right = y - top, x - left
    above, below = mask * (1 - down), mask * down
    shares = (above * (1 - right), above * right, below * (1 - right), below * right)
    return corners.flatten(0, 1), torch.stack(shares, dim=-1).flatten(0, 1)
