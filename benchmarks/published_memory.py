"""Predicted training memory beside HRNet-FCOS's column, and what its code kept that ours does not:
`python -m benchmarks.published_memory > reports/training_memory.md`.

The original ran on PyTorch 1.1 (its INSTALL.md). From its code:

- the norms of HRNet ran with constant statistics and trained affine terms, each keeping its input
  (here such norms are folded into their convolution, which keeps one activation less);
- ReLUs of the head's towers and after HRNet's sums were not in place, and PyTorch kept such a
  ReLU's input beside its output;
- gradients were zeroed and not freed, so that they lay beside the activations of the next step;
- DistributedDataParallel held them a second time, in the buckets that it sends.

Each is added here on fake tensors, one after the other. What is left is not known: convolutions'
work space, which PyTorch 1.1 let cuDNN choose without limit, was counted there and is not here.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

import zoo
from backbones import hrnet
from backbones.layers import ConvNorm, FrozenBatchNorm2d
from benchmarks import prediction
from fcos import head
from zoo import published

GPUS = 8
SIZE = (800, 1344)  # of the largest batch: 1333 padded to a multiple of 32
STEPS = ("here", "norms", "ReLUs", "gradients", "buckets")


class KeptReLU(torch.autograd.Function):
    """A ReLU that is not in place and keeps its input, as PyTorch 1.1 did."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return F.relu(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return torch.ops.aten.threshold_backward(gradient, ctx.saved_tensors[0], 0)


class KeepingF:
    """`torch.nn.functional` with that ReLU."""

    relu_ = staticmethod(KeptReLU.apply)

    def __getattr__(self, name: str) -> Any:
        return getattr(F, name)


@contextlib.contextmanager
def norms_keep_their_input() -> Iterator[None]:
    """Norms with trained affine terms are not folded; frozen ones kept nothing in the original."""
    frozen = property(lambda self: self.training and isinstance(self.norm, FrozenBatchNorm2d))
    with mock.patch.object(ConvNorm, "folds_in_training", frozen):
        yield


@contextlib.contextmanager
def relus_keep_their_input() -> Iterator[None]:
    """In the head, and after HRNet's sums; those within its blocks were in place."""
    sums = hrnet.Fusion.forward

    @functools.wraps(sums)
    def forward(self: hrnet.Fusion, branches: list[Tensor]) -> Tensor:
        with mock.patch.object(hrnet, "F", KeepingF()):
            return sums(self, branches)

    with (
        mock.patch.object(head, "F", KeepingF()),
        mock.patch.object(hrnet.Fusion, "forward", forward),
    ):
        yield


def gigabytes(entry: str) -> list[float]:
    """The peak of one process with two images after each of `STEPS`."""
    with contextlib.ExitStack() as stack:
        peaks = [prediction.training_step(entry, SIZE)["predicted_gb"]]
        for change in (norms_keep_their_input, relus_keep_their_input):
            stack.enter_context(change())
            peaks.append(prediction.training_step(entry, SIZE)["predicted_gb"])
    with torch.device("meta"):
        detector = zoo.build(entry)
    trained = 4 * sum(p.numel() for p in detector.parameters() if p.requires_grad) / 2**30
    return [*peaks, peaks[-1] + trained, peaks[-1] + 2 * trained]


def page() -> str:
    """The markdown table of all rows of the published column without SyncBN."""
    told = (__doc__ or "").split("\n\n", 1)[1].strip()
    lines = ["# Training memory, predicted and published", "", told, ""]
    lines += [
        "Gigabytes of one process with two images of 800x1344, each column with one more:",
        "",
    ]
    headings = ["entry", "published / 8", *STEPS, "here / published", "all / published"]
    lines += [f"| {' | '.join(headings)} |", f"| --- |{' ---: |' * (len(headings) - 1)}"]
    table = published.read(published.DIRECTORY / "hrnet.yaml")
    for row in table.rows:
        if row["syncbn"] != "No" or row.entry is None:
            continue
        theirs = float(str(row["training_memory_gb"])) / GPUS
        peaks = gigabytes(row.entry)
        figures = [theirs, *peaks, peaks[0] / theirs, peaks[-1] / theirs]
        lines.append(f"| {row.entry} | {' | '.join(f'{x:.2f}' for x in figures)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(page(), end="")
