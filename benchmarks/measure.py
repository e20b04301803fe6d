"""Measure the values of a case: the function that runs in a measuring process."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

import zoo
from benchmarks import accuracy, baselines, environment, flops, inference, training_memory
from benchmarks.cases import STATIC, TIMED, Case, MissingError
from benchmarks.dataset import CORRUPTIONS, STRENGTHS, Corruption, image_ids
from benchmarks.workload import (
    architecture,
    build_detector,
    configure_process,
    kind,
    load_exported,
    load_workload,
)
from fcos.coco_eval import Result, evaluate_detections

TRAINING_SIZE = (800, 1333)  # (height, width) for baselines


def measure(case: Case) -> dict[str, Any]:
    """Measure the values of a case for storage, or for `combine_processes` if it is timed.

    Raises:
        MissingError: weights, a device or a package that it needs is not available.
    """
    _check(case)
    configure_process(case)
    before = environment.state(case.device)
    values = MEASURES[case.metric](case)
    if case.metric in TIMED:
        values["state"] |= {"before": before, "after": environment.state(case.device)}
    return values


def _check(case: Case) -> None:
    on_gpu = case.device.startswith("cuda")
    number = torch.device(case.device).index or 0
    exported = kind(case.entry) == "exported"
    reasons = {
        "no GPU on this machine": on_gpu and not torch.cuda.is_available(),
        f"no GPU {case.device} on this machine": on_gpu and number >= torch.cuda.device_count(),
        "exported files are run on the CPU: use --device cpu": on_gpu and exported,
        "TF32 exists only on GPUs": not on_gpu and case.precision == "tf32",
        "on a CPU folded convolutions are always channels-last": not on_gpu
        and case.layout == "contiguous",
        "Winograd's convolutions are for fp32 on a CPU, and are not compiled": case.winograd
        and (on_gpu or case.compiled or case.precision != "fp32"),
        "cannot be counted in an exported file: measure what it was made from": exported
        and case.metric in STATIC,
    }
    for reason, applies in reasons.items():
        if applies:
            raise MissingError(reason)


def _parameters(case: Case) -> dict[str, Any]:
    if kind(case.entry) != "baseline":
        return flops.parameters(architecture(case.entry))
    baseline = baselines.load(case.entry, case.device, case.precision)
    if not isinstance(baseline, torch.nn.Module):
        raise MissingError("the adapter's detector is not a torch.nn.Module")
    return flops.parameters(baseline)


def _flops(case: Case) -> dict[str, Any]:
    return flops.count(architecture(case.entry))


def _training_memory(case: Case) -> dict[str, Any]:
    """Predict training memory; on a GPU also measure it, with the ratio of both and images/s."""
    if kind(case.entry) == "baseline":
        return _training_of_baseline(case)
    if kind(case.entry) == "trained":
        raise MissingError("the file does not hold the settings of its training")
    size = training_memory.largest_size(case.entry)
    count, precision = training_memory.IMAGES_PER_GPU, case.precision
    values: dict[str, Any] = {"input": f"{size[0]}x{size[1]}", "images": count}
    values |= training_memory.predict_step(case.entry, size, count, precision)
    if case.device.startswith("cuda"):
        detector = zoo.build(case.entry).to(case.device).train()
        batch = training_memory.training_batch(len(detector.classes), size, count)
        values |= training_memory.measure_step(detector, *batch, case.device, precision)
        values["predicted_over_measured"] = values["predicted_gb"] / values["measured_gb"]
    return values


def _training_of_baseline(case: Case) -> dict[str, Any]:
    baseline: Any = baselines.load(case.entry, case.device, case.precision)
    if not hasattr(baseline, "training_model"):
        raise MissingError("the adapter's detector has no training_model()")
    if not case.device.startswith("cuda"):
        raise MissingError("the training memory of a baseline is only measured, on a GPU")
    images, targets = training_memory.training_batch(
        len(baseline.classes), TRAINING_SIZE, training_memory.IMAGES_PER_GPU
    )
    images = [image / 255 for image in images]
    model = baseline.training_model().to(case.device).train()
    return {
        "input": f"{TRAINING_SIZE[0]}x{TRAINING_SIZE[1]}",
        "images": len(images),
        **training_memory.measure_step(model, images, targets, case.device, case.precision),
    }


def _detecting(case: Case) -> dict[str, Any]:
    """Measure time, memory or energy of detecting in the images of a case."""
    workload = load_workload(case)
    stages, batches, device = workload.stages, workload.batches, case.device
    values: dict[str, Any]
    with torch.inference_mode():
        if case.metric == "memory":
            values = inference.peak_memory(stages, batches, device)
        elif case.metric == "energy":
            values = inference.joules_per_image(stages, batches, device, case.timing.min_seconds)
        else:
            timings = inference.time_stages(stages, batches, device, case.timing)
            values = {"timings": timings, "state": {"during": timings.gpu}}
        if (
            case.metric == "latency"
        ):  # only now, so that the very first run, which compiles, is timed
            values |= workload.count_candidates()
    return {**values, "images": workload.images, "weights": workload.weights}


def _ap(case: Case) -> dict[str, Any]:
    assert case.dataset is not None
    ids = image_ids(case.dataset, case.limit)
    detections = _detection(case, ids)()
    if case.detections_dir:
        folder = Path(case.detections_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{case.key}.json").write_text(json.dumps(detections))
    return accuracy.figures(detections, case.dataset, ids, case.evaluator)


def _robustness(case: Case) -> dict[str, Any]:
    """Measure AP on the original images, and with each corruption at each strength."""
    dataset = case.dataset
    assert dataset is not None
    ids = image_ids(dataset, case.limit)
    split = accuracy.split_name(dataset, ids)
    detect = _detection(case, ids)

    def ap(corruption: Corruption | None = None) -> float:
        results = detect(corruption=corruption)
        figure = evaluate_detections(results, dataset.annotations, ids, case.evaluator)["AP"]
        if figure is None:
            raise MissingError("the images have no objects")
        return float(figure)

    clean = ap()
    corrupted = {name: [ap((name, strength)) for strength in STRENGTHS] for name in CORRUPTIONS}
    mean = statistics.fmean(figure for figures in corrupted.values() for figure in figures)
    return {
        "clean": clean,
        "corrupted": corrupted,
        "mean": mean,
        "relative": mean / clean if clean else None,
        "split": split,
        "images": len(ids),
    }


def _detection(case: Case, ids: Sequence[int]) -> Callable[..., list[Result]]:
    """Return `accuracy.detect` with the detector and images of a case."""
    if case.weights.source == "random":
        raise MissingError(case.weights.note or "no weights given")
    assert case.dataset is not None
    if kind(case.entry) != "baseline":
        exported = kind(case.entry) == "exported"
        detector = load_exported(case) if exported else build_detector(case, [])
        return partial(accuracy.detect, detector, case.dataset, ids, case.batch)
    baseline: Any = baselines.load(case.entry, case.device, case.precision, case.size)
    if getattr(baseline, "weights", "") == "random":
        raise MissingError("its weights are not on this machine")
    if not hasattr(baseline, "classes"):
        raise MissingError("the adapter's detector has no classes")
    return partial(accuracy.detect_with, baseline, baseline.classes, case.dataset, ids, case.batch)


MEASURES = {
    "params": _parameters,
    "flops": _flops,
    "training_memory": _training_memory,
    **dict.fromkeys(("latency", "throughput", "memory", "energy"), _detecting),
    "ap": _ap,
    "robustness": _robustness,
}
