"""COCO's figures of a detector while it is trained, measured by all processes together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from fcos.data.dataset import DetectionDataset
from fcos.data.loader import Loader
from fcos.data.sampler import ordered_batches
from fcos.detector import Detector
from fcos.evaluate import Result, evaluate, to_coco_results
from fcos.train import distributed


def evaluate_detector(
    detector: Detector,
    dataset: DetectionDataset,
    annotations: str | Path | Mapping[str, Any],
    batch: int = 1,
    workers: int = 2,
) -> dict[str, Any]:
    """Detect on every image and measure.

    Args:
        detector: with the dataset's classes, in their order; its mode is left as it was.
        dataset: all images of the annotations.
        batch: images of a forward pass; see `Detector.detect`.
        workers: reading processes.

    Returns:
        `fcos.evaluate.evaluate`'s figures, on every rank.
    """
    if detector.classes != dataset.classes:
        raise ValueError(
            f"the dataset's classes ({', '.join(dataset.classes)}) are not the detector's "
            f"({', '.join(detector.classes)})"
        )
    training = detector.training
    detector.eval()
    shares = distributed.gather(detect_dataset(detector, dataset, batch, workers))
    detector.train(training)
    figures = None
    if distributed.rank() == 0:
        figures = evaluate([result for share in shares for result in share], annotations)
    return dict(distributed.broadcast(figures))


def detect_dataset(
    detector: Detector, dataset: DetectionDataset, batch: int = 1, workers: int = 2
) -> list[Result]:
    """Detections in COCO's results format, on this process's share of a dataset."""
    rank, world = distributed.rank(), distributed.world()
    batches = ordered_batches(len(dataset), batch, rank, world)
    console = Console(stderr=True)
    results: list[Result] = []
    loaded = iter(Loader(dataset, batches, workers=workers))  # before the bar has a thread
    for images, targets in track(
        loaded,
        "Evaluating",
        total=len(batches),
        console=console,
        transient=True,
        disable=rank != 0 or not console.is_terminal,
    ):
        found = detector.detect(images, batch_size=len(images))
        for target, detections in zip(targets, found, strict=True):
            results += to_coco_results(
                target["image_id"],
                detections.boxes,
                detections.scores,
                detections.labels,
                dataset.category_ids,
                detector.decoder.plus_one,
            )
    return results
