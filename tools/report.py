"""Make the measured tables, and the published ones beside them, from results files."""

from __future__ import annotations

import argparse
import fnmatch
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import store
from reports import regenerated, tables


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the reports into a folder and print where they are."""
    parser = argparse.ArgumentParser(prog="fcos-zoo report", description=__doc__)
    parser.add_argument("results", nargs="+", type=Path, help="files that `fcos-zoo bench` wrote")
    parser.add_argument("--out", type=Path, default=Path("outputs/report"), help="%(default)s")
    parser.add_argument("--entry", default="*", help="entries, shell wildcards (default: all)")
    options = parser.parse_args(arguments)
    rows = [
        row
        for row in store.newest(store.read(options.results))
        if fnmatch.fnmatchcase(row["cell"]["entry"], options.entry)
    ]
    if not rows:
        raise LookupError(
            f"no results of {options.entry!r} in {', '.join(map(str, options.results))}"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    console = Console(soft_wrap=True)
    for name, text in (
        ("measured.md", tables.page(rows)),
        ("published.md", regenerated.page(rows)),
    ):
        (options.out / name).write_text(text)
        console.print(f"{options.out / name}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
