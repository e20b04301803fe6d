"""What is timed: a detector built as a case asks, split into stages, and its input images."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import zoo
from benchmarks import baselines, random_weights
from benchmarks.cases import Case, MissingError
from benchmarks.dataset import read_images
from benchmarks.weights import kind
from fcos import Detector
from fcos.preprocess import LongestSide, ShortestSide
from zoo.exported import ExportedDetector
from zoo.pretrained import DTYPES

Stage = Callable[[Any], Any]
Boxes = list[dict[str, Tensor]]
COUNTED_BATCHES = 8  # in which candidates and detections are counted


def configure_process(case: Case) -> None:
    """Set the threads, the GPU and TF32 of this process as the case asks."""
    if case.threads:
        torch.set_num_threads(case.threads)
    if case.device.startswith("cuda"):  # its clock and memory are read without its number
        torch.cuda.set_device(torch.device(case.device).index or 0)
    tf32 = case.precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32


def build_detector(case: Case, images: Sequence[Tensor]) -> Detector:
    """The detector of a case in eval mode, on its device, with its weights and precision.

    Args:
        case: the settings.
        images: (3, H, W) uint8; random weights are calibrated on the first one.
    """
    if kind(case.entry) == "trained":
        detector = zoo.get(case.entry)
    elif case.weights.path is not None:
        detector = zoo.get(case.entry, case.weights.path)
    else:
        detector = zoo.build(case.entry).eval().to(case.device)
    detector.resize = with_size(detector.resize, case.size)
    if case.weights.path is None:
        random_weights.randomize(detector, images[:1])
    detector.fuse().to(device=case.device, dtype=DTYPES.get(case.precision, torch.float32))
    layouts = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
    return detector.to(memory_format=layouts[case.layout])


def load_exported(case: Case) -> ExportedDetector:
    """The exported file of a case, with as many threads as this process has.

    Raises:
        MissingError: the case asks for another size, and the size is part of the file.
    """
    file = zoo.load(case.entry)
    if case.size and (file.size or file.preprocessing):
        raise MissingError("its size is part of the file: export it without --size")
    file.resize = with_size(file.resize, case.size)
    return file


def with_size(
    rule: ShortestSide | LongestSide, size: tuple[int, int] | None
) -> ShortestSide | LongestSide:
    """The test-time resize with another (shortest, longest) side; unchanged for None."""
    if size is None:
        return rule
    if isinstance(rule, LongestSide):
        return dataclasses.replace(rule, size=size[1])
    return dataclasses.replace(rule, size=size[0], longest=size[1])


def stages(detector: Detector, compiled: bool = False) -> dict[str, Stage]:
    """`Detector.detect` in three steps; each takes the output of the one before.

    preprocess: (3, H, W) uint8 images on the host -> a resized, normalised, padded batch on the
    device; network: -> the head's raw outputs; decode: -> boxes in pixels of the images.
    """
    if compiled:
        detector.compile_network()

    def run_network(prepared: Any) -> Any:
        return detector.network(prepared[0]), prepared

    def decode(outputs: Any) -> Boxes:
        levels, prepared = outputs
        return detector.decode(levels, *prepared)

    return {"preprocess": detector.prepare, "network": run_network, "decode": decode}


@dataclass
class Workload:
    """The stages of a detector and the image batches to run them on.

    `images`: the number of distinct images; `weights`: "published", "file", "random" or what the
    adapter of a baseline says; `detector`: None for a baseline or an exported file.
    """

    stages: dict[str, Stage]
    batches: list[list[Tensor]]
    images: int
    weights: str
    detector: Detector | None

    def count_candidates(self) -> dict[str, float | None]:
        """The work that decoding had, per image: (location, class) pairs above the score threshold,
        which are only known of a `Detector`, and detections."""
        batches = self.batches[:COUNTED_BATCHES]
        images = sum(map(len, batches))
        candidates = detections = 0
        for batch in batches:
            item: Any = batch
            for name, stage in self.stages.items():
                item = stage(item)
                if name == "network" and self.detector is not None:
                    threshold = self.detector.decoder.score_threshold
                    candidates += sum(
                        int((level.logits.sigmoid() > threshold).sum()) for level in item[0]
                    )
            detections += sum(len(boxes["boxes"]) for boxes in item)
        return {
            "candidates": candidates / images if self.detector is not None else None,
            "detections": detections / images,
        }


def load_workload(case: Case) -> Workload:
    """Everything that a timed case needs, decoded images included."""
    assert case.dataset is not None
    images = read_images(case.dataset, case.limit)
    batches = batch_images(images, case.batch)
    if kind(case.entry) == "baseline":
        baseline: Any = baselines.load(case.entry, case.device, case.precision, case.size)
        weights = getattr(baseline, "weights", "given by the adapter")
        return Workload({"detect": baseline}, batches, len(images), weights, None)
    if kind(case.entry) == "exported":
        find = load_exported(case).find
        return Workload({"detect": find}, batches, len(images), case.weights.source, None)
    detector = build_detector(case, images)
    return Workload(
        stages(detector, case.compiled), batches, len(images), case.weights.source, detector
    )


def batch_images(images: Sequence[Tensor], size: int) -> list[list[Tensor]]:
    """Batches of `size` images of similar aspect ratio.

    A last batch that would not be full is filled with the first images again.
    """
    if size == 1:
        return [[image] for image in images]
    ordered = sorted(images, key=lambda image: image.shape[-2] / image.shape[-1])
    count = -(-len(ordered) // size)
    repeated = list(itertools.islice(itertools.cycle(ordered), count * size))
    return [repeated[i * size : (i + 1) * size] for i in range(count)]
