"""A convolution whose weights can be scaled as it is called."""

from __future__ import annotations

from torch import Tensor, nn


class AffineConv2d(nn.Conv2d):
    """`nn.Conv2d` that also computes `conv(x) * scale + shift`, through scaled weights."""

    def forward(
        self, input: Tensor, scale: Tensor | None = None, shift: Tensor | None = None
    ) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, h, w).

        `scale` and `shift`, of shape (out_channels,), are for convolutions without a bias.
        """
        if scale is None or shift is None:
            return super().forward(input)
        weight = (self.weight * scale.view(-1, 1, 1, 1)).to(self.weight.dtype)
        return self._conv_forward(input, weight, shift.to(weight.dtype))
