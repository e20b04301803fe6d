"""Preparing a network that is only run: fused norms, the faster memory layout, a compiler."""

from __future__ import annotations

import os
import shutil
import sys

import torch
from torch import nn

from backbones.layers import ConvNorm


def fuse_norms(network: nn.Module) -> None:
    """Fold the norm of every `ConvNorm` into its convolution for good."""
    for module in network.modules():
        if isinstance(module, ConvNorm):
            module.fuse()


def inference_layout(device: torch.device | str, dtype: torch.dtype) -> torch.memory_format:
    """The memory format of the weights of a detector that is only run.

    CPUs and the tensor cores of GPUs, which half precision uses, compute convolutions in
    channels_last. In float32 on a GPU the kernels of both layouts are alike, but group norm returns
    the contiguous one, so that every layer of the head would be copied twice.
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
