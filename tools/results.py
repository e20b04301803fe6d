"""Results files compared and merged: `fcos-zoo bench compare` and `fcos-zoo bench merge`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from benchmarks.store import Store, newest, read
from fcos.text import TextConsole

if TYPE_CHECKING:
    from reports.compare import Comparison


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
    from reports.compare import compare, unmatched, unmatched_machines

    rows_before, rows_after = read([before]), read([after])
    comparisons = compare(rows_before, rows_after, tolerance)
    if not comparisons:
        raise LookupError(f"{before} and {after} have no case in common")
    console = TextConsole()
    several = len({one.machine for one in comparisons}) > 1
    console.print(_table(comparisons, several))
    lost, more = unmatched(rows_before, rows_after)
    skipped = [
        f"{count} measured cases that only {path} has"
        for count, path in ((lost, before), (more, after))
        if count
    ]
    skipped += [
        f"{name}, which only one of the files has"
        for name in unmatched_machines(rows_before, rows_after)
    ]
    for text in skipped:
        _print(console, f"not compared: {text}", "yellow")
    regressions = [one for one in comparisons if one.regressed]
    for one in regressions:
        change = one.reason or f"{one.before:.4g} to {one.after:.4g}"
        where = f" on {one.machine}" if several else ""
        _print(
            console, f"regression: {one.entry} {one.settings}{where}, {one.name}: {change}", "red"
        )
    return 1 if regressions or lost else 0


def merge(
    out: Annotated[Path, typer.Argument(help="Results file to which rows are appended.")],
    files: Annotated[list[Path], typer.Argument(help="Results files to read.")],
) -> None:
    """Merge results files: append the newest row of every case that OUT does not have."""
    store = Store(out)
    added = store.merge(row for file in files for row in newest(read([file])))
    console = TextConsole(soft_wrap=True)
    console.print(f"{added} rows added to {out}")


def _print(console: TextConsole, text: str, style: str) -> None:
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _table(comparisons: Sequence[Comparison], several: bool) -> Table:
    """A row per figure, which folds rather than exceed the terminal's width."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("model", "case", "figure"):
        table.add_column(heading, overflow="fold")
    for heading in ("before", "after", "ratio"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in comparisons:
        noise = "?" if math.isnan(one.noise) else f"{one.noise:.3f}"
        ratio = "-" if math.isnan(one.ratio) else f"{one.ratio:.3f} ± {noise}"
        figures = ["-" if math.isnan(v) else f"{v:.4g}" for v in (one.before, one.after)]
        reason = "" if math.isnan(one.ratio) else one.reason
        words = filter(None, [one.settings, one.machine if several else "", reason])
        style = "red" if one.regressed else None
        table.add_row(one.entry, ", ".join(words), one.name, *figures, ratio, style=style)
    return table
