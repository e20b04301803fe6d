"""What the detector asks of a backbone."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Backbone(Protocol):
    """A module that turns a batch of images into feature maps of rising stride.

    `channels` and `strides` describe the maps that `forward` returns, finest first; nothing else
    is asked, so anything that meets this can stand under a pyramid.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __call__(self, images: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> (N, channels[i], H / strides[i], W / strides[i]) each, rounded up."""
        ...
