"""What is measured: a detector of the zoo, set up as a cell says, and cut into its stages."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import zoo
from benchmarks import synthetic
from benchmarks.cell import Cell
from fcos import Detector
from fcos.images import LongestSide, ShortestSide
from zoo.build import DTYPES

Stage = Callable[[Any], Any]
Boxes = list[dict[str, Tensor]]


def set_up(cell: Cell) -> None:
    """Threads and arithmetic of this process, as the cell wants them."""
    if cell.threads:
        torch.set_num_threads(cell.threads)
    tf32 = cell.precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32


def detector_of(cell: Cell, pictures: Sequence[Tensor]) -> Detector:
    """The cell's detector in eval mode on its device, with its weights and precision.

    Args:
        cell: what is wanted.
        pictures: (3, H, W) images that random weights are made for; see `synthetic`.
    """
    detector = zoo.build(cell.entry).eval()
    detector.resize = resized(detector.resize, cell.size)
    if cell.weights.path is not None:
        zoo.load_checkpoint(detector, cell.weights.path)
    else:
        detector.to(cell.device)
        synthetic.prepare(detector, pictures[:2])
    detector.to(device=cell.device, dtype=DTYPES.get(cell.precision, torch.float32))
    layouts = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
    return detector.to(memory_format=layouts[cell.layout])


def resized(
    rule: ShortestSide | LongestSide, size: tuple[int, int] | None
) -> ShortestSide | LongestSide:
    """The test-time resize with other sides; the published one for None."""
    if size is None:
        return rule
    if isinstance(rule, LongestSide):
        return dataclasses.replace(rule, size=size[1])
    return dataclasses.replace(rule, size=size[0], longest=size[1])


def stages(detector: Detector, compiled: bool = False) -> dict[str, Stage]:
    """`Detector.detect` in three steps, each taking what the one before gives.

    preprocess: pictures (3, H, W) uint8 on the host -> a resized, normalised, padded batch on the
    device; network: -> levels; decode: -> boxes of each picture in its own pixels.
    """
    network = torch.compile(detector.network, dynamic=True) if compiled else detector.network

    def run_network(prepared: Any) -> Any:
        return network(prepared[0]), prepared

    def decode(ran: Any) -> Boxes:
        levels, prepared = ran
        return detector.decode(levels, *prepared)

    return {"preprocess": detector.prepare, "network": run_network, "decode": decode}
