"""The cache of weights: `fcos-zoo cache` and `fcos-zoo verify-cache`."""

from __future__ import annotations

import fnmatch
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal
from rich.progress import track
from rich.table import Table

import zoo
from fcos.text import TextConsole, counted, plain_table
from zoo import cache
from zoo.download import fetch
from zoo.registry import entry_of_file
from zoo.sources import FileSource, expected

LEFTOVERS = {
    "part": "unfinished, will be resumed",
    "hub": "unfinished, will start over",
    "bad": "refused, kept aside",
}


def show_cache(
    removed: Annotated[
        list[str] | None,
        typer.Option(
            "--remove",
            metavar="NAME",
            help="Remove these entries or files; may have shell wildcards.",
        ),
    ] = None,
) -> None:
    """Show the downloaded files and their sizes, or remove some."""
    console = TextConsole(soft_wrap=True)
    if removed:
        freed = sum(remove(pattern) for pattern in removed)
        console.print(f"{decimal(freed)} freed in {cache.folder()}")
        return
    console.print(table())


def table() -> Table:
    """Return a row for each complete file, then for files of unfinished or refused downloads."""
    rows = []
    for path in cache.files():
        what = "weights" if cache.recorded(path) else "weights, no hash on record"
        rows.append((path.name, path.stat().st_size, what))
    rows += [(name, size, LEFTOVERS[name.rpartition(".")[2]]) for name, size in leftovers()]
    shown = plain_table(title=f"{cache.folder()}", title_justify="left", show_footer=True)
    shown.add_column("file", overflow="fold", footer=counted(len(rows), "file"))
    shown.add_column("size", footer=decimal(sum(row[1] for row in rows)), justify="right")
    shown.add_column("what it is")
    for name, size, what in rows:
        shown.add_row(name, decimal(size), what)
    return shown


def leftovers() -> list[tuple[str, int]]:
    """Return names and sizes of unfinished and refused files."""
    paths = [path for kind in LEFTOVERS for path in cache.folder().glob(f"*.{kind}")]
    return sorted((path.name, cache.size_on_disk(path)) for path in paths)


def remove(pattern: str) -> int:
    """Remove the files of entries, or files by their names; returns the bytes freed.

    Raises:
        LookupError: the cache holds no such file.
        WeightsError: a file is being downloaded.
    """
    names = {path.name for path in cache.files()}
    names |= {name.rpartition(".")[0] for name, _ in leftovers()}
    chosen = {name for name in names if fnmatch.fnmatchcase(name, pattern)}
    chosen |= {str(zoo.card(name).filename) for name in zoo.names(pattern)} & names
    if not chosen:
        raise LookupError(f"the cache has no file of {pattern!r}: `fcos-zoo cache` shows all")
    return sum(cache.remove(name) for name in sorted(chosen))


def verify_cache(
    no_repair: Annotated[
        bool, typer.Option("--no-repair", help="Only report damaged files.")
    ] = False,
) -> int:
    """Compare every downloaded file with its hash, and download damaged ones again.

    The exit code is 1 if damaged files remain.
    """
    console = TextConsole(soft_wrap=True)
    errors = TextConsole(stderr=True)
    damaged = 0
    if not cache.files():
        console.print(f"no files in {cache.folder()}")
        return 0
    for path in track(cache.files(), console=errors, disable=not errors.is_terminal):
        sources = published(path.name)
        wanted = expected(path.name, sources) if sources else [FileSource(path.name, sha256="")]
        if not (cache.recorded(path) or any(each.digest or each.size for each in wanted)):
            console.print(f"{path.name}: no hash is known, not checked")
        elif cache.matches(path, cache.sha256(path), wanted):
            console.print(f"{path.name}: good")
        elif no_repair:
            damaged += 1
            console.print(f"{path.name}: damaged", style="red")
        else:
            try:
                repair(path, sources)
                console.print(f"{path.name}: damaged, downloaded again")
            except (LookupError, zoo.WeightsError) as error:
                damaged += 1
                console.print(f"{path.name}: damaged, {error}", style="red")
    return 1 if damaged else 0


def published(filename: str) -> Sequence[FileSource]:
    """Return the sources of published or ImageNet weights by file name; empty for other files."""
    from zoo import initial_weights  # imports torch

    name = entry_of_file(filename)
    return zoo.card(name).weights if name else initial_weights.sources_of(filename)


def repair(path: Path, sources: Sequence[FileSource]) -> None:
    """Download a damaged file again.

    Raises:
        LookupError: it has no sources.
        WeightsError: it is being downloaded, or all sources failed.
    """
    with cache.locked(path):
        moved = cache.quarantine(path)
    if not sources:
        raise LookupError(
            f"{moved}: no entry of the zoo has a file of this name; one that was downloaded "
            "from an address is downloaded again by the next zoo.get of it"
        )
    fetch(path.name, sources)
    cache.sidecar(path, ".bad").unlink(missing_ok=True)


if __name__ == "__main__":
    from tools.cli import main

    sys.exit(main(["cache", *sys.argv[1:]]))
