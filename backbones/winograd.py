"""3x3 convolutions by Winograd's algorithm F(4x4, 3x3) (Lavin and Gray, arXiv:1509.09308)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.layers import AffineConv2d

TILE = 4  # outputs per side of a tile, which reads TILE + 2 inputs per side
VALUES = (TILE + 2) ** 2
BAND = 1 << 21  # number of values that are transformed at a time, so that they stay in the cache
FEWEST_PAIRS = 64 * 128  # input times output channels; with fewer, the transforms cost too much
# The matrices B^T, G and A^T of section 4.3 of the paper.
INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
KERNEL = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))
ONES = TILE + 3  # index of the product (row 1, column 1) that all outputs of a tile add once


class WinogradConv2d(nn.Conv2d):
    """A 3x3 convolution of stride 1 that takes a quarter of the multiplications, on a CPU.

    36 products compute the 16 outputs of a tile, instead of 144. Outputs differ from those of a
    direct convolution by about 1e-5 of the largest. The transformed weights take four times the
    memory of the weights. With gradients, below float32, on a GPU, and when it is compiled or
    exported, it is an ordinary convolution.

    Args:
        conv: the convolution to compute. Afterwards its weights may only be loaded, not changed in
            another way.
    """

    kernels: Tensor
    input_transform: Tensor
    output_transform: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(conv.in_channels, conv.out_channels, 3, padding=1, device="meta")
        self.weight, self.bias = conv.weight, conv.bias
        self.register_buffer("kernels", self._transformed(), persistent=False)
        for name, matrix in (("input_transform", INPUT), ("output_transform", OUTPUT)):
            transform = _of_squares(matrix).to(conv.weight)
            self.register_buffer(name, transform, persistent=False)

    @staticmethod
    def suits(conv: nn.Module) -> TypeGuard[nn.Conv2d]:
        """Whether `conv` is a convolution that this class computes faster."""
        return (
            isinstance(conv, nn.Conv2d)
            and type(conv) in (nn.Conv2d, AffineConv2d)
            and conv.kernel_size == (3, 3)
            and conv.stride == conv.padding == conv.dilation == (1, 1)
            and conv.padding_mode == "zeros"
            and conv.groups == 1
            and conv.in_channels * conv.out_channels >= FEWEST_PAIRS
        )

    def _transformed(self) -> Tensor:
        """Return the weights as (VALUES, in_channels, out_channels), transformed in float64."""
        weights = self.weight.detach().double().permute(2, 3, 1, 0).reshape(9, -1)
        kernels = _of_squares(KERNEL).to(weights.device) @ weights
        return kernels.view(VALUES, self.in_channels, self.out_channels).to(self.weight.dtype)

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self.kernels = self._transformed()

    def forward(self, input: Tensor) -> Tensor:
        direct = torch.is_grad_enabled() or torch.compiler.is_compiling()
        if direct or not input.is_cpu or input.dtype != torch.float32:
            return super().forward(input)
        images, _, height, width = input.shape
        rows, columns = -(-height // TILE), -(-width // TILE)
        padding = (1, columns * TILE + 1 - width, 1, rows * TILE + 1 - height)
        x = F.pad(input, padding).permute(0, 2, 3, 1)
        out = x.new_empty(images, rows, TILE, columns, TILE, self.out_channels)
        row = VALUES * images * columns * max(self.in_channels, self.out_channels)
        step = max(1, BAND // row)
        for start in range(0, rows, step):
            band = x[:, start * TILE : (start + step) * TILE + 2]
            out[:, start : start + step] = self._tiles(band)
        out = out.view(images, rows * TILE, columns * TILE, self.out_channels)
        return out[:, :height, :width].permute(0, 3, 1, 2)

    def _tiles(self, x: Tensor) -> Tensor:
        """(N, 4 R + 2, 4 C + 2, in) -> (N, R, 4, C, 4, out)."""
        tiles = x.unfold(1, TILE + 2, TILE).unfold(2, TILE + 2, TILE).permute(0, 1, 2, 4, 5, 3)
        images, rows, columns = tiles.shape[:3]
        # Transforming one tile at a time is faster than one product with all values.
        values = self.input_transform @ tiles.reshape(-1, VALUES, self.in_channels)
        products = torch.bmm(values.transpose(0, 1), self.kernels)
        if self.bias is not None:
            products[ONES] += self.bias
        out = self.output_transform @ products.transpose(0, 1)
        return out.view(images, rows, columns, TILE, TILE, -1).transpose(2, 3)


def _of_squares(matrix: Sequence[Sequence[float]]) -> Tensor:
    """Return the matrix that applies `matrix` to columns and rows of a flattened square."""
    factor = torch.tensor(matrix, dtype=torch.float64)
    return torch.kron(factor, factor)
