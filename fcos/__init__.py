"""What detects: the one FCOS core, whose published variants are plain arguments of its parts."""

from fcos.detections import Detections
from fcos.detector import Detector
from fcos.head import Head, Level
from fcos.losses import Loss
from fcos.postprocess import Decoder
from fcos.preprocess import ImageNormalizer, LongestSide, ShortestSide
from fcos.pyramid import FPN, HRFPN, Pyramid
from fcos.targets import TargetAssigner
from fcos.tta import TTA_MULTI_SCALE, Augmentation

__all__ = [
    "FPN",
    "HRFPN",
    "TTA_MULTI_SCALE",
    "Augmentation",
    "Decoder",
    "Detections",
    "Detector",
    "Head",
    "ImageNormalizer",
    "Level",
    "LongestSide",
    "Loss",
    "Pyramid",
    "ShortestSide",
    "TargetAssigner",
]
