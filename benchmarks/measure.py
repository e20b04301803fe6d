"""From a cell to its values: the one function that runs in a measuring process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

import zoo
from benchmarks import (
    accuracy,
    environment,
    flops,
    latency,
    memory,
    peers,
    pictures,
    prediction,
    subject,
)
from benchmarks.cell import TIMED, Cell, MissingError


def measure(cell: Cell) -> dict[str, Any]:
    """The values of one cell, as JSON will hold them, or of a timed one for `latency.join`.

    Raises:
        MissingError: weights, a device or a package that it needs is not here.
    """
    on_gpu = cell.device.startswith("cuda")
    if on_gpu and not torch.cuda.is_available():
        raise MissingError("no GPU here")
    if on_gpu and (torch.device(cell.device).index or 0) >= torch.cuda.device_count():
        raise MissingError(f"no GPU {cell.device} here")
    if cell.precision == "tf32" and not on_gpu:
        raise MissingError("TF32 is arithmetic of GPUs")
    if cell.layout == "contiguous" and not on_gpu:
        raise MissingError("on a CPU folded convolutions are channels-last whatever is asked for")
    subject.set_up(cell)
    metrics = {
        "params": _params,
        "flops": _flops,
        "training_memory": _training_memory,
        "latency": _latency,
        "throughput": _throughput,
        "memory": _memory,
        "ap": _ap,
    }
    if cell.metric not in metrics:
        raise ValueError(f"no metric {cell.metric!r}; there are {', '.join(metrics)}")
    before = environment.state(cell.device)
    values = metrics[cell.metric](cell)
    if cell.metric in TIMED:
        values["state"] |= {"before": before, "after": environment.state(cell.device)}
    return values


def _params(cell: Cell) -> dict[str, Any]:
    return flops.parameters(_module(cell))


def _flops(cell: Cell) -> dict[str, Any]:
    return flops.count(zoo.build(cell.entry).eval())


def _training_memory(cell: Cell) -> dict[str, Any]:
    """Predicted always, measured too on a GPU, where the difference is given."""
    size = _largest_training_size(cell.entry)
    images, precision = memory.IMAGES_A_GPU, cell.precision
    values: dict[str, Any] = {"input": f"{size[0]}x{size[1]}", "images": images}
    values |= prediction.training_step(cell.entry, size, images, precision)
    if cell.device.startswith("cuda"):
        values |= memory.training_step(zoo.build(cell.entry), size, cell.device, images, precision)
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
    ready = subject.ready(cell)
    with torch.inference_mode():
        timing = latency.measure(ready.stages, ready.groups, cell.device, cell.pace)
        load = ready.look()  # afterwards: the first run, which compiles, is a timed one
    return {**_timed(timing, ready), **load}


def _throughput(cell: Cell) -> dict[str, Any]:
    ready = subject.ready(cell)
    with torch.inference_mode():
        timing = latency.measure(ready.stages, ready.groups, cell.device, cell.pace)
    return _timed(timing, ready)


def _timed(timing: latency.Timing, ready: subject.Ready) -> dict[str, Any]:
    return {
        "timing": timing,
        "images": ready.images,
        "weights": ready.weights,
        "state": {"during": timing.gpu},
    }


def _memory(cell: Cell) -> dict[str, Any]:
    ready = subject.ready(cell)
    with torch.inference_mode():
        values = memory.detecting(ready.stages, ready.groups, cell.device)
    return {**values, "images": ready.images, "weights": ready.weights}


def _ap(cell: Cell) -> dict[str, Any]:
    if cell.weights.source == "random":
        raise MissingError(cell.weights.note or "no weights given")
    assert cell.dataset is not None
    ids = pictures.image_ids(cell.dataset, cell.limit)
    if peers.is_peer(cell.entry):
        peer: Any = peers.load(cell.entry, cell.device, cell.precision, cell.size)
        if getattr(peer, "weights", "") == "random":
            raise MissingError("its weights are not on this machine")
        if not hasattr(peer, "classes"):
            raise MissingError("the adapter names no classes")
        results = accuracy.detect_with(peer, peer.classes, cell.dataset, ids, cell.batch)
    else:
        results = accuracy.detect(subject.detector_of(cell, []), cell.dataset, ids, cell.batch)
    if cell.keep:
        Path(cell.keep).mkdir(parents=True, exist_ok=True)
        (Path(cell.keep) / f"{cell.key}.json").write_text(json.dumps(results))
    return accuracy.figures(results, cell.dataset, ids, cell.evaluator)


def _module(cell: Cell) -> torch.nn.Module:
    if not peers.is_peer(cell.entry):
        return zoo.build(cell.entry)
    peer = peers.load(cell.entry, cell.device, cell.precision)
    if not isinstance(peer, torch.nn.Module):
        raise MissingError("the adapter is no torch.nn.Module")
    return peer
