"""Any timm model that gives intermediate features, as a backbone of the detector."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from backbones.ranges import Count, CountOrZero


class TimmBackbone(nn.Module):
    """The features of a timm model at the strides that a pyramid needs.

    timm's weights expect RGB with the mean and deviation of the model's `pretrained_cfg`.

    Args:
        name: a name that `timm.create_model` knows, such as "convnext_tiny.fb_in1k".
        out_indices: timm's indices of the features to return; by default those of `strides`.
        pretrained: load timm's weights.
        strides: strides of the features to return; of several with one stride, the deepest is
            taken.
        norm, norm_eps, frozen_stages: ignored. Configs set them for all backbones, but a timm
            model has its own norms, and all of its stages are trained.
        options: passed on to `timm.create_model`, such as `img_size` for models of fixed size.

    Raises:
        ImportError: timm is not installed.
        ValueError: the model has no feature at one of the strides.
    """

    def __init__(
        self,
        name: str,
        out_indices: Sequence[int] | None = None,
        pretrained: bool = False,
        *,
        strides: Sequence[Count] = (8, 16, 32),
        norm: str | None = None,
        norm_eps: float | None = None,
        frozen_stages: CountOrZero = 0,
        **options: Any,
    ) -> None:
        super().__init__()
        try:
            import timm
        except ImportError:
            raise ImportError(
                f"the backbone {name!r} is one of timm's: pip install 'fcos-zoo[timm]'"
            ) from None
        create = partial(timm.create_model, name, features_only=True, **options)
        if out_indices is None:
            with torch.device("meta"):  # only to find out which features there are
                probe: Any = create()
            out_indices = _deepest(probe.feature_info.reduction(), strides, name)
        # Most models do not build the layers after the last feature; in others they are frozen.
        model: Any = create(pretrained=pretrained, out_indices=tuple(out_indices))
        _freeze_unused(model, options.get("img_size", 224))
        self.model = model
        self.nhwc = getattr(model, "output_fmt", "NCHW") == "NHWC"
        self.strides = tuple(model.feature_info.reduction())
        self.channels = tuple(model.feature_info.channels())

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> one (N, channels[i], h, w) per feature."""
        features: list[Tensor] = self.model(x)
        return [x.permute(0, 3, 1, 2) for x in features] if self.nhwc else features


@torch.enable_grad()
def _freeze_unused(model: nn.Module, size: Any) -> None:
    """Freeze the parameters that a backward pass from the features does not reach."""
    twin = copy.deepcopy(model).to("meta").eval()
    height, width = size if isinstance(size, Sequence) else (size, size)
    features = twin(torch.empty(1, 3, height, width, device="meta"))
    torch.stack([feature.sum() for feature in features]).sum().backward()
    for original, parameter in zip(model.parameters(), twin.parameters(), strict=True):
        original.requires_grad_(parameter.grad is not None)


def _deepest(available: Sequence[int], strides: Sequence[int], name: str) -> list[int]:
    """Return the indices of the deepest available features at these strides."""
    missing = [stride for stride in strides if stride not in available]
    if missing:
        raise ValueError(
            f"timm's {name!r} has features at strides {list(available)}, none at {missing}: "
            "choose others by `strides`"
        )
    deepest = {stride: index for index, stride in enumerate(available)}
    return [deepest[stride] for stride in sorted(strides)]
