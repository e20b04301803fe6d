"""Hold two results files against each other: `fcos-zoo bench compare A B`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.compare import Comparison, compare, left_out, unmatched
from benchmarks.store import read


def main(arguments: Sequence[str] | None = None) -> int:
    """Print every figure of both with its ratio; 1 if one got worse than tolerated, or is lost."""
    parser = argparse.ArgumentParser(prog="fcos-zoo bench compare", description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--tolerance", type=float, default=0.05,
        help="relative worsening of times and memory that is none yet (%(default)s)")  # fmt: skip
    options = parser.parse_args(arguments)
    before, after = read([options.before]), read([options.after])
    found = compare(before, after, options.tolerance)
    if not found:
        raise LookupError(f"{options.before} and {options.after} have no cell in common")
    console = Console(width=None if sys.stdout.isatty() else 160)
    several = len({one.machine for one in found}) > 1
    console.print(_table(found, several))
    lost, more = unmatched(before, after)
    for count, path in ((lost, options.before), (more, options.after)):
        if count:
            text = f"not compared: {count} measured cells that only {path} has"
            console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)
    for machine in left_out(before, after):
        text = f"not compared: {machine}, which only one of the files has"
        console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)
    regressions = [one for one in found if one.regressed]
    for one in regressions:
        change = one.reason or f"{one.before:.4g} to {one.after:.4g}"
        where = f" on {one.machine}" if several else ""
        text = f"regression: {one.entry} {one.settings}{where}, {one.name}: {change}"
        console.print(text, style="red", markup=False, highlight=False, soft_wrap=True)
    return 1 if regressions or lost else 0


def _table(found: Sequence[Comparison], several: bool) -> Table:
    table = Table("entry", "cell", "figure")
    for heading in ("before", "after", "ratio"):
        table.add_column(heading, justify="right")
    for one in found:
        noise = "?" if one.noise is None else f"{one.noise:.3f}"
        ratio = "-" if one.ratio is None else f"{one.ratio:.3f} ± {noise}"
        figures = ["-" if v is None else f"{v:.4g}" for v in (one.before, one.after)]
        style = "red" if one.regressed else None
        words = [one.settings, one.machine if several else "", one.reason if one.ratio else ""]
        cell = ", ".join(filter(None, words))
        table.add_row(one.entry, cell, one.name, *figures, ratio, style=style)
    return table


if __name__ == "__main__":
    sys.exit(main())
