"""The cache of weights: `fcos-zoo cache`."""

from __future__ import annotations

import fnmatch
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

import zoo
from zoo import cache

LEFTOVERS = {
    "part": "unfinished, will be resumed",
    "hub": "unfinished, will start over",
    "bad": "refused, kept aside",
}


def show_cache(
    removed: Annotated[
        list[str] | None,
        typer.Option("--remove", metavar="NAME", help="Remove entries or files; shell wildcards."),
    ] = None,
) -> None:
    """Show the downloaded files and their sizes, or remove some."""
    console = Console(soft_wrap=True)
    if removed:
        freed = sum(remove(pattern) for pattern in removed)
        console.print(f"{decimal(freed)} freed in {cache.folder()}", markup=False, highlight=False)
        return
    console.print(table())


def table() -> Table:
    """A line a file: whole files, then what interrupted or refused transfers left."""
    from zoo.converted import SUFFIX  # imports torch

    entries, rest = cache.entries(), leftovers()
    shown = Table(title=f"{cache.folder()}", title_justify="left", show_footer=True)
    total = sum(entry.size for entry in entries) + sum(size for _, size in rest)
    shown.add_column("file", overflow="fold", footer=f"{len(entries) + len(rest)} files")
    shown.add_column("size", footer=decimal(total), justify="right")
    shown.add_column("what it is")
    for entry in entries:
        converted = entry.path.name.endswith(SUFFIX)
        what = "converted copy" if converted else "published weights"
        unknown = "" if entry.sha256 else ", no hash on record"
        shown.add_row(entry.path.name, decimal(entry.size), what + unknown)
    for name, size in rest:
        shown.add_row(name, decimal(size), LEFTOVERS[name.rpartition(".")[2]])
    return shown


def leftovers() -> list[tuple[str, int]]:
    """Names and sizes of unfinished and refused files."""
    folder = cache.folder()
    found = [path for kind in LEFTOVERS for path in folder.glob(f"*.{kind}")]
    return sorted((path.name, cache.size_on_disk(path)) for path in found)


def remove(pattern: str) -> int:
    """Remove the files of an entry, or a file by its name; returns the bytes freed.

    A file that entries share goes with the last of their converted copies.

    Raises:
        LookupError: the cache holds nothing of that name.
        WeightsError: a file is being fetched.
    """
    from zoo.converted import SUFFIX  # imports torch

    held = {entry.path.name for entry in cache.entries()}
    held |= {name.rpartition(".")[0] for name, _ in leftovers()}
    wanted = {name for name in held if fnmatch.fnmatchcase(name, pattern)}
    chosen = zoo.names(pattern)
    others = [name for name in zoo.names() if name not in chosen and name + SUFFIX in held]
    shared = {zoo.card(name).filename for name in others}
    for name in chosen:
        wanted |= {str(zoo.card(name).filename), name + SUFFIX} & held - shared
    if not wanted:
        raise LookupError(f"the cache holds nothing of {pattern!r}: `fcos-zoo cache` shows it all")
    return sum(cache.remove(name) for name in sorted(wanted))


if __name__ == "__main__":
    from tools.cli import main

    sys.exit(main(["cache", *sys.argv[1:]]))
