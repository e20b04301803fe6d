"""Preparing a detector for inference: fused norms, a faster memory layout, compilation."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from backbones.layers import ConvNorm
from backbones.winograd import WinogradConv2d
from fcos.preprocess import ImageNormalizer

if TYPE_CHECKING:
    from typing_extensions import Self


class InferenceOptions(nn.Module):
    """Methods that make inference faster; a base class of `Detector`."""

    backbone: Any
    pyramid: Any
    head: Any
    normalizer: ImageNormalizer
    fused = False
    backbone_frozen = False

    @property
    def runtime(self) -> str:
        """The software that runs the network, with its version."""
        return f"PyTorch {torch.__version__.split('+')[0]}"

    def fuse(self) -> Self:
        """Fold the batch norms of the backbone into its convolutions, for faster inference.

        This cannot be undone: the detector stays in eval mode, and its state dict has other keys
        than the entry's, so load and save weights before this call.
        """
        self.eval()
        for module in self.modules():
            if isinstance(module, ConvNorm):
                module.fuse()
        self.fused = True
        return self

    def use_winograd(self) -> Self:
        """Fuse the norms, and compute 3x3 convolutions of many channels by Winograd's algorithm.

        It is faster in float32 on a CPU, needs no compiler, and serves images of every size. Head
        outputs differ by about 1e-5 of the largest. The transformed weights of FCOS_R_50_1x take
        286 MB. See `WinogradConv2d`.
        """
        self.fuse()
        for parent in list(self.modules()):
            for name, child in parent.named_children():
                if WinogradConv2d.suits(child):
                    setattr(parent, name, WinogradConv2d(child))
        return self

    def compile_network(self, mode: str | None = None) -> Self:
        """Compile backbone, pyramid and head in place, for images of every size.

        Inputs are padded as before, so that results are those of the eager network up to rounding.

        Args:
            mode: mode of `torch.compile`. "reduce-overhead" captures a CUDA graph for each input
                size: the sides of padded batches are multiples of 32, which gives about 40 sizes on
                COCO.

        Raises:
            RuntimeError: the detector is on a CPU, and there is no C++ compiler.
        """
        check_compiler(self.normalizer.mean.device)
        for part in (self.backbone, self.pyramid, self.head):
            part.compile(dynamic=True, mode=mode)
        return self

    def freeze_backbone(self) -> Self:
        """Train only pyramid and head; the statistics of the backbone's norms are constant."""
        self.backbone.requires_grad_(False)
        self.backbone_frozen = True
        return self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set training mode; raises a RuntimeError if the norms are fused."""
        if mode and self.fused:
            raise RuntimeError(
                "a fused detector cannot be trained, its norms are folded into the convolutions: "
                "build it again and leave out `fuse()`"
            )
        super().train(mode)
        if self.backbone_frozen:
            self.backbone.eval()
        return self


def inference_layout(device: torch.device | str, dtype: torch.dtype) -> torch.memory_format:
    """Return the memory format of weights that is faster for inference.

    CPUs and the tensor cores of GPUs, which half precision uses, compute convolutions in
    channels_last. In float32 on a GPU both layouts are about as fast, but group norm returns a
    contiguous tensor, so that channels_last would copy the maps of every head layer twice.
    """
    float32_on_gpu = torch.device(device).type == "cuda" and dtype == torch.float32
    return torch.contiguous_format if float32_on_gpu else torch.channels_last


def check_compiler(device: torch.device) -> None:
    """Raise a RuntimeError if `torch.compile` has no C++ compiler for a CPU."""
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise RuntimeError(
            f"compiling for a CPU needs a C++ compiler, and {compiler} is not on the PATH: "
            "install it, or name another in the environment variable CXX"
        )
