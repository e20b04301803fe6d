"""Compare the cache's files with their hashes: `fcos-zoo verify-cache`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track

import zoo
from tools.console import TextConsole
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
    console = TextConsole(soft_wrap=True)
    errors = TextConsole(stderr=True)
    damaged = 0
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
            outcome = repair(path, sources)
            failed = isinstance(outcome, Exception)
            damaged += failed
            console.print(f"{path.name}: damaged, {outcome}", style="red" if failed else None)
    return 1 if damaged else 0


def published(filename: str) -> Sequence[FileSource]:
    """The sources of a published file, or of ImageNet weights, by its name; empty for others."""
    from zoo import imagenet  # imports torch

    name = entry_of_file(filename)
    return zoo.card(name).weights if name else imagenet.sources_of(filename)


def repair(path: Path, sources: Sequence[FileSource]) -> str | Exception:
    """Download a damaged file again; returns what was done, or the error."""
    try:
        with cache.locked_now(path):
            moved = cache.quarantine(path)
        if not sources:
            return LookupError(
                f"{moved}: no entry of the zoo has a file of this name; one that was downloaded "
                "from an address is downloaded again by the next zoo.get of it"
            )
        fetch(path.name, sources)
    except zoo.WeightsError as error:
        return error
    cache.sidecar(path, ".bad").unlink(missing_ok=True)
    return "downloaded again"


if __name__ == "__main__":
    from tools.cli import main

    sys.exit(main(["verify-cache", *sys.argv[1:]]))
