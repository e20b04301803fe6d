"""The metrics of the benchmark, which tables, comparison, plots and page share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Values = Mapping[str, Any]
GPUS = 8  # of the published training runs, whose pages print the memory of all GPUs together


@dataclass(frozen=True)
class Metric:
    """One figure of a results row.

    Args:
        name: its name in the frame.
        heading: its heading in a table, which names the unit where one is needed.
        measurement: the `metric` of the results rows that hold it.
        value: the figure from the `values` of a row, None where they lack it.
        description: what the column means, in a sentence.
        digits: decimals in a table.
        lower_is_better: which way it improves.
        scope: what the figure belongs to: the model, the model in one precision, or the model in
            one combination of settings.
        tolerance: by how much it may get worse before a comparison calls it a regression, in its
            own unit; None if it varies from run to run, so that a relative tolerance applies.
        compared: whether `fcos-zoo bench compare` shows it.
        section: the table it stands in, if not that of its measurement.
    """

    name: str
    heading: str
    measurement: str
    value: Callable[[Values], float | None]
    description: str
    digits: int = 1
    lower_is_better: bool = True
    scope: Literal["model", "precision", "settings"] = "settings"
    tolerance: float | None = None
    compared: bool = True
    section: str = ""

    def text(self, value: float) -> str:
        """The figure as a table prints it."""
        return f"{value:.{self.digits}f}"


def _detail(name: str, heading: str, value: Callable[[Values], float | None], what: str) -> Metric:
    return Metric(name, heading, "latency", value, what, compared=False)


def _stage(*names: str) -> Callable[[Values], float | None]:
    """The median of a stage, by its name or an older one; external detectors have no stages."""

    def median(values: Values) -> float | None:
        stages = values.get("stages", {})
        return next((float(stages[name]["median"]) for name in names if name in stages), None)

    return median


def _coco(name: str, heading: str, key: str, what: str) -> Metric:
    def percent(values: Values) -> float | None:
        return None if values.get(key) is None else 100 * float(values[key])

    main = name == "ap"
    return Metric(name, heading, "ap", percent, what, 1, False, tolerance=0.1, compared=main)


def _at(path: str, scale: float) -> Callable[[Values], float | None]:
    """The figure at a path of keys with dots between them, or the mean of the figures there."""

    def value(values: Values) -> float | None:
        found: Any = values
        for key in path.split("."):
            found = found.get(key) if isinstance(found, Mapping) else None
        numbers = found if isinstance(found, list) and found else [found]
        fine = all(isinstance(number, float | int) for number in numbers)
        return scale * sum(numbers) / len(numbers) if fine else None

    return value


def _analysis(
    name: str, heading: str, path: str, what: str, lower: bool = True, scale: float = 100.0
) -> Metric:
    """A figure of `benchmarks.analysis`, or of other annotations, beside AP."""
    digits = 1 if scale == 100 else 2
    value = _at(path, scale)
    return Metric(
        name, heading, "ap", value, what, digits, lower, compared=False, section="analysis"
    )


def _robust(name: str, heading: str, path: str, what: str) -> Metric:
    main, value = name == "ap_corrupted", _at(path, 100)
    return Metric(name, heading, "robustness", value, what, 1, False, tolerance=0.1, compared=main)


# In the order of importance in which tables show them.
METRICS = (
    _coco("ap", "AP", "AP", "COCO AP in percent: mean over IoU 0.50 to 0.95"),
    Metric("latency_ms", "ms", "latency", lambda v: v["median"],
           "median milliseconds from a decoded image to its boxes, batch 1"),
    Metric("peak_mb", "peak MB", "memory", lambda v: v["peak_mb"],
           "peak memory of a process that detects, in megabytes", 0),
    Metric("joules", "J/image", "energy", lambda v: v["joules"],
           "joules of an image, of the GPU or else of the processor", 2),
    Metric("train_gb", "train GB", "training_memory", lambda v: v.get("measured_gb"),
           "measured peak memory of a training step of 2 images per process", 2,
           scope="precision"),
    Metric("train_gb_predicted", "predicted train GB", "training_memory",
           lambda v: v.get("predicted_gb"),
           "predicted peak memory of a training step of 2 images per process", 2,
           scope="precision"),
    Metric("images_per_second", "images/s", "throughput", lambda v: v["images_per_second"],
           "images per second, at the fastest batch size where none is named",
           lower_is_better=False),
    Metric("gflops", "GFLOPs", "flops", lambda v: v["gflops"],
           "multiply-adds of one image of the model's test size", scope="model", tolerance=0.0),
    Metric("params_m", "params M", "params", lambda v: v["parameters"] / 1e6,
           "parameters in millions", 2, scope="model", tolerance=0.0),
    Metric("backbone_gflops", "backbone GFLOPs", "flops", lambda v: v["backbone_gflops"],
           "multiply-adds of backbone and pyramid", scope="model", compared=False),
    _detail("network_ms", "network", _stage("network"), "ms of backbone, pyramid and head"),
    _detail("postprocess_ms", "postprocess", _stage("postprocess", "decode"),
            "ms of decoding and NMS"),
    _detail("preprocess_ms", "preprocess", _stage("preprocess"), "ms of resize and normalisation"),
    _detail("latency_p90_ms", "p90", lambda v: v.get("p90"), "90th percentile in ms"),
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
            "mean AP under four corruptions at three strengths"),
    _robust("ap_relative", "of AP", "relative", "percent of the AP of clean images"),
    *(
        _robust(f"ap_{name}", f"AP {name}", f"corrupted.{name}",
                f"mean AP at three strengths of {name}")
        for name in ("blur", "noise", "jpeg", "contrast")
    ),
    _analysis("ap_low", "AP from", "bootstrap.low",
              "lower end of the interval with the AP of 95% of random draws of the images", False),
    _analysis("ap_high", "AP to", "bootstrap.high", "its upper end", False),
    _analysis("ap_rem", "AP ReM", "rem.AP",
              "AP by COCO-ReM's refined annotations, of the same detections", False),
    _analysis("tide_cls", "dAP class", "tide.cls",
              "AP50 lost by boxes of a wrong class, one of TIDE's kinds of error"),
    _analysis("tide_loc", "dAP location", "tide.loc", "AP50 lost by badly placed boxes"),
    _analysis("tide_both", "dAP both", "tide.both", "AP50 lost by boxes wrong in class and place"),
    _analysis("tide_dup", "dAP duplicate", "tide.dup", "AP50 lost by objects found twice"),
    _analysis("tide_bkg", "dAP background", "tide.bkg", "AP50 lost by boxes on the background"),
    _analysis("tide_miss", "dAP missed", "tide.miss", "AP50 lost by objects that no box is near"),
    _analysis("tide_fp", "dAP false positives", "tide.fp", "AP50 lost by all wrong boxes"),
    _analysis("tide_fn", "dAP false negatives", "tide.fn", "AP50 lost by all objects not found"),
    _analysis("ece", "ECE", "ece", "expected calibration error of scores at IoU 0.5, in percent"),
    _analysis("oce", "OCE", "oce", "object-level calibration error, from 0 to 2", scale=1.0),
    _analysis("oce_threshold", "OCE threshold", "oce_threshold",
              "the score threshold with the least OCE", scale=1.0),
)  # fmt: skip
BY_NAME = {metric.name: metric for metric in METRICS}
# The figure that stands for a measurement that failed.
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


@dataclass(frozen=True)
class PublishedColumn:
    """How a column of the published tables relates to a metric of ours.

    `published = scale * measured`, or `scale / measured` where `reciprocal`.
    """

    metric: str
    scale: float = 1.0
    reciprocal: bool = False

    def published(self, measured: float) -> float:
        """A measured figure in the unit of the published column."""
        return self.scale / measured if self.reciprocal else self.scale * measured

    def measured(self, published: float) -> float:
        """A published figure in the unit of the metric."""
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
    """A model's published figure for a metric, in the metric's unit; None where there is none."""
    for key, column in PUBLISHED.items():
        if column.metric == metric and isinstance(figures.get(key), float | int):
            return column.measured(float(figures[key]))
    return None
