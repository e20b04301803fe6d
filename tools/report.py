"""Write reports from results files: which model to take, all measurements, the published tables."""

from __future__ import annotations

import argparse
import fnmatch
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import store
from reports import overview, published, tables


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the reports into a folder and print their names."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ["curves"]:
        return draw_curves(arguments[1:])
    options = _parser().parse_args(arguments)
    rows = chosen(store.newest(store.read(options.results)), options)
    if not rows:
        files = ", ".join(map(str, options.results))
        raise LookupError(f"no such results in {files}")
    written = overview.files(rows)
    written |= {"measured.md": tables.page(rows), "published.md": published.page(rows)}
    for comparison in published.compare_all(rows) if options.csv else ():
        machine = re.sub(r"\W+", "-", comparison.machine).strip("-")
        written[f"csv/{machine}/{comparison.table.id}.csv"] = comparison.csv()
    if options.html:
        from reports import page

        written["index.html"] = page.render(rows)
    for name, text in written.items():
        path = options.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    names = ", ".join(name for name in written if "/" not in name) + " and csv" * options.csv
    Console().print(f"{names} in {options.out}", highlight=False, soft_wrap=True)
    return 0


def draw_curves(arguments: Sequence[str]) -> int:
    """Print the AP arrays and the COCO summary of training runs, and plot them."""
    parser = argparse.ArgumentParser(
        prog="fcos-zoo report curves", description="AP and losses of training runs, by epoch."
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="folders that `fcos-zoo train` wrote")
    add(
        "--out",
        type=Path,
        nargs="+",
        help="image files, .png or .svg (default: curves.png, in the folder of a single run)",
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
            raise ValueError(f"{path}: the name of an image file ends in .png or .svg")
        curves.save(curves.draw(runs), path)
        console.print(path)
    return 0


def chosen(rows: Sequence[store.Row], options: argparse.Namespace) -> list[store.Row]:
    """The rows that match the filters of the command line."""
    return [
        row
        for row in rows
        if fnmatch.fnmatchcase(row["cell"]["entry"], options.entry)
        and fnmatch.fnmatchcase(row["machine"], options.machine)
        and (not options.metrics or row["cell"]["metric"] in options.metrics.split(","))
    ]


def _parser() -> argparse.ArgumentParser:
    epilog = "`fcos-zoo report curves RUN [RUN ...]` plots training runs instead."
    parser = argparse.ArgumentParser(prog="fcos-zoo report", description=__doc__, epilog=epilog)
    add = parser.add_argument
    add("results", nargs="+", type=Path, help="files that `fcos-zoo bench` wrote")
    add("--out", type=Path, default=Path("outputs/report"), help="%(default)s")
    add("--html", action="store_true", help="also write index.html, one interactive page")
    add("--csv", action="store_true", help="also write the published tables as CSV files")
    add("--entry", default="*", help="models, with shell wildcards (default: all)")
    add("--machine", default="*", help="machines, with shell wildcards (default: all)")
    add("--metrics", help="for example latency,ap (default: all)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
