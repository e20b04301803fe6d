"""What sees: interchangeable backbones, each in a file of its own, all meeting `Backbone`."""

from backbones.protocol import Backbone
from backbones.resnet import ResNet

__all__ = ["Backbone", "ResNet"]
