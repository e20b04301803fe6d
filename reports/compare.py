"""Two sets of results compared: before and after a change, or one machine and another."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.store import Row, newest
from reports.frame import THROTTLED, frame, records
from reports.metrics import BY_NAME

Figures = dict[str, Mapping[str, Any]]  # rows of the frame by metric


@dataclass(frozen=True)
class Comparison:
    """One figure before and after; NaN where it was not measured.

    Args:
        settings: measurement and settings in words.
        name: the heading of its metric.
        noise: of the ratio, from the noise of both; NaN where it is not known.
        regressed: it got worse by more than the tolerance and the noise, or was not measured again.
        reason: why it was not measured, or cannot be compared.
    """

    machine: str
    entry: str
    settings: str
    name: str
    before: float
    after: float
    noise: float
    regressed: bool
    reason: str = ""

    @property
    def ratio(self) -> float:
        """After by before; NaN where one of them is missing."""
        return self.after / self.before if self.before else math.nan


def compare(
    before: Sequence[Row], after: Sequence[Row], tolerance: float = 0.05
) -> list[Comparison]:
    """Every figure of the cases that both have.

    Cases are matched on each machine that both have. If they have none in common, one machine is
    compared with one other, whatever their number of threads and of the GPU.

    Args:
        before, after: results rows; of a case the one that `newest` chooses counts.
        tolerance: by how much times and memory may get worse, relatively. Parameters and GFLOPs
            must stay the same, and AP may lose a tenth of a point.

    Raises:
        ValueError: no machine in common, and several in one of them.
    """
    old, new = _by_case(before, after)
    return [
        comparison
        for case, row in old.items()
        if case in new
        for comparison in _compare_case(row, new[case], tolerance)
    ]


def unmatched(before: Sequence[Row], after: Sequence[Row]) -> tuple[int, int]:
    """How many measured cases only the first has, and only the second, on machines of both."""
    old, new = _by_case(before, after)
    return _lacking(old, new), _lacking(new, old)


def unmatched_machines(before: Sequence[Row], after: Sequence[Row]) -> list[str]:
    """The machines that only one of them has, where both have others in common."""
    one, other = ({row["machine"] for row in rows} for rows in (before, after))
    return sorted(one ^ other) if one & other else []


def _lacking(one: Mapping[str, Row], other: Mapping[str, Row]) -> int:
    return sum(row["status"] == "measured" for case, row in one.items() if case not in other)


def _by_case(before: Sequence[Row], after: Sequence[Row]) -> list[dict[str, Row]]:
    both = [newest(rows) for rows in (before, after)]
    machines = [{row["machine"] for row in rows} for rows in both]
    shared = machines[0] & machines[1]
    if not shared and max(map(len, machines)) > 1:
        raise ValueError("several machines in one file, and none that both files have")
    return [
        {
            f"{row['key']} {row['machine']}" if shared else _portable_key(row["cell"]): row
            for row in rows
            if not shared or row["machine"] in shared
        }
        for rows in both
    ]


def _portable_key(case: Mapping[str, Any]) -> str:
    """What makes a case the same one on another machine."""
    changes = {"threads": None, "device": str(case["device"]).split(":")[0]}
    return json.dumps({**case, **changes}, sort_keys=True)


def _compare_case(before: Row, after: Row, tolerance: float) -> list[Comparison]:
    common = (before["machine"], before["cell"]["entry"], _settings(before["cell"]))
    if "measured" not in (before["status"], after["status"]):
        reason = after["reason"] or after["status"]
        return [Comparison(*common, "measured in neither", math.nan, math.nan, 0.0, False, reason)]
    old, new = _figures(before), _figures(after)
    found = []
    for name in [name for name in BY_NAME if name in {*old, *new}]:
        metric = BY_NAME[name]
        was, now = (
            figures[name]["value"] if name in figures else math.nan for figures in (old, new)
        )
        noise = (
            math.nan
            if math.isnan(was + now)
            else math.hypot(old[name]["noise"], new[name]["noise"])
        )
        worsening = now - was if metric.lower_is_better else was - now
        allowed = metric.tolerance
        if allowed is None:
            allowed = abs(was) * max(tolerance, 0.0 if math.isnan(noise) else noise)
        reason = ""
        if math.isnan(now):
            reason = after["reason"] or after["status"]
        elif any(THROTTLED in figures[name]["note"] for figures in (old, new) if name in figures):
            reason = "throttled: not compared"
        lost = math.isnan(now) and not math.isnan(was)
        regressed = lost or (worsening > allowed and not reason)
        found.append(Comparison(*common, metric.heading, was, now, noise, regressed, reason))
    return found


def _figures(row: Row) -> Figures:
    """The measured figures of a row that are compared, by the name of their metric."""
    figures = records(frame([row]))
    return {f["metric"]: f for f in figures if f["measured"] and BY_NAME[f["metric"]].compared}


def _settings(case: Mapping[str, Any]) -> str:
    """What distinguishes a case from others of its model, in words."""
    words = (
        case["metric"],
        case["precision"],
        f"batch {case['batch']}" if case["batch"] > 1 else "",
        "compiled" if case["compiled"] else "",
        case["layout"] if case["layout"] != "channels_last" else "",
    )
    return " ".join(filter(None, words))
