"""From a cell to its values: the one function that runs in a measuring process."""

from __future__ import annotations

from typing import Any

import torch

import zoo
from benchmarks import accuracy, environment, flops, latency, memory, pictures, prediction, subject
from benchmarks.cell import Cell
from benchmarks.worker import MissingError
from fcos import Detector


def measure(cell: Cell) -> dict[str, Any]:
    """The values of one cell, as JSON will hold them.

    Raises:
        MissingError: weights, a device or a package that it needs is not here.
    """
    if cell.device.startswith("cuda") and not torch.cuda.is_available():
        raise MissingError("no GPU here")
    if cell.precision == "tf32" and not cell.device.startswith("cuda"):
        raise MissingError("TF32 is arithmetic of GPUs")
    subject.set_up(cell)
    metrics = {
        "params": _params,
        "flops": _flops,
        "training_memory": _training_memory,
        "latency": _latency,
        "memory": _memory,
        "ap": _ap,
    }
    if cell.metric not in metrics:
        raise ValueError(f"no metric {cell.metric!r}; there are {', '.join(metrics)}")
    before = environment.state(cell.device)
    values = metrics[cell.metric](cell)
    if cell.metric in ("latency", "throughput"):
        values["state"] = {"before": before, "after": environment.state(cell.device)}
    return values


def _params(cell: Cell) -> dict[str, Any]:
    return flops.parameters(zoo.build(cell.entry))


def _flops(cell: Cell) -> dict[str, Any]:
    return flops.count(zoo.build(cell.entry).eval(), cell.size)


def _training_memory(cell: Cell) -> dict[str, Any]:
    """Predicted always, measured too on a GPU, where the difference is given."""
    size = cell.size or _largest_training_size(cell.entry)
    values: dict[str, Any] = {"input": f"{size[0]}x{size[1]}", "images": memory.IMAGES_A_GPU}
    values |= prediction.training_step(cell.entry, size)
    if cell.device.startswith("cuda"):
        values |= memory.training_step(zoo.build(cell.entry), size, cell.device)
        values["predicted_over_measured"] = values["predicted_gb"] / values["measured_gb"]
    return values


def _largest_training_size(entry: str) -> tuple[int, int]:
    """(height, width): of multi-scale training the largest, of which the peak is."""
    config = zoo.card(entry).config
    rule = config["augmentation"]
    shortest = rule.get("shortest") or rule.get("shortest_range")
    if shortest:
        return max(shortest), rule["longest"]
    side = rule.get("square", config["resize"]["size"])
    return side, side


def _latency(cell: Cell) -> dict[str, Any]:
    detector, images = _set_up(cell)
    stages = subject.stages(detector, cell.compiled)
    groups = [images[i : i + cell.batch] for i in range(0, len(images), cell.batch)]
    with torch.inference_mode():
        timing = latency.measure(stages, groups, cell.device, cell.pace)
        found = [len(boxes["boxes"]) for group in groups for boxes in _run(stages, group)]
        candidates = [_candidates(detector, stages, group) for group in groups]
    return {
        **latency.summarize(timing.total),
        "stages": {name: latency.summarize(times) for name, times in timing.stages.items()},
        "warmup": timing.warmup,
        "stable": timing.stable,
        "images": len(images),
        "rounds": len(timing.total),
        "candidates": sum(candidates) / len(images),
        "detections": sum(found) / len(images),
        "weights": cell.weights.source,
        "samples_ms": [[round(1e3 * s, 4) for s in run] for run in timing.total.tolist()],
    }


def _memory(cell: Cell) -> dict[str, Any]:
    detector, images = _set_up(cell)
    groups = [images[i : i + cell.batch] for i in range(0, len(images), cell.batch)]
    with torch.inference_mode():
        values = memory.detecting(subject.stages(detector, cell.compiled), groups, cell.device)
    return {**values, "images": len(images), "weights": cell.weights.source}


def _ap(cell: Cell) -> dict[str, Any]:
    if cell.weights.source == "random":
        raise MissingError(cell.weights.note or "no weights given")
    assert cell.dataset is not None
    ids = pictures.image_ids(cell.dataset, cell.limit)
    detector = subject.detector_of(cell, [])
    results = accuracy.detect(detector, cell.dataset, ids, cell.batch)
    return accuracy.figures(results, cell.dataset, ids)


def _set_up(cell: Cell) -> tuple[Detector, list[torch.Tensor]]:
    assert cell.dataset is not None
    ids = pictures.image_ids(cell.dataset, cell.limit)
    images = [picture.image for picture in pictures.read_all(cell.dataset, ids)]
    return subject.detector_of(cell, images), images


def _run(stages: dict[str, subject.Stage], item: Any) -> Any:
    for stage in stages.values():
        item = stage(item)
    return item


def _candidates(detector: Detector, stages: dict[str, subject.Stage], group: Any) -> int:
    """(location, class) pairs whose class score is over the decoder's threshold."""
    levels, _ = stages["network"](stages["preprocess"](group))
    threshold = detector.decoder.score_threshold
    return sum(int((level.logits.sigmoid() > threshold).sum()) for level in levels)
