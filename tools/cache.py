"""What the cache of weights holds, and how to make room in it."""

from __future__ import annotations

import argparse
import fnmatch
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

import zoo
from zoo import cache
from zoo.converted import SUFFIX

LEFTOVERS = {
    "part": "unfinished, will be resumed",
    "hub": "unfinished, will start over",
    "bad": "refused, kept aside",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Show the files with their sizes, or remove some."""
    parser = argparse.ArgumentParser(prog="fcos-zoo cache", description=__doc__)
    parser.add_argument(
        "--remove",
        nargs="+",
        metavar="NAME",
        help="entries or files, shell wildcards allowed: free their room",
    )
    options = parser.parse_args(arguments)
    console = Console(soft_wrap=True)
    if options.remove:
        freed = sum(remove(pattern) for pattern in options.remove)
        console.print(f"{decimal(freed)} freed in {cache.folder()}", highlight=False)
        return 0
    console.print(table())
    return 0


def table() -> Table:
    """A line a file: whole files, then what interrupted or refused transfers left."""
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
    sys.exit(main())
