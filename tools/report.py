"""Reports of results, and curves of training runs: `fcos-zoo report`."""

from __future__ import annotations

import fnmatch
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import store
from fcos.text import TextConsole


def report(
    results: Annotated[list[Path], typer.Argument(help="Files that `fcos-zoo bench` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("outputs/report"),
    html: Annotated[
        bool, typer.Option("--html", help="Also write index.html, one interactive page.")
    ] = False,
    csv: Annotated[
        bool, typer.Option("--csv", help="Also write the published tables as CSV files.")
    ] = False,
    entry: Annotated[str, typer.Option(help="Only these models; shell wildcards.")] = "*",
    machine: Annotated[str, typer.Option(help="Only these machines; shell wildcards.")] = "*",
    metrics: Annotated[
        str | None, typer.Option(help="Only these metrics, such as latency,ap.", metavar="WORDS")
    ] = None,
) -> None:
    """Report results: which model to take, all measurements, and the published tables.

    `fcos-zoo report curves RUN...` plots training runs.
    """
    from reports import overview, published, tables

    wanted = metrics.split(",") if metrics else None
    found = store.newest(store.read(results))
    files = ", ".join(map(str, results))
    if not found:
        raise LookupError(f"{files}: no results of `fcos-zoo bench`")
    rows = chosen(found, entry, machine, wanted)
    if not rows:
        raise LookupError(f"no results in {files} match --entry, --machine and --metrics")
    written = overview.files(rows)
    written |= {"measured.md": tables.page(rows), "published.md": published.page(rows)}
    for comparison in published.compare_all(rows) if csv else ():
        folder = re.sub(r"\W+", "-", comparison.machine).strip("-")
        written[f"csv/{folder}/{comparison.table.id}.csv"] = comparison.csv()
    if html:
        from reports import page

        written["index.html"] = page.render(rows)
    for name, text in written.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    names = ", ".join(name for name in written if "/" not in name) + " and csv" * csv
    TextConsole(soft_wrap=True).print(f"{names} in {out}")


def curves(
    runs: Annotated[list[Path], typer.Argument(help="Folders that `fcos-zoo train` wrote.")],
    out: Annotated[
        list[Path] | None,
        typer.Option(
            help="Image files to write, .png or .svg.",
            show_default="curves.png, in the folder of a single run",
        ),
    ] = None,
) -> None:
    """Print the COCO summary of training runs, and plot their AP and losses by epoch."""
    from reports import curves

    loaded = curves.load_all(runs)
    console = TextConsole(soft_wrap=True)
    for run in loaded:
        console.print(curves.text(run), end="\n\n")
    first = runs[0]
    folder = Path() if len(loaded) > 1 else first.parent if first.is_file() else first
    for path in out or [folder / "curves.png"]:
        if path.suffix not in (".png", ".svg"):
            raise ValueError(f"{path}: the name of an image file ends in .png or .svg")
        curves.save(curves.draw(loaded), path)
        console.print(str(path))


def chosen(
    rows: Sequence[store.Row], entry: str, machine: str, metrics: Sequence[str] | None
) -> list[store.Row]:
    """Return the rows that match the filters of the command line."""
    return [
        row
        for row in rows
        if fnmatch.fnmatchcase(row["cell"]["entry"], entry)
        and fnmatch.fnmatchcase(row["machine"], machine)
        and (not metrics or row["cell"]["metric"] in metrics)
    ]


if __name__ == "__main__":
    from tools.cli import main

    sys.exit(main(["report", *sys.argv[1:]]))
