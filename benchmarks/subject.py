"""What is measured: a detector, set up as a cell says, cut into its stages, and its inputs."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import zoo
from benchmarks import peers, pictures, synthetic
from benchmarks.cell import Cell
from fcos import Detector
from fcos.preprocess import LongestSide, ShortestSide
from zoo.build import DTYPES

Stage = Callable[[Any], Any]
Boxes = list[dict[str, Tensor]]
LOOKED_AT = 8  # batches


def set_up(cell: Cell) -> None:
    """Threads and arithmetic of this process, as the cell wants them."""
    if cell.threads:
        torch.set_num_threads(cell.threads)
    if cell.device.startswith("cuda"):  # whose clock and memory are asked for without its number
        torch.cuda.set_device(torch.device(cell.device).index or 0)
    tf32 = cell.precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32


def detector_of(cell: Cell, photos: Sequence[Tensor]) -> Detector:
    """The cell's detector in eval mode on its device, with its weights and precision.

    Args:
        cell: what is wanted.
        photos: (3, H, W) pictures that random weights are made for; see `synthetic`.
    """
    if cell.weights.path is not None:
        detector = zoo.get(cell.entry, cell.weights.path)
    else:
        detector = zoo.build(cell.entry).eval().to(cell.device)
    detector.resize = resized(detector.resize, cell.size)
    if cell.weights.path is None:
        synthetic.prepare(detector, photos[:1])
    detector.fuse().to(device=cell.device, dtype=DTYPES.get(cell.precision, torch.float32))
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
    if compiled:
        detector.compile_network()

    def run_network(prepared: Any) -> Any:
        return detector.network(prepared[0]), prepared

    def decode(ran: Any) -> Boxes:
        levels, prepared = ran
        return detector.decode(levels, *prepared)

    return {"preprocess": detector.prepare, "network": run_network, "decode": decode}


@dataclass
class Ready:
    """A detector's stages and the batches of pictures to run them on.

    `images`: how many different ones; `weights`: "published", "file" or "random".
    """

    stages: dict[str, Stage]
    groups: list[list[Tensor]]
    images: int
    weights: str
    detector: Detector | None

    def look(self) -> dict[str, float | None]:
        """What the load is, from one run: (location, class) pairs an image over the score threshold
        (None of a peer), and detections an image."""
        seen = self.groups[:LOOKED_AT]
        images = sum(map(len, seen))
        candidates = detections = 0
        for group in seen:
            item: Any = group
            for name, stage in self.stages.items():
                item = stage(item)
                if name == "network" and self.detector is not None:
                    threshold = self.detector.decoder.score_threshold
                    candidates += sum(
                        int((lv.logits.sigmoid() > threshold).sum()) for lv in item[0]
                    )
            detections += sum(len(boxes["boxes"]) for boxes in item)
        return {
            "candidates": candidates / images if self.detector is not None else None,
            "detections": detections / images,
        }


def ready(cell: Cell) -> Ready:
    """Everything that a timed cell needs, decoded pictures included."""
    assert cell.dataset is not None
    ids = pictures.image_ids(cell.dataset, cell.limit)
    images = [picture.image for picture in pictures.read_all(cell.dataset, ids)]
    groups = batches(images, cell.batch)
    if peers.is_peer(cell.entry):
        peer: Any = peers.load(cell.entry, cell.device, cell.precision, cell.size)
        weights = getattr(peer, "weights", "given by the adapter")
        return Ready({"detect": peer}, groups, len(images), weights, None)
    detector = detector_of(cell, images)
    steps = stages(detector, cell.compiled)
    return Ready(steps, groups, len(images), cell.weights.source, detector)


def batches(images: Sequence[Tensor], size: int) -> list[list[Tensor]]:
    """Pictures in batches of `size`, those of similar shape together; a batch that would not be
    full is filled from the beginning."""
    if size == 1:
        return [[image] for image in images]
    ordered = sorted(images, key=lambda image: image.shape[-2] / image.shape[-1])
    count = -(-len(ordered) // size)
    repeated = list(itertools.islice(itertools.cycle(ordered), count * size))
    return [repeated[i * size : (i + 1) * size] for i in range(count)]
