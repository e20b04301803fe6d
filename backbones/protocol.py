"""The interface between a backbone and the detector."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Backbone(Protocol):
    """A module that computes feature maps of growing stride from a batch of images.

    `channels` and `strides` describe the maps that `forward` returns, finest first. A pyramid needs
    nothing else.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __call__(self, images: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> (N, channels[i], H / strides[i], W / strides[i]) each, rounded up."""
        ...
