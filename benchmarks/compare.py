"""Two sets of results held against each other: before and after, or machine and machine."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.store import Row, newest


@dataclass(frozen=True)
class Quantity:
    """A figure of a metric: where it stands in the values, and which way it gets worse."""

    metric: str
    name: str
    value: Callable[[Mapping[str, Any]], float | None]
    worse: Literal["more", "less"]


QUANTITIES = (
    Quantity("params", "parameters", lambda v: v["parameters"], "more"),
    Quantity("flops", "GFLOPs", lambda v: v["gflops"], "more"),
    Quantity("training_memory", "GB predicted", lambda v: v["predicted_gb"], "more"),
    Quantity("training_memory", "GB measured", lambda v: v.get("measured_gb"), "more"),
    Quantity("latency", "ms", lambda v: v["median"], "more"),
    Quantity("throughput", "images/s", lambda v: v["images_per_second"], "less"),
    Quantity("memory", "peak MB", lambda v: v["peak_mb"], "more"),
    Quantity("ap", "AP", lambda v: v["AP"], "less"),
)


@dataclass(frozen=True)
class Comparison:
    """One figure before and after; None where it was not measured.

    `noise`: of the ratio, from the relative interquartile ranges of both; `regressed`: it got worse
    by more than the tolerance and the noise, or it is there no more.
    """

    entry: str
    settings: str
    name: str
    before: float | None
    after: float | None
    noise: float
    regressed: bool
    reason: str = ""

    @property
    def ratio(self) -> float | None:
        """After by before."""
        if self.before is None or self.after is None or self.before == 0:
            return None
        return self.after / self.before


def compare(
    before: Iterable[Row], after: Iterable[Row], tolerance: float = 0.05
) -> list[Comparison]:
    """Join rows by cell, whatever machine they come from.

    Args:
        before, after: rows of results files; of a cell's rows the last counts.
        tolerance: relative worsening that is none yet.
    """
    old = {row["key"]: row for row in newest(list(before))}
    new = {row["key"]: row for row in newest(list(after))}
    found: list[Comparison] = []
    for key, row in old.items():
        if key in new:
            found += _of_cell(row, new[key], tolerance)
    return found


def unmatched(before: Iterable[Row], after: Iterable[Row]) -> tuple[int, int]:
    """How many cells only the first has, and only the second."""
    old, new = ({row["key"] for row in rows} for rows in (before, after))
    return len(old - new), len(new - old)


def _of_cell(before: Row, after: Row, tolerance: float) -> list[Comparison]:
    cell = before["cell"]
    common = (cell["entry"], settings(cell))
    found = []
    for quantity in QUANTITIES:
        if quantity.metric != cell["metric"]:
            continue
        old, new = _value(quantity, before), _value(quantity, after)
        if old is None and new is None:
            continue
        if old is None or new is None:
            reason = after["reason"] or after["status"] if new is None else ""
            found.append(Comparison(*common, quantity.name, old, new, 0.0, new is None, reason))
            continue
        noise = math.hypot(_noise(before), _noise(after))
        change = new / old - 1 if old else (0.0 if new == old else math.inf)
        worsening = change if quantity.worse == "more" else -change
        regressed = worsening > max(tolerance, noise)
        found.append(Comparison(*common, quantity.name, old, new, noise, regressed))
    return found


def settings(cell: Mapping[str, Any]) -> str:
    """What tells a cell from others of its entry, in a few words."""
    words: Sequence[str] = (
        cell["metric"],
        cell["precision"],
        f"batch {cell['batch']}" if cell["batch"] > 1 else "",
        "compiled" if cell["compiled"] else "",
        cell["layout"] if cell["layout"] != "channels_last" else "",
    )
    return " ".join(filter(None, words))


def _value(quantity: Quantity, row: Row) -> float | None:
    return quantity.value(row["values"]) if row["status"] == "measured" else None


def _noise(row: Row) -> float:
    return float(row["values"].get("noise") or 0.0)
