"""The FCOS detector: variants of the published systems are plain arguments of its parts.

Names are imported on first use, so that code that only reads datasets does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fcos.detections import Detections as Detections
    from fcos.detector import Detector as Detector
    from fcos.head import Head as Head
    from fcos.head import Level as Level
    from fcos.losses import Loss as Loss
    from fcos.postprocess import Decoder as Decoder
    from fcos.preprocess import ImageNormalizer as ImageNormalizer
    from fcos.preprocess import LongestSide as LongestSide
    from fcos.preprocess import ShortestSide as ShortestSide
    from fcos.pyramid import FPN as FPN
    from fcos.pyramid import HRFPN as HRFPN
    from fcos.pyramid import Pyramid as Pyramid
    from fcos.targets import TargetAssigner as TargetAssigner
    from fcos.tta import TTA_MULTI_SCALE as TTA_MULTI_SCALE
    from fcos.tta import Augmentation as Augmentation

_MODULES = {
    "Augmentation": "tta",
    "Decoder": "postprocess",
    "Detections": "detections",
    "Detector": "detector",
    "FPN": "pyramid",
    "HRFPN": "pyramid",
    "Head": "head",
    "ImageNormalizer": "preprocess",
    "Level": "head",
    "LongestSide": "preprocess",
    "Loss": "losses",
    "Pyramid": "pyramid",
    "ShortestSide": "preprocess",
    "TTA_MULTI_SCALE": "tta",
    "TargetAssigner": "targets",
}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'fcos' has no attribute {name!r}")
    value = getattr(import_module(f"fcos.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
