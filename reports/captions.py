"""What the columns of the measured table mean, with the settings that occur in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from reports.lines import Row

MARK = "~ marks noise over 10% or not known"


def captions(rows: Sequence[Row]) -> list[str]:
    """What the columns mean, with all the settings that occur in them."""
    by_metric: dict[str, list[Row]] = {}
    for row in rows:
        if row["status"] == "measured":
            by_metric.setdefault(row["cell"]["metric"], []).append(row)

    def every(metric: str, text: Callable[[Row], Any]) -> str:
        return ", ".join(dict.fromkeys(str(text(row)) for row in by_metric[metric]))

    def inputs(metric: str) -> str:
        return every(metric, lambda row: row["values"]["input"])

    told = []
    if "flops" in by_metric:
        told.append(
            f"GFLOPs: multiply-adds of one image of an entry's test size, {inputs('flops')}."
        )
    if "training_memory" in by_metric:
        images = every("training_memory", lambda row: row["values"]["images"])
        told.append(
            f"train GB: peak of one process with {images} images of the largest training size, "
            f"{inputs('training_memory')}."
        )
    if "latency" in by_metric:
        told.append(
            "ms: median from a decoded picture to its boxes, batch 1, over images of "
            f"{every('latency', _images)}; {every('latency', _test_size)}; "
            f"{every('latency', _processor)}; {MARK}. Published times are of full size on the GPUs "
            "of their day."
        )
    if "throughput" in by_metric:
        batches = every("throughput", lambda row: row["cell"]["batch"])
        told.append(f"images/s: the best of batches {batches}; {MARK}.")
    if "memory" in by_metric:
        told.append(f"peak MB: {every('memory', lambda row: row['values']['kind'])}.")
    return told


def _images(row: Row) -> str:
    return f"{row['cell']['dataset'].split('@')[0]} ({row['values']['images']})"


def _test_size(row: Row) -> str:
    size = row["cell"]["size"]
    return f"test size {size[0]}/{size[1]}" if size else "published test size"


def _processor(row: Row) -> str:
    threads = row["cell"]["threads"] or row["environment"].get("threads", "default")
    return f"{row['cell']['device']}, {threads} threads"
