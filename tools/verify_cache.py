"""The cache's files against their hashes: `fcos-zoo verify-cache`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

import zoo
from zoo import cache
from zoo.download import fetch
from zoo.registry import entry_of_file
from zoo.sources import FileSource, expected


def verify_cache(
    no_repair: Annotated[
        bool, typer.Option("--no-repair", help="Only report damaged files.")
    ] = False,
) -> int:
    """Compare every downloaded file with its hash, and download damaged ones again.

    The exit code is 1 if damaged files remain.
    """
    console = Console(soft_wrap=True, markup=False, highlight=False)
    quiet = Console(stderr=True)
    broken = 0
    for entry in track(cache.entries(), console=quiet, disable=not quiet.is_terminal):
        path = entry.path
        places = published(path.name)
        wanted = expected(path.name, places) if places else [FileSource(path.name, sha256="")]
        if entry.sha256 is None and not any(place.digest or place.size for place in wanted):
            console.print(f"{path.name}: no hash on record, nothing to hold it against")
        elif cache.matches(path, cache.sha256(path), wanted):
            console.print(f"{path.name}: good")
        elif no_repair:
            broken += 1
            console.print(f"{path.name}: damaged", style="red")
        else:
            outcome = repair(path)
            broken += isinstance(outcome, Exception)
            style = "red" if isinstance(outcome, Exception) else None
            console.print(f"{path.name}: damaged, {outcome}", style=style)
    return 1 if broken else 0


def published(filename: str) -> Sequence[FileSource]:
    """Where the zoo's entries or the ImageNet weights have a file of this name from."""
    from zoo import imagenet  # imports torch

    name = entry_of_file(filename)
    return zoo.card(name).weights if name else imagenet.places(filename)


def repair(path: Path) -> str | Exception:
    """Replace a damaged file by a fresh one; says what was done, or what went wrong."""
    from zoo.converted import SUFFIX  # imports torch

    if path.name.endswith(SUFFIX):
        cache.remove(path.name)
        return "removed: the next load writes it again"
    places = published(path.name)
    try:
        with cache.locked_now(path):
            aside = cache.quarantine(path)
        if not places:
            return LookupError(
                f"{aside}: no entry of the zoo has a file of this name; one that was fetched from "
                "an address comes again with the next zoo.get of it"
            )
        fetch(path.name, places)
    except zoo.WeightsError as error:
        return error
    cache.sidecar(path, ".bad").unlink(missing_ok=True)
    return "downloaded again"


if __name__ == "__main__":
    from tools.cli import main

    sys.exit(main(["verify-cache", *sys.argv[1:]]))
