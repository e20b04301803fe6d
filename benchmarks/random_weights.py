"""Random weights that give a detector as much work as trained ones.

The activations of a freshly initialised network grow from block to block, and it detects nothing,
so that decoding and NMS would have no work. Here, batch norms get the statistics of a real image,
boxes get a plausible size, and the class bias is shifted until a given number of candidates passes
the score threshold. The amount of work is then realistic, although the outputs are meaningless:
rows that are measured this way say so, and AP is never computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fcos import Detector

CANDIDATES = 2000  # (location, class) pairs per image above the score threshold
BOX_STRIDES = 3.0  # distance to each side of a box, in strides


def randomize(detector: Detector, images: Sequence[Tensor], candidates: int = CANDIDATES) -> None:
    """Give a freshly built detector random weights suited to some images, the same each time.

    Args:
        detector: a detector of `zoo.build`.
        images: (3, H, W) uint8 images.
        candidates: (location, class) pairs per image that pass the score threshold.
    """
    head = detector.head
    generator = torch.Generator().manual_seed(0)
    weight = torch.empty(head.cls_logits.weight.shape).normal_(std=0.01, generator=generator)
    head.cls_logits.load_state_dict({"weight": weight}, strict=False)
    batches = [detector.prepare([image])[0] for image in images]
    calibrate_batchnorm(detector, lambda: detector.network(batches[0]))
    _set_box_size(detector)
    with torch.no_grad():
        levels = [level for batch in batches for level in detector.network(batch)]
    logits = torch.cat([level.logits.flatten() for level in levels])
    threshold = torch.tensor(detector.decoder.score_threshold)
    assert head.cls_logits.bias is not None
    match_candidate_count(
        head.cls_logits.bias, logits - threshold.logit(), candidates * len(images)
    )


def match_candidate_count(bias: Tensor, margins: Tensor, candidates: int) -> None:
    """Shift a class bias in place so that a given number of candidates passes the threshold.

    Args:
        bias: the bias of the class predictor.
        margins: the difference of each logit and its threshold.
        candidates: the number of logits that are to exceed it.
    """
    last = margins.topk(min(candidates, margins.numel())).values[-1]
    with torch.no_grad():
        bias -= last - 1e-4


def calibrate_batchnorm(model: nn.Module, run: Callable[[], object]) -> None:
    """Set the running statistics of every batch norm to those of its input in one forward pass.

    Args:
        model: contains the norms.
        run: performs the forward pass.
    """

    def calibrate(norm: Any, inputs: tuple[Tensor, ...]) -> None:
        variance, mean = torch.var_mean(inputs[0].detach().float(), dim=(0, 2, 3))
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance.clamp(min=1e-3))

    norms = [module for module in model.modules() if hasattr(module, "running_var")]
    hooks = [norm.register_forward_pre_hook(calibrate) for norm in norms]
    trained = [p for p in model.parameters() if p.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        with torch.enable_grad():  # without gradients norms may be folded and never called
            run()
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def _set_box_size(detector: Detector) -> None:
    """Make every location predict a box that extends `BOX_STRIDES` strides to each side."""
    head = detector.head
    nn.init.zeros_(head.box_pred.weight)
    assert head.box_pred.bias is not None
    if head.box == "relu":
        nn.init.constant_(head.box_pred.bias, BOX_STRIDES)
        return
    nn.init.constant_(head.box_pred.bias, 1.0 if head.scales is not None else math.log(48))
    for scale, stride in zip(head.scales or (), head.strides, strict=False):
        scale.fill_(math.log(BOX_STRIDES * stride))
