"""Result rows as a run writes them, for the tests of the reports."""

from __future__ import annotations

from typing import Any

from benchmarks import store
from benchmarks.cases import Case, Dataset, Result, Weights

FACTS: dict[str, Any] = {
    "cpu": "Some CPU",
    "cores": 2,
    "torch": "2.9",
    "torchvision": "0.24",
    "python": "3.11",
    "commit": "0123456789abcdef",
    "dirty": False,
    "code": "c0de",
}
VAL = Dataset("a.json", "images", "instances_val2017", "d1")
AP = {"AP": 0.371, "AP50": 0.56, "AP75": 0.4, "APs": 0.2, "APm": 0.41, "APl": 0.48}
PUBLISHED = Weights("published", "w.pth", "abc")
OWN = Weights("file", "own.pth", "def")
COMMAND = "fcos-zoo bench 'FCOS_R_*' --metrics params,flops,latency --cached-only --fresh"


def row(
    entry: str,
    metric: str,
    values: dict[str, Any] | None = None,
    reason: str = "",
    facts: dict[str, Any] | None = None,
    **settings: Any,
) -> store.Row:
    """A measured row, or with a `reason` a missing one; `facts` change its environment."""
    result = Result("missing" if reason else "measured", values or {}, reason, 1.0)
    case = Case(entry, metric, **settings)
    return store.row_of(case, result, FACTS | (facts or {}), COMMAND)


def span(median: float, noise: float = 0.01) -> dict[str, Any]:
    return {"median": median, "p90": 1.2 * median, "p99": None, "mean": median, "n": 9} | {
        "noise": noise
    }


def latency(entry: str, median: float, weights: str = "published", **cell: Any) -> store.Row:
    values = {
        "state": {"during": {"gpu_throttled": cell.pop("throttled", False)}},
        **span(median, cell.pop("noise", 0.01)),
        "stages": {
            "preprocess": span(0.1 * median),
            "network": span(0.8 * median),
            "decode": span(0.1 * median),
        },
        "stable": True,
        "images": 3,
        "rounds": 3,
        "processes": cell.pop("processes", 4),
        "weights": weights,
    }
    filled = {"random": Weights(), "file": OWN}.get(weights, PUBLISHED)
    return row(entry, "latency", values, dataset=VAL, weights=filled, **cell)


def ap(entry: str, split: str = "val2017", images: int = 5000, **cell: Any) -> store.Row:
    values = {**AP, "per_class": {}, "split": split, "images": images, "detections": 9}
    values |= cell.pop("values", {})
    return row(entry, "ap", values, **{"dataset": VAL, "weights": PUBLISHED, **cell})


def flops(entry: str, backbone: float) -> store.Row:
    values = {"input": "800x1216", "gflops": 2 * backbone, "backbone_gflops": backbone}
    return row(entry, "flops", values)


def memory(entry: str, predicted: float, measured: float | None = None) -> store.Row:
    values = {"input": "800x1333", "images": 2, "predicted_gb": predicted, "model_gb": 0.1}
    if measured is not None:
        values |= {"measured_gb": measured, "reserved_gb": measured + 1}
    return row(entry, "training_memory", values)


# An entry with everything, one with random weights, one with little, and a sweep.
ROWS = [
    *(flops("FCOS_R_50_5l_2x", 90.61), memory("FCOS_R_50_5l_2x", 3.06)),
    *(latency("FCOS_R_50_5l_2x", 80.0), ap("FCOS_R_50_5l_2x")),
    *(
        latency("FCOS_R_101_5l_2x", 120.0, "random"),
        row("FCOS_R_101_5l_2x", "ap", reason="<no weights>"),
    ),
    latency("FCOS_HRNet_W18_5l_2x", 9.0),
    *(
        row(
            "FCOS_R_50_5l_2x",
            "throughput",
            {**span(200.0), "stable": True, "images_per_second": 5.0 * batch},
            batch=batch,
            weights=PUBLISHED,
        )
        for batch in (1, 2)
    ),
]
