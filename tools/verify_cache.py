"""Hash every file of the cache anew, and repair what does not fit."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track

import zoo
from zoo import cache, imagenet
from zoo.converted import SUFFIX
from zoo.download import fetch
from zoo.registry import entry_of_file
from zoo.sources import FileSource, expected


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line a file; 0 if all are good in the end."""
    parser = argparse.ArgumentParser(prog="fcos-zoo verify-cache", description=__doc__)
    parser.add_argument("--no-repair", action="store_true", help="tell only, change nothing")
    options = parser.parse_args(arguments)
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
        elif options.no_repair:
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
    name = entry_of_file(filename)
    return zoo.card(name).weights if name else imagenet.places(filename)


def repair(path: Path) -> str | Exception:
    """Replace a damaged file by a fresh one; says what was done, or what went wrong."""
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
    sys.exit(main())
