"""Interchangeable feature extractors, one architecture a file, which all implement `Backbone`."""

from backbones.dla import DLA
from backbones.hrnet import HRNet
from backbones.mobilenet import MobileNetV2
from backbones.resnet import ResNet
from backbones.staged import Backbone, StagedBackbone
from backbones.timm import TimmBackbone
from backbones.tiny import TinyNet
from backbones.vovnet import VoVNet

__all__ = [
    "DLA",
    "Backbone",
    "HRNet",
    "MobileNetV2",
    "ResNet",
    "StagedBackbone",
    "TimmBackbone",
    "TinyNet",
    "VoVNet",
]
