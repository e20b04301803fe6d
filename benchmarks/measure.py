"""From a case to its values: the function that runs in a measuring process."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

import zoo
from benchmarks import accuracy, baselines, energy, environment, flops, memory, prediction, weights
from benchmarks.cases import STATIC, TIMED, Case, MissingError
from benchmarks.corruptions import CORRUPTIONS, STRENGTHS
from benchmarks.dataset import image_ids
from benchmarks.timing import time_stages
from benchmarks.workload import build_detector, configure_process, load_exported, load_workload
from fcos.coco_eval import Result, evaluate_detections

TRAINING_SIZE = (800, 1333)  # (height, width) for baselines


def measure(case: Case) -> dict[str, Any]:
    """The values of a case as they are stored; for a timed one, input of `combine_processes`.

    Raises:
        MissingError: weights, a device or a package that it needs is not available.
    """
    _check_device(case)
    if weights.is_exported(case.entry) and case.metric in STATIC:
        raise MissingError("cannot be counted in an exported file: measure what it was made from")
    configure_process(case)
    before = environment.state(case.device)
    values = MEASURES[case.metric](case)
    if case.metric in TIMED:
        values["state"] |= {"before": before, "after": environment.state(case.device)}
    return values


def _check_device(case: Case) -> None:
    on_gpu = case.device.startswith("cuda")
    if on_gpu and not torch.cuda.is_available():
        raise MissingError("no GPU on this machine")
    if on_gpu and (torch.device(case.device).index or 0) >= torch.cuda.device_count():
        raise MissingError(f"no GPU {case.device} on this machine")
    if on_gpu and weights.is_exported(case.entry):
        raise MissingError("exported files are run on the CPU: use --device cpu")
    if case.precision == "tf32" and not on_gpu:
        raise MissingError("TF32 exists only on GPUs")
    if case.layout == "contiguous" and not on_gpu:
        raise MissingError("on a CPU folded convolutions are always channels-last")


def _parameters(case: Case) -> dict[str, Any]:
    if not baselines.is_baseline(case.entry):
        return flops.parameters(weights.architecture(case.entry))
    baseline = baselines.load(case.entry, case.device, case.precision)
    if not isinstance(baseline, torch.nn.Module):
        raise MissingError("the adapter's detector is not a torch.nn.Module")
    return flops.parameters(baseline)


def _flops(case: Case) -> dict[str, Any]:
    return flops.count(weights.architecture(case.entry))


def _training_memory(case: Case) -> dict[str, Any]:
    """Predicted, and on a GPU also measured, with the ratio of the two and images per second."""
    if baselines.is_baseline(case.entry):
        return _training_of_baseline(case)
    if weights.is_file(case.entry):
        raise MissingError("the file does not hold the settings of its training")
    size = memory.largest_training_size(case.entry)
    count, precision = memory.IMAGES_PER_GPU, case.precision
    values: dict[str, Any] = {"input": f"{size[0]}x{size[1]}", "images": count}
    values |= prediction.predict_training_step(case.entry, size, count, precision)
    if case.device.startswith("cuda"):
        detector = zoo.build(case.entry).to(case.device).train()
        batch = memory.training_batch(len(detector.classes), size, count)
        values |= memory.training_step(detector, *batch, case.device, precision)
        values["predicted_over_measured"] = values["predicted_gb"] / values["measured_gb"]
    return values


def _training_of_baseline(case: Case) -> dict[str, Any]:
    baseline: Any = baselines.load(case.entry, case.device, case.precision)
    if not hasattr(baseline, "training_model"):
        raise MissingError("the adapter's detector has no training_model()")
    if not case.device.startswith("cuda"):
        raise MissingError("the training memory of a baseline is only measured, on a GPU")
    images, targets = memory.training_batch(
        len(baseline.classes), TRAINING_SIZE, memory.IMAGES_PER_GPU
    )
    images = [image / 255 for image in images]
    model = baseline.training_model().to(case.device).train()
    return {
        "input": f"{TRAINING_SIZE[0]}x{TRAINING_SIZE[1]}",
        "images": len(images),
        **memory.training_step(model, images, targets, case.device, case.precision),
    }


def _latency(case: Case) -> dict[str, Any]:
    return _time(case, count=True)


def _throughput(case: Case) -> dict[str, Any]:
    return _time(case, count=False)


def _time(case: Case, count: bool) -> dict[str, Any]:
    workload = load_workload(case)
    with torch.inference_mode():
        timings = time_stages(workload.stages, workload.batches, case.device, case.timing)
        # Counted afterwards, since the very first run, which compiles, is to be timed.
        counts = workload.count_candidates() if count else {}
    return {
        "timings": timings,
        "images": workload.images,
        "weights": workload.weights,
        "state": {"during": timings.gpu},
        **counts,
    }


def _memory(case: Case) -> dict[str, Any]:
    workload = load_workload(case)
    with torch.inference_mode():
        values = memory.inference(workload.stages, workload.batches, case.device)
    return {**values, "images": workload.images, "weights": workload.weights}


def _energy(case: Case) -> dict[str, Any]:
    workload = load_workload(case)
    with torch.inference_mode():
        values = energy.joules_per_image(
            workload.stages, workload.batches, case.device, case.timing.min_seconds
        )
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
    """AP on the images as they are, and with each corruption at each strength."""
    assert case.dataset is not None
    ids = image_ids(case.dataset, case.limit)
    split = accuracy.split_name(case.dataset, ids)
    detect = _detection(case, ids)

    def ap(corruption: accuracy.Corruption | None = None) -> float:
        results = detect(corruption=corruption)
        annotations = case.dataset.annotations if case.dataset else ""
        figure = evaluate_detections(results, annotations, ids, case.evaluator)["AP"]
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
    """`accuracy.detect` with the detector of a case, on its images."""
    if case.weights.source == "random":
        raise MissingError(case.weights.note or "no weights given")
    assert case.dataset is not None
    if not baselines.is_baseline(case.entry):
        exported = weights.is_exported(case.entry)
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
    "latency": _latency,
    "throughput": _throughput,
    "memory": _memory,
    "energy": _energy,
    "ap": _ap,
    "robustness": _robustness,
}
