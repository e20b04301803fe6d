"""Modulated deformable convolution (DCNv2, arXiv:1811.11168)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from backbones.layers import AffineConv2d

BAND_BYTES = 4 << 20  # size of the samples of a band, which fit into a processor's cache


class DeformConv2d(AffineConv2d):
    """A convolution whose taps are moved by learned offsets and weighted by a learned mask.

    `offset` is a plain convolution with 3 outputs per tap, 27 for a 3x3 kernel: 18 offsets, (dy,
    dx) tap by tap in row-major order, then 9 mask logits; one deformable group. Samples outside of
    the map are zero.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, **kwargs: Any
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, **kwargs)
        self.use_gather = True  # False keeps torchvision's operator in a graph
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
        offset, mask = self.offset_and_mask(input)
        # On CPUs torchvision's operator uses one thread and takes many times as long.
        gather = self.use_gather and input.is_cpu and not torch.is_grad_enabled()
        forward = self.forward_gather if gather else self.forward_operator
        return forward(input, offset, mask, weight, bias)

    def offset_and_mask(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """Return offsets (N, 2 * taps, h, w) in pixels and masks (N, taps, h, w), as float32."""
        offset, mask = self.offset(input).float().split([2 * self.taps, self.taps], dim=1)
        return offset, mask.sigmoid()

    def forward_operator(
        self, input: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        """Convolve by torchvision's operator, in float32."""
        return deform_conv2d(
            input.float(),
            offset,
            weight.float(),
            None if bias is None else bias.float(),
            stride=tuple(self.stride),
            padding=tuple(int(p) for p in self.padding),
            mask=mask,
        ).to(input.dtype)

    def forward_gather(
        self, input: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        """Convolve by operators of torch, with samples in float32.

        A sample is a weighted sum of four pixels, which `F.embedding_bag` computes. The samples of
        an output's taps are laid out as a tile, so that a plain convolution whose stride is the
        size of its kernel does the rest, for a band of output rows at a time.
        """
        (images, _, height, width), channels = offset.shape, input.shape[1]
        k, stride, padding = self.kernel_size[0], self.stride[0], int(self.padding[0])
        # The map gets a border of zeros: one pixel wide, and two at the right and bottom, as
        # positions are rounded down.
        pixels = F.pad(input.float(), (1, 2, 1, 2)).permute(0, 2, 3, 1)
        size = (pixels.shape[1], pixels.shape[2])
        corners, weights = bilinear_corners(offset, mask, size, k, stride, padding)
        table = pixels.reshape(-1, channels)
        if torch.compiler.is_compiling():  # the number of bands depends on the size
            parts = [(corners, weights)]
        else:
            rows = max(1, BAND_BYTES // (k * width * k * channels * table.element_size()))
            parts = list(zip(corners.split(rows), weights.split(rows), strict=True))
        bands = []
        for indices, shares in parts:
            samples = F.embedding_bag(
                indices.flatten(0, -2),
                table,
                mode="sum",
                per_sample_weights=shares.flatten(0, -2),
            )
            tiles = samples.view(1, -1, width * k, channels).permute(0, 3, 1, 2).to(input.dtype)
            bands.append(F.conv2d(tiles, weight, bias, k, groups=self.groups).permute(0, 2, 3, 1))
        return torch.cat(bands, dim=1).view(images, height, width, -1).permute(0, 3, 1, 2)


def bilinear_corners(
    offset: Tensor, mask: Tensor, size: tuple[int, int], kernel_size: int, stride: int, padding: int
) -> tuple[Tensor, Tensor]:
    """Return the four pixels around each sample, and their weights.

    Args:
        offset, mask: as returned by `DeformConv2d.offset_and_mask`.
        size: (height, width) of the map with its border of one pixel, and two at the end.

    Returns:
        Indices into the flattened maps, (N * h, kernel_size, w, kernel_size, 4) int64, and in the
        same shape their bilinear weights times the mask.
    """
    images, _, height, width = offset.shape
    k, device = kernel_size, offset.device
    dy, dx = offset.view(images, k, k, 2, height, width).permute(3, 0, 4, 1, 5, 2)
    taps = torch.arange(k, device=device) - padding
    y = torch.arange(height, device=device)[:, None] * stride + taps
    x = torch.arange(width, device=device)[:, None] * stride + taps
    # A diverged network gives NaN or infinite positions; indices must stay within the map anyway.
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
