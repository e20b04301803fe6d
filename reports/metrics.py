"""The metrics of the benchmark, which tables, comparison, plots and page share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

GPUS = 8  # GPUs of the published training runs, whose pages print the memory of all GPUs together


@dataclass(frozen=True)
class Metric:
    """One figure of a results row.

    Args:
        name: its name in the frame.
        heading: its heading in a table, including the unit if there is one.
        path: its place in the `values` of a row, as keys with dots between them, where a list of
            figures stands for its mean. If there are several paths, separated by blanks, the first
            that a row has is taken.
        description: what the column means, in a sentence.
        measurement: the `metric` of the results rows that hold it.
        digits: decimals in a table.
        scale: factor from the stored figure to the shown one.
        lower_is_better: whether lower figures are better.
        scope: whether the figure belongs to the model, the model in one precision, or the model in
            one combination of settings.
        tolerance: by how much it may get worse before it counts as a regression, in its unit; None
            if it varies from run to run, so that a relative tolerance applies.
        compared: whether `fcos-zoo bench compare` shows it.
        section: its table, if it is not that of its measurement.
    """

    name: str
    heading: str
    path: str
    description: str
    measurement: str
    digits: int = 1
    scale: float = 1.0
    lower_is_better: bool = True
    scope: Literal["model", "precision", "settings"] = "settings"
    tolerance: float | None = None
    compared: bool = True
    section: str = ""

    def value(self, values: Mapping[str, Any]) -> float | None:
        """Return the figure from the `values` of a row, None if it is not among them."""
        for path in self.path.split():
            found: Any = values
            for key in path.split("."):
                found = found.get(key) if isinstance(found, Mapping) else None
            numbers = found if isinstance(found, list) and found else [found]
            if all(isinstance(number, float | int) for number in numbers):
                return self.scale * sum(numbers) / len(numbers)
        return None

    def text(self, value: float) -> str:
        """Return the figure as a table prints it."""
        return f"{value:.{self.digits}f}"


_latency = partial(Metric, measurement="latency", compared=False)
_coco = partial(Metric, measurement="ap", scale=100, lower_is_better=False, compared=False)
_robust = partial(_coco, measurement="robustness")
_interval = partial(_coco, section="analysis")
_error = partial(_interval, lower_is_better=True)
_model = partial(Metric, scope="model", tolerance=0.0)
_training = partial(Metric, measurement="training_memory", digits=2, scope="precision")

# In the order of importance, in which tables show them.
METRICS = (
    _coco("ap", "AP", "AP", "COCO AP in percent: mean over IoU 0.50 to 0.95",
          tolerance=0.1, compared=True),
    _latency("latency_ms", "ms", "median",
             "median milliseconds from a decoded image to its boxes, batch 1", compared=True),
    Metric("peak_mb", "peak MB", "peak_mb",
           "peak memory of a process that detects, in megabytes", "memory", 0),
    Metric("joules", "J/image", "joules",
           "joules of an image, of the GPU or else of the processor", "energy", 2),
    _training("train_gb", "train GB", "measured_gb",
              "measured peak memory of a training step of 2 images per process"),
    _training("train_gb_predicted", "predicted train GB", "predicted_gb",
              "predicted peak memory of a training step of 2 images per process"),
    Metric("images_per_second", "images/s", "images_per_second",
           "images per second, at the fastest batch size where none is named", "throughput",
           lower_is_better=False),
    _model("gflops", "GFLOPs", "gflops",
           "billions of multiply-adds of an image of the published test size", "flops"),
    _model("params_m", "params M", "parameters", "parameters in millions", "params", 2, 1e-6),
    _model("backbone_gflops", "backbone GFLOPs", "backbone_gflops",
           "multiply-adds of backbone and pyramid", "flops", compared=False),
    _latency("network_ms", "network ms", "stages.network.median", "backbone, pyramid and head"),
    _latency("postprocess_ms", "postprocess ms", "stages.postprocess.median stages.decode.median",
             "decoding and NMS"),
    _latency("preprocess_ms", "preprocess ms", "stages.preprocess.median",
             "resize and normalisation"),
    _latency("latency_p90_ms", "p90 ms", "p90", "90th percentile of the times"),
    _coco("ap_50", "AP50", "AP50", "AP at IoU 0.50"),
    _coco("ap_75", "AP75", "AP75", "AP at IoU 0.75"),
    _coco("ap_small", "APs", "APs", "AP of small objects"),
    _coco("ap_medium", "APm", "APm", "AP of medium objects"),
    _coco("ap_large", "APl", "APl", "AP of large objects"),
    _coco("ar_1", "AR1", "AR1", "recall of one detection per image"),
    _coco("ar_10", "AR10", "AR10", "recall of 10 detections per image"),
    _coco("ar_100", "AR100", "AR100", "recall of 100 detections per image"),
    _coco("ar_small", "ARs", "ARs", "recall of small objects"),
    _coco("ar_medium", "ARm", "ARm", "recall of medium objects"),
    _coco("ar_large", "ARl", "ARl", "recall of large objects"),
    _robust("ap_corrupted", "AP corrupted", "mean",
            "mean AP under four corruptions at three strengths", tolerance=0.1, compared=True),
    _robust("ap_relative", "of AP", "relative", "percent of the AP of clean images"),
    *(
        _robust(f"ap_{name}", f"AP {name}", f"corrupted.{name}",
                f"mean AP at three strengths of {name}")
        for name in ("blur", "noise", "jpeg", "contrast")
    ),
    _interval("ap_low", "AP from", "bootstrap.low",
              "lower end of the interval with the AP of 95% of random draws of the images"),
    _interval("ap_high", "AP to", "bootstrap.high", "upper end of that interval"),
    _interval("ap_rem", "AP ReM", "rem.AP",
              "AP by COCO-ReM's refined annotations, of the same detections"),
    _error("tide_cls", "dAP class", "tide.cls",
           "AP50 lost by boxes of a wrong class, one of TIDE's kinds of error"),
    _error("tide_loc", "dAP location", "tide.loc", "AP50 lost by badly placed boxes"),
    _error("tide_both", "dAP both", "tide.both", "AP50 lost by boxes wrong in class and place"),
    _error("tide_dup", "dAP duplicate", "tide.dup", "AP50 lost by objects found twice"),
    _error("tide_bkg", "dAP background", "tide.bkg", "AP50 lost by boxes on the background"),
    _error("tide_miss", "dAP missed", "tide.miss", "AP50 lost by objects that no box is near"),
    _error("tide_fp", "dAP false positives", "tide.fp", "AP50 lost by all wrong boxes"),
    _error("tide_fn", "dAP false negatives", "tide.fn", "AP50 lost by all objects not found"),
    _error("ece", "ECE", "ece", "expected calibration error of scores at IoU 0.5, in percent"),
    _error("oce", "OCE", "oce", "object-level calibration error, from 0 to 2", digits=2, scale=1),
    _error("oce_threshold", "OCE threshold", "oce_threshold",
           "the score threshold with the least OCE", digits=2, scale=1),
)  # fmt: skip
BY_NAME = {metric.name: metric for metric in METRICS}
# The metric that represents a failed measurement.
MAIN = {
    "ap": "ap",
    "robustness": "ap_corrupted",
    "energy": "joules",
    "latency": "latency_ms",
    "memory": "peak_mb",
    "training_memory": "train_gb_predicted",
    "throughput": "images_per_second",
    "flops": "gflops",
    "params": "params_m",
}

# Marks of models: no other has more AP at less cost, or only within the noise of the cost.
BEST, TIED = "best", "tied"
# The metrics by which a model is chosen: their names, and the labels of their axes.
BUDGETS = {
    "latency_ms": ("latency", "ms per image, batch 1"),
    "peak_mb": ("memory of detection", "peak MB of a process that detects"),
    "train_gb": ("training memory", "GB of a training step of 2 images, measured"),
    "train_gb_predicted": (
        "predicted training memory",
        "predicted GB of a training step of 2 images",
    ),
}


@dataclass(frozen=True)
class PublishedColumn:
    """The relation of a column of the published tables to a metric.

    `published = scale * measured`, or `scale / measured` if `reciprocal`.
    """

    metric: str
    scale: float = 1.0
    reciprocal: bool = False

    def published(self, measured: float) -> float:
        """Convert a measured figure to the unit of the published column."""
        return self.scale / measured if self.reciprocal else self.scale * measured

    def measured(self, published: float) -> float:
        """Convert a published figure to the unit of the metric."""
        return self.scale / published if self.reciprocal else published / self.scale


PUBLISHED = {
    "time_ms": PublishedColumn("latency_ms"),
    "time_s": PublishedColumn("latency_ms", 1e-3),
    "fps": PublishedColumn("latency_ms", 1e3, reciprocal=True),
    "training_memory_gb": PublishedColumn("train_gb", GPUS),
    "training_memory_per_gpu_gb": PublishedColumn("train_gb"),
    **{
        name: PublishedColumn(name)
        for name in BY_NAME
        if name.startswith(("ap", "ar_")) or name in ("backbone_gflops", "gflops", "params_m")
    },
}


def published(figures: Mapping[str, Any], metric: str) -> float | None:
    """Return a model's published figure for a metric, in the metric's unit, or None."""
    for key, column in PUBLISHED.items():
        if column.metric == metric and isinstance(figures.get(key), float | int):
            return column.measured(float(figures[key]))
    return None
