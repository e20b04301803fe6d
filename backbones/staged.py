"""The interface of backbones, and a base class for those made of a stem and stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from backbones.layers import NormKind, NormLayer, constant_norm, norm_layer


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


class StagedBackbone(nn.Module):
    """A stem and a sequence of stages, of which stage k has stride 2^k.

    A subclass assigns `stem` and `stages`, built with `norm_of(stage)`, and then calls `freeze`.
    Stages after the last returned one are not built.

    Args:
        stage_channels: output channels of each stage.
        out_stages: which stages `forward` returns.
        norm, norm_eps: see `layers.norm_layer`.
        frozen_stages: how many of (stem, first stage, second stage, ...) are not trained; their
            norms have constant statistics too.
    """

    first_stage = 2  # the number of the first stage after the stem

    def __init__(
        self,
        stage_channels: Sequence[int],
        out_stages: Sequence[int],
        norm: NormKind,
        norm_eps: float,
        frozen_stages: int,
    ) -> None:
        super().__init__()
        first, last = self.first_stage, self.first_stage + len(stage_channels) - 1
        if not out_stages or not all(first <= stage <= last for stage in out_stages):
            raise ValueError(
                f"out_stages {list(out_stages)}: {type(self).__name__} has stages {first} to {last}"
            )
        self.out_stages = tuple(out_stages)
        self.channels = tuple(stage_channels[stage - first] for stage in out_stages)
        self.strides = tuple(2**stage for stage in out_stages)
        self.built_stages = tuple(range(first, max(out_stages) + 1))
        self.frozen_stages = frozen_stages
        self._norm = norm_layer(norm, norm_eps)
        self._frozen_norm = norm_layer(constant_norm(norm), norm_eps)
        self.stem: nn.Module = nn.Identity()
        self.stages = nn.ModuleList()

    def norm_of(self, stage: int) -> NormLayer:
        """Return the norm layer of a stage; the stem is the stage before the first."""
        frozen = stage - self.first_stage + 1 < self.frozen_stages
        return self._frozen_norm if frozen else self._norm

    def freeze(self) -> None:
        """Exclude the frozen stages from training."""
        for module in [self.stem, *self.stages][: self.frozen_stages]:
            module.requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> features of `out_stages`, stage k at stride 2^k."""
        x = self.stem(x)
        features = []
        for stage, module in zip(self.built_stages, self.stages, strict=True):
            x = self.run_stage(stage, module, x)
            if stage in self.out_stages:
                features.append(x)
        return features

    def run_stage(self, stage: int, module: nn.Module, x: Tensor) -> Tensor:
        """Apply a stage, including any pooling before it."""
        output: Tensor = module(x)
        return output
