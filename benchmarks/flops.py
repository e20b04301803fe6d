"""Parameters, multiply-adds and activations, counted by fvcore on the network as published."""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from fvcore.nn import FlopCountAnalysis
from fvcore.nn.jit_handles import conv_flop_jit
from torch import Tensor, nn

from fcos import Detector
from fcos.preprocess import ShortestSide

SCOPES = ("backbone", "pyramid", "head")
KINDS = {
    "convolutions": ("conv", "deform_conv2d"),
    "norms": ("batch_norm", "group_norm"),
    "upsampling": ("upsample_nearest2d", "upsample_bilinear2d"),
    "relus": ("relu", "relu_", "relu6", "relu6_"),
}
COUNTED = ("convolutions", "norms", "upsampling")  # as fvcore does: ReLUs cost nothing


class Network(nn.Module):
    """The network from its normalised input to the raw outputs of the head, without decoding."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.backbone, self.pyramid = detector.backbone, detector.pyramid
        self.head = detector.head

    def forward(self, x: Tensor) -> list[Tensor]:
        levels = self.head(self.pyramid(self.backbone(x)))
        return [t for level in levels for t in level[1:] if t is not None]


def parameters(detector: nn.Module) -> dict[str, Any]:
    """Return the number of parameters, and of those that are trained."""
    return {
        "parameters": sum(p.numel() for p in detector.parameters()),
        "trained": sum(p.numel() for p in detector.parameters() if p.requires_grad),
    }


def input_size(detector: Detector, size: tuple[int, int] | None = None) -> tuple[int, int]:
    """Return the (height, width) to count at: the padded test size of a 3:2 image.

    For models tested at 800/1333 this is 800x1216, the input of HRNet-FCOS's GFLOPs column.
    """
    rule = detector.resize
    short, longest = size or (
        (rule.size, rule.longest) if isinstance(rule, ShortestSide) else (rule.size, rule.size)
    )
    if not isinstance(rule, ShortestSide):
        return longest, longest
    width = min(short * 3 / 2, longest)
    divisor = detector.normalizer.divisor
    return -(-short // divisor) * divisor, math.ceil(width / divisor) * divisor


def count(detector: Detector, size: tuple[int, int] | None = None) -> dict[str, Any]:
    """Count multiply-adds for one image, by part of the network and kind of operation.

    A multiply-add counts as one operation, as in all published tables. Nearly all are in
    convolutions, including deformable ones (without their sampling). An output of a norm counts as
    two, an upsampled value as one. ReLUs, one per output, are given in `kinds` but not in the
    total.

    Args:
        detector: in eval mode, on the CPU.
        size: (shortest, longest) side instead of the published test size.
    """
    height, width = input_size(detector, size)
    network = Network(copy.deepcopy(detector)).eval()
    network.requires_grad_(False)  # otherwise the trace keeps every activation
    # With gradients enabled, no norm is folded, so that the published network is counted.
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("fvcore.nn.jit_analysis").setLevel(logging.ERROR)
        flops = FlopCountAnalysis(network, torch.zeros(1, 3, height, width))
        flops.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        flops.set_op_handle(**_handles())
        counted = {scope: flops.by_operator(scope) for scope in SCOPES}
    return {
        "input": f"{height}x{width}",
        "gflops": _giga(counted, SCOPES, COUNTED),
        "backbone_gflops": _giga(counted, ("backbone", "pyramid"), COUNTED),
        "kinds": {
            scope: {kind: _giga(counted, (scope,), (kind,)) for kind in KINDS} for scope in SCOPES
        },
        "mega_activations": sum(c["activations"] for c in counted.values()) / 1e6,
    }


def _giga(counted: dict[str, Any], scopes: tuple[str, ...], kinds: tuple[str, ...]) -> float:
    names = [name for kind in kinds for name in KINDS[kind]]
    return float(sum(counted[scope][name] for scope in scopes for name in names) / 1e9)


def _handles() -> dict[str, Callable[[list[Any], list[Any]], Any]]:
    """Return counting rules for operations that fvcore does not know or counts differently."""
    rules: dict[str, Callable[[list[Any], list[Any]], Any]] = {
        "aten::_convolution": _conv,
        "torchvision::deform_conv2d": _deform_conv,
        "aten::batch_norm": lambda _, outputs: 2 * _numel(outputs[0]),
        "aten::group_norm": lambda _, outputs: 2 * _numel(outputs[0]),
    }
    for name in KINDS["relus"] + KINDS["upsampling"]:
        rules[f"aten::{name}"] = lambda _, outputs: _numel(outputs[0])
    return rules


def _conv(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """Count by fvcore's rule, and count activations, which are the outputs of convolutions."""
    return conv_flop_jit(inputs, outputs) + Counter(activations=_numel(outputs[0]))


def _deform_conv(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """Count as a plain convolution of the same weight; offsets have a separate convolution."""
    weight, out = inputs[1].type().sizes(), outputs[0].type().sizes()
    flops = math.prod(weight) * out[0] * out[2] * out[3]
    return Counter(deform_conv2d=flops, activations=_numel(outputs[0]))


def _numel(value: Any) -> int:
    return math.prod(value.type().sizes())
