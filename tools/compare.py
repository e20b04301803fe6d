"""Compare two results files: `fcos-zoo bench compare BEFORE AFTER`."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.store import read
from reports.compare import Comparison, compare, unmatched, unmatched_machines


def main(arguments: Sequence[str] | None = None) -> int:
    """Print every figure of both files and its ratio.

    Returns 1 if a figure got worse by more than the tolerance, or is missing in the second file.
    """
    parser = argparse.ArgumentParser(prog="fcos-zoo bench compare", description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--tolerance", type=float, default=0.05,
        help="by how much times and memory may get worse, relatively (%(default)s)")  # fmt: skip
    options = parser.parse_args(arguments)
    before, after = read([options.before]), read([options.after])
    comparisons = compare(before, after, options.tolerance)
    if not comparisons:
        raise LookupError(f"{options.before} and {options.after} have no case in common")
    console = Console()
    several = len({one.machine for one in comparisons}) > 1
    console.print(_table(comparisons, several))
    lost, more = unmatched(before, after)
    skipped = [
        f"{count} measured cases that only {path} has"
        for count, path in ((lost, options.before), (more, options.after))
        if count
    ]
    skipped += [
        f"{name}, which only one of the files has" for name in unmatched_machines(before, after)
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


def _print(console: Console, text: str, style: str) -> None:
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


if __name__ == "__main__":
    sys.exit(main())
