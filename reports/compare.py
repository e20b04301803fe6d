"""Compare two sets of results: before and after a change, or one machine and another."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from benchmarks.store import Row, newest
from reports.frame import NAMES, THROTTLED, frame, records, settings_text
from reports.metrics import BY_NAME

COLUMNS = (
    *("machine", "entry", "case", "figure", "before", "after", "ratio", "noise"),
    *("regressed", "reason"),
)


@dataclass(frozen=True)
class Comparison:
    """The figures of the cases in both sets, and the cases in only one of them.

    Args:
        figures: a row for each figure. `case`: its measurement and settings in words; `figure`: the
            heading of its metric; `before`, `after` and their `ratio`: NaN if it was not measured;
            `noise`: noise of the ratio, NaN if it is not known; `regressed`: whether it got worse
            by more than the tolerance and the noise, or was not measured again; `reason`: why it
            was not measured, or cannot be compared.
        lost, added: the number of measured cases that only the first set has, and only the second,
            on machines of both.
        machines: machines that only one set has, if they have others in common.
    """

    figures: pd.DataFrame
    lost: int
    added: int
    machines: list[str]


def compare(before: Sequence[Row], after: Sequence[Row], tolerance: float = 0.05) -> Comparison:
    """Compare every figure of the cases in both sets.

    Cases are matched on each machine that both have. If they have none in common, one machine is
    compared with one other, whatever their number of threads and of the GPU.

    Args:
        before, after: results rows; for each case, the one that `newest` chooses counts.
        tolerance: by which fraction times and memory may get worse. Parameters and GFLOPs
            must stay the same, and AP may lose a tenth of a point.

    Raises:
        ValueError: they have no machine in common, and one has several.
    """
    machines = [{row["machine"] for row in rows} for rows in (before, after)]
    shared = machines[0] & machines[1]
    if not shared and max(map(len, machines)) > 1:
        raise ValueError("several machines in one file, and none that both files have")
    old, new = (
        {
            _case_key(row, shared): row
            for row in newest(rows)
            if row["machine"] in shared or not shared
        }
        for rows in (before, after)
    )
    lines = [
        line
        for key, row in old.items()
        if key in new
        for line in _compare_case(row, new[key], tolerance)
    ]
    return Comparison(
        pd.DataFrame(lines, columns=list(COLUMNS)),
        _measured_only_in(old, new),
        _measured_only_in(new, old),
        sorted(machines[0] ^ machines[1]) if shared else [],
    )


def _case_key(row: Row, shared: set[str]) -> str:
    """Return the key that matches cases of both sets; without `shared` machines, of any machine."""
    if shared:
        return f"{row['key']} {row['machine']}"
    case = row["cell"]
    changes = {"threads": None, "device": str(case["device"]).split(":")[0]}
    return json.dumps({**case, **changes}, sort_keys=True)


def _measured_only_in(one: Mapping[str, Row], other: Mapping[str, Row]) -> int:
    return sum(row["status"] == "measured" for key, row in one.items() if key not in other)


def _compare_case(before: Row, after: Row, tolerance: float) -> Iterator[dict[str, Any]]:
    """Yield a line for each figure of a case, or one that says that neither set measured it."""
    common = {
        "machine": before["machine"],
        "entry": NAMES.get(before["cell"]["entry"], before["cell"]["entry"]),
        "case": _case_text(before["cell"]),
    }
    gap = {"value": math.nan, "noise": math.nan, "note": ""}
    why = after["reason"] or after["status"]
    old, new = _figures(before), _figures(after)
    if "measured" not in (before["status"], after["status"]):
        yield {**common, "figure": "measured in neither", "regressed": False, "reason": why}
    for name in [name for name in BY_NAME if name in {*old, *new}]:
        metric, was, now = BY_NAME[name], old.get(name, gap), new.get(name, gap)
        noise = math.hypot(was["noise"], now["noise"])
        worsening = now["value"] - was["value"]
        allowed = metric.tolerance
        if allowed is None:
            allowed = abs(was["value"]) * max(tolerance, 0.0 if math.isnan(noise) else noise)
        throttled = any(THROTTLED in one["note"] for one in (was, now))
        missing = math.isnan(now["value"])
        worse = (worsening if metric.lower_is_better else -worsening) > allowed
        yield {
            **common,
            "figure": metric.heading,
            "before": was["value"],
            "after": now["value"],
            "ratio": now["value"] / was["value"] if was["value"] else math.nan,
            "noise": noise,
            "regressed": name in old if missing else worse and not throttled,
            "reason": why if missing else "throttled: not compared" * throttled,
        }


def _figures(row: Row) -> dict[str, Mapping[str, Any]]:
    """Return the measured figures of a row that are compared, by the name of their metric."""
    figures = records(frame([row]))
    return {f["metric"]: f for f in figures if f["measured"] and BY_NAME[f["metric"]].compared}


def _case_text(case: Mapping[str, Any]) -> str:
    """Return in words what distinguishes a case from others of its model."""
    batch = f" batch {case['batch']}" if case["batch"] > 1 else ""
    return f"{case['metric']} {settings_text(case)}{batch}"
