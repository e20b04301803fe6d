"""Results files compared and merged: `fcos-zoo bench compare` and `fcos-zoo bench merge`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.store import Store, newest, read
from fcos.text import TextConsole


def compare_results(
    before: Annotated[Path, typer.Argument(help="Results file to compare with.")],
    after: Annotated[Path, typer.Argument(help="Results file of the same cases, measured later.")],
    tolerance: Annotated[
        float,
        typer.Option(help="Accept times and memory that grew by this share, beyond their noise."),
    ] = 0.05,
) -> int:
    """Compare two results files: every figure of both, and its ratio.

    The exit code is 1 if a figure got worse by more than the tolerance, or is missing in the
    second file.
    """
    from reports.compare import compare
    from reports.frame import records
    from reports.tables import rich_table

    found = compare(read([before]), read([after]), tolerance)
    figures = found.figures
    if figures.empty:
        raise LookupError(f"{before} and {after} have no case in common")
    console = TextConsole()
    if figures["machine"].nunique() > 1:
        figures["case"] += " on " + figures["machine"]
    rows = [_cells(one) for one in records(figures)]
    columns = {heading: [row[heading] for row in rows] for heading in rows[0]}
    console.print(rich_table(columns, ["red" * bad for bad in figures["regressed"]]))
    skipped = [
        f"{count} measured cases that only {path} has"
        for count, path in ((found.lost, before), (found.added, after))
        if count
    ]
    skipped += [f"{name}, which only one of the files has" for name in found.machines]
    for text in skipped:
        console.print(f"not compared: {text}", style="yellow", soft_wrap=True)
    regressions = figures[figures["regressed"]]
    for one in records(regressions):
        change = one["reason"] or f"{one['before']:.4g} to {one['after']:.4g}"
        text = f"regression: {one['entry']} {one['case']}, {one['figure']}: {change}"
        console.print(text, style="red", soft_wrap=True)
    return 1 if found.lost or len(regressions) else 0


def merge(
    out: Annotated[Path, typer.Argument(help="Results file to which rows are appended.")],
    files: Annotated[list[Path], typer.Argument(help="Results files to read.")],
) -> None:
    """Merge results files: append the newest row of every case that OUT does not have."""
    store = Store(out)
    added = store.merge(row for file in files for row in newest(read([file])))
    TextConsole(soft_wrap=True).print(f"{added} rows added to {out}")


def _cells(one: Mapping[str, Any]) -> dict[str, str]:
    """A figure and its change as texts."""
    before, after, ratio, noise = (one[key] for key in ("before", "after", "ratio", "noise"))
    missing = math.isnan(ratio)
    spread = "?" if math.isnan(noise) else f"{noise:.3f}"
    return {
        "model": one["entry"],
        "case": one["case"] if missing or not one["reason"] else f"{one['case']}, {one['reason']}",
        "figure": one["figure"],
        "before": "-" if math.isnan(before) else f"{before:.4g}",
        "after": "-" if math.isnan(after) else f"{after:.4g}",
        "ratio": "-" if missing else f"{ratio:.3f} ± {spread}",
    }
