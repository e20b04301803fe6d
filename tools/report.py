"""Make the measured tables, and the published ones beside them, from results files."""

from __future__ import annotations

import argparse
import fnmatch
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import store
from reports import regenerated, tables


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the reports into a folder and print where they are."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ["curves"]:
        return draw_curves(arguments[1:])
    options = _parser().parse_args(arguments)
    rows = chosen(store.newest(store.read(options.results)), options)
    if not rows:
        files = ", ".join(map(str, options.results))
        raise LookupError(f"no such results in {files}")
    written = {"measured.md": tables.page(rows), "published.md": regenerated.page(rows)}
    for again in regenerated.all_tables(rows) if options.csv else ():
        machine = re.sub(r"\W+", "-", again.machine).strip("-")
        written[f"csv/{machine}/{again.table.id}.csv"] = again.csv()
    if options.html:
        from reports import page

        written["index.html"] = page.render(rows)
    for name, text in written.items():
        path = options.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    told = ", ".join(name for name in written if "/" not in name)
    told += " and csv" if options.csv else ""
    Console().print(f"{told} in {options.out}", highlight=False, soft_wrap=True)
    return 0


def draw_curves(arguments: Sequence[str]) -> int:
    """Print the arrays and the COCO summary of training runs, and draw them."""
    parser = argparse.ArgumentParser(
        prog="fcos-zoo report curves", description="AP and losses of training runs, by epoch."
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="folders that `fcos-zoo train` wrote")
    add(
        "--out",
        type=Path,
        nargs="+",
        help="pictures, .png or .svg (default: curves.png, in the run's folder if it is one)",
    )
    options = parser.parse_args(arguments)
    from reports import curves

    runs = curves.load_all(options.runs)
    console = Console(soft_wrap=True, markup=False, highlight=False)
    for run in runs:
        console.print(curves.text(run), end="\n\n")
    first: Path = options.runs[0]
    folder = Path() if len(runs) > 1 else first.parent if first.is_file() else first
    for path in options.out or [folder / "curves.png"]:
        if path.suffix not in (".png", ".svg"):
            raise ValueError(f"{path}: a picture is called .png or .svg")
        curves.save(curves.draw(runs), path)
        console.print(path)
    return 0


def chosen(rows: Sequence[store.Row], options: argparse.Namespace) -> list[Mapping[str, Any]]:
    """The rows that all filters let through."""
    return [
        row
        for row in rows
        if fnmatch.fnmatchcase(row["cell"]["entry"], options.entry)
        and fnmatch.fnmatchcase(row["machine"], options.machine)
        and (not options.metrics or row["cell"]["metric"] in options.metrics.split(","))
    ]


def _parser() -> argparse.ArgumentParser:
    epilog = "`fcos-zoo report curves RUN [RUN ...]` draws training runs instead."
    parser = argparse.ArgumentParser(prog="fcos-zoo report", description=__doc__, epilog=epilog)
    add = parser.add_argument
    add("results", nargs="+", type=Path, help="files that `fcos-zoo bench` wrote")
    add("--out", type=Path, default=Path("outputs/report"), help="%(default)s")
    add("--html", action="store_true", help="one page with tables and plots, index.html, too")
    add("--csv", action="store_true", help="the published tables as CSV, a file each, too")
    add("--entry", default="*", help="entries, shell wildcards (default: all)")
    add("--machine", default="*", help="machines, shell wildcards (default: all)")
    add("--metrics", help="such as latency,ap (default: all)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
