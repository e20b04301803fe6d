"""What sees: interchangeable backbones, each in a file of its own, all meeting `Backbone`."""

from backbones.dla import DLA
from backbones.hrnet import HRNet
from backbones.mobilenet import MobileNetV2
from backbones.protocol import Backbone
from backbones.resnet import ResNet
from backbones.timm import TimmBackbone
from backbones.tiny import TinyNet
from backbones.vovnet import VoVNet

__all__ = ["DLA", "Backbone", "HRNet", "MobileNetV2", "ResNet", "TimmBackbone", "TinyNet", "VoVNet"]
