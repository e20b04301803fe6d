"""Interchangeable feature extractors that implement `Backbone`, one file per architecture."""

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
