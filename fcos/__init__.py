"""What detects: the one FCOS core, whose published variants are plain arguments of its parts."""

from fcos.decode import Decoder
from fcos.detections import Detections
from fcos.detector import Detector
from fcos.head import Head, Level
from fcos.losses import Loss
from fcos.preprocess import ImageNormalizer, LongestSide, ShortestSide
from fcos.pyramid import FPN, HRFPN, Pyramid
from fcos.targets import TargetAssigner
from fcos.views import MULTI_SCALE, View

__all__ = [
    "FPN",
    "HRFPN",
    "MULTI_SCALE",
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
    "View",
]
