"""Random weights that make a detector work as hard as trained ones do.

A freshly initialised network has activations that grow from block to block and finds nothing, so
that decoding and NMS would have no work. Here its norms get the statistics of a real image, its
boxes a plausible size, and its class bias is moved until a given number of candidates passes the
score threshold. What is timed is then the right amount of work on meaningless numbers: rows that
use it say so, and no AP is ever taken from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fcos import Detector

CANDIDATES = 2000  # (location, class) pairs an image over the score threshold
BOX_STRIDES = 3.0  # distance to each side


def prepare(
    detector: Detector, pictures: Sequence[Tensor], candidates: int = CANDIDATES, seed: int = 0
) -> None:
    """Make a freshly built detector behave on pictures, (3, H, W) uint8 as `detect` takes them."""
    head = detector.head
    generator = torch.Generator().manual_seed(seed)
    weight = torch.empty(head.cls_logits.weight.shape).normal_(std=0.01, generator=generator)
    head.cls_logits.load_state_dict({"weight": weight}, strict=False)
    batches = [detector.prepare([picture])[0] for picture in pictures]
    settle_norms(detector, lambda: detector.network(batches[0]))
    _size_boxes(detector)
    with torch.no_grad():
        levels = [level for batch in batches for level in detector.network(batch)]
    logits = torch.cat([level.logits.flatten() for level in levels])
    threshold = torch.tensor(detector.decoder.score_threshold)
    assert head.cls_logits.bias is not None
    shift_bias(head.cls_logits.bias, logits - threshold.logit(), candidates * len(pictures))


def shift_bias(bias: Tensor, margins: Tensor, candidates: int) -> None:
    """Move a class bias so that as many candidates pass.

    Args:
        bias: of the class logits, in place.
        margins: how far every logit is over its threshold.
        candidates: how many are to be over it.
    """
    last = margins.topk(min(candidates, margins.numel())).values[-1]
    with torch.no_grad():
        bias -= last - 1e-4


def settle_norms(model: nn.Module, run: Callable[[], object]) -> None:
    """Set every batch norm's running statistics to those of its input in one run of the model."""

    def settle(norm: Any, inputs: tuple[Tensor, ...]) -> None:
        variance, mean = torch.var_mean(inputs[0].detach().float(), dim=(0, 2, 3))
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance.clamp(min=1e-3))

    norms = [module for module in model.modules() if hasattr(module, "running_var")]
    hooks = [norm.register_forward_pre_hook(settle) for norm in norms]
    trained = [p for p in model.parameters() if p.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        with torch.enable_grad():  # else the norms are folded away and never called
            run()
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def _size_boxes(detector: Detector) -> None:
    """Every location predicts a box of `BOX_STRIDES` strides to each side."""
    head = detector.head
    nn.init.zeros_(head.box_pred.weight)
    assert head.box_pred.bias is not None
    if head.box == "relu":
        nn.init.constant_(head.box_pred.bias, BOX_STRIDES)
        return
    nn.init.constant_(head.box_pred.bias, 1.0 if head.scales is not None else math.log(48))
    for scale, stride in zip(head.scales or (), head.strides, strict=False):
        scale.fill_(math.log(BOX_STRIDES * stride))
