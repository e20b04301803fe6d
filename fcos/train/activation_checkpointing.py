"""Activation checkpointing: less memory at the cost of a second forward pass (arXiv:1604.06174)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from backbones.dla import BasicBlock
from fcos.detector import Detector


def checkpoint_activations(detector: Detector) -> None:
    """Keep only the inputs of the backbone's blocks and of the head's towers.

    Everything between them is computed a second time in the backward pass. Parameters keep their
    names, and batch norms update their statistics only once.
    """
    assert isinstance(detector.backbone, nn.Module)
    towers = [detector.head.shared_tower, detector.head.cls_tower, detector.head.box_tower]
    for module in [*_blocks(detector.backbone), *towers]:
        module.forward = _Checkpointed(module, module.forward)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost blocks: the members of each `Sequential`, and DLA's blocks."""
    for child in module.children():
        if isinstance(child, nn.Sequential):
            yield from child
        elif isinstance(child, BasicBlock):
            yield child
        else:
            yield from _blocks(child)


class _Checkpointed:
    """A forward pass that is repeated in the backward pass."""

    def __init__(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        self.norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
        self.forward = forward

    def __call__(self, *args: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.forward(*args)
        return checkpoint(
            self.forward,
            *args,
            use_reentrant=False,
            preserve_rng_state=False,
            context_fn=self._contexts,
        )

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), self._statistics_kept()

    @contextmanager
    def _statistics_kept(self) -> Iterator[None]:
        before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in self.norms]
        for norm in self.norms:
            norm.momentum = 0.0
            norm.num_batches_tracked = None
        try:
            yield
        finally:
            for norm, momentum, count in before:
                norm.momentum, norm.num_batches_tracked = momentum, count
