"""Any timm model that gives intermediate features, as a backbone of the detector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


class TimmBackbone(nn.Module):
    """The features of a timm model at the strides that a pyramid asks for.

    timm's weights expect RGB with the mean and deviation of the model's `pretrained_cfg`.

    Args:
        name: a name that `timm.create_model` knows, such as "convnext_tiny.fb_in1k".
        out_indices: timm's numbers of the features to return; left out, `strides` decides.
        pretrained: fetch timm's weights.
        strides: of the features to return; of several at one stride the deepest is taken.
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
        strides: Sequence[int] = (8, 16, 32),
        **options: Any,
    ) -> None:
        super().__init__()
        try:
            import timm
        except ImportError:
            raise ImportError(
                f"the backbone {name!r} is one of timm's: pip install 'fcos-zoo[timm]'"
            ) from None
        if out_indices is not None:
            options["out_indices"] = tuple(out_indices)
        model: Any = timm.create_model(name, pretrained=pretrained, features_only=True, **options)
        found = list(model.feature_info.reduction())
        if out_indices is None:
            missing = [stride for stride in strides if stride not in found]
            if missing:
                raise ValueError(
                    f"timm's {name!r} has features at strides {found}, none at {missing}: "
                    "choose others by `strides`"
                )
            deepest = {stride: index for index, stride in enumerate(found)}
            self.selected = [deepest[stride] for stride in strides]
        else:
            self.selected = list(range(len(found)))
        self.model = model
        self.nhwc = getattr(model, "output_fmt", "NCHW") == "NHWC"
        self.strides = tuple(found[index] for index in self.selected)
        self.channels = tuple(model.feature_info.channels()[index] for index in self.selected)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> one (N, channels[i], h, w) per feature."""
        features = self.model(x)
        selected = [features[index] for index in self.selected]
        return [x.permute(0, 3, 1, 2) for x in selected] if self.nhwc else selected
