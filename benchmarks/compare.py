"""Two sets of results held against each other: before and after, or machine and machine."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.cell import TIMED
from benchmarks.store import Row, newest

Place = tuple[str, str]  # a cell's key and, where both sides have it, the machine


@dataclass(frozen=True)
class Quantity:
    """A figure of a metric: where it stands in the values, and which way it gets worse.

    `allowed`: how much worse is no regression yet, in the figure's own unit; None of one that
    varies from run to run, to which the relative tolerance applies.
    """

    metric: str
    name: str
    value: Callable[[Mapping[str, Any]], float | None]
    worse: Literal["more", "less"]
    allowed: float | None = None


QUANTITIES = (
    Quantity("params", "parameters", lambda v: v["parameters"], "more", 0),
    Quantity("flops", "GFLOPs", lambda v: v["gflops"], "more", 0),
    Quantity("training_memory", "GB predicted", lambda v: v["predicted_gb"], "more"),
    Quantity("training_memory", "GB measured", lambda v: v.get("measured_gb"), "more"),
    Quantity("latency", "ms", lambda v: v["median"], "more"),
    Quantity("throughput", "images/s", lambda v: v["images_per_second"], "less"),
    Quantity("memory", "peak MB", lambda v: v["peak_mb"], "more"),
    Quantity("ap", "AP", lambda v: v["AP"], "less", 0.001),
)


@dataclass(frozen=True)
class Comparison:
    """One figure before and after; None where it was not measured.

    `noise`: of the ratio, from the noise of both, None where it is not known of one; `regressed`:
    it got worse by more than the tolerance and the noise, or it is there no more; `reason`: why it
    is not there, or not to be compared.
    """

    machine: str
    entry: str
    settings: str
    name: str
    before: float | None
    after: float | None
    noise: float | None
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
    """Every figure of the cells that both have.

    Cells are joined on each machine that both have, or else one machine with one other, whose
    number of threads and of the GPU are then no matter.

    Args:
        before, after: rows of results files; see `newest` for which of a cell's rows counts.
        tolerance: relative worsening that is none yet, of times and memory; parameters and GFLOPs
            must stay, and AP may lose a tenth of a point.

    Raises:
        ValueError: no machine in common and several in one of them.
    """
    old, new = _by_cell(before, after)
    found: list[Comparison] = []
    for place, row in old.items():
        if place in new:
            found += _of_cell(row, new[place], tolerance)
    return found


def unmatched(before: Iterable[Row], after: Iterable[Row]) -> tuple[int, int]:
    """How many cells only the first measured, and only the second, on machines that both have."""
    old, new = _by_cell(before, after)
    return _lacking(old, new), _lacking(new, old)


def _lacking(one: Mapping[Place, Row], other: Mapping[Place, Row]) -> int:
    return sum(1 for at, row in one.items() if at not in other and row["status"] == "measured")


def _by_cell(before: Iterable[Row], after: Iterable[Row]) -> list[dict[Place, Row]]:
    both = [newest(list(rows)) for rows in (before, after)]
    machines = [{row["machine"] for row in rows} for rows in both]
    shared = machines[0] & machines[1]
    if not shared and max(map(len, machines)) > 1:
        raise ValueError("several machines in one file, and none that both files have")
    return [
        {
            (row["key"], row["machine"]) if shared else (_anywhere(row["cell"]), ""): row
            for row in rows
            if not shared or row["machine"] in shared
        }
        for rows in both
    ]


def left_out(before: Iterable[Row], after: Iterable[Row]) -> list[str]:
    """The machines that only one of them has, where both have others in common."""
    one, other = ({row["machine"] for row in rows} for rows in (before, after))
    return sorted(one ^ other) if one & other else []


def _anywhere(cell: Mapping[str, Any]) -> str:
    """What makes a cell the same one on another machine."""
    own = {"threads": None, "device": str(cell["device"]).split(":")[0]}
    return json.dumps({**cell, **own}, sort_keys=True)


def _of_cell(before: Row, after: Row, tolerance: float) -> list[Comparison]:
    cell = before["cell"]
    common = (before["machine"], cell["entry"], settings(cell))
    if "measured" not in (before["status"], after["status"]):
        reason = after["reason"] or after["status"]
        return [Comparison(*common, "measured in neither", None, None, 0.0, False, reason)]
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
        noises = [_noise(row) for row in (before, after)]
        noise = None if None in noises else math.hypot(*filter(None, noises))
        worsening = new - old if quantity.worse == "more" else old - new
        allowed = quantity.allowed
        if allowed is None:
            allowed = max(tolerance, noise or 0.0) * abs(old)
        reason = "throttled: not compared" if _throttled(before) or _throttled(after) else ""
        regressed = worsening > allowed and not reason
        found.append(Comparison(*common, quantity.name, old, new, noise, regressed, reason))
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


def _noise(row: Row) -> float | None:
    """Zero of what is not timed; None of what a single process timed, or too few runs."""
    values = row["values"]
    if row["cell"]["metric"] not in TIMED:
        return 0.0
    return values.get("noise") if values.get("processes", 1) > 1 else None


def _throttled(row: Row) -> bool:
    """Whether the GPU was slowed down while it was timed."""
    during = row["values"].get("state", {}).get("during", {})
    return row["cell"]["metric"] in TIMED and bool(during.get("gpu_throttled"))
