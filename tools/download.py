"""Download published weights into the cache: `fcos-zoo download`."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

import zoo
from fcos.text import TextConsole
from zoo.download import progress_bars
from zoo.registry import fetch_weights


def download(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="Entries; may have shell wildcards.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every entry whose weights can be downloaded.")
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Files to download at a time.")] = 4,
) -> int:
    """Download published weights into the cache; interrupted downloads are resumed.

    A failure does not stop the other downloads; the exit code is then 1.
    """
    if bool(names) == everything:
        raise typer.BadParameter("name entries, or use --all")
    chosen = zoo.names(weights=True) if everything else matching(names or ())
    console = TextConsole(soft_wrap=True)
    failed: dict[str, Exception] = {}
    with progress_bars() as progress:
        for name, outcome in fetch_all(chosen, jobs, progress):
            if isinstance(outcome, Exception):
                failed[name] = outcome
            else:
                console.print(f"{name}: {outcome}")
    for name, error in failed.items():
        console.print(f"{name}: {error}", style="red")
    if failed:
        console.print(f"{len(failed)} of {len(chosen)} entries could not be downloaded")
    return 1 if failed else 0


def matching(patterns: Iterable[str]) -> list[str]:
    """Return the entries that match, each once, and patterns without a match, for the error."""
    return list(dict.fromkeys(name for each in patterns for name in zoo.names(each) or [each]))


def fetch_all(
    names: Sequence[str], jobs: int, progress: Progress
) -> Iterator[tuple[str, Path | Exception]]:
    """Yield each entry's file or error as downloads finish; `jobs` of them run at a time."""
    done: queue.SimpleQueue[tuple[str, Path | Exception]] = queue.SimpleQueue()
    running = threading.Semaphore(jobs)

    def work(name: str) -> None:
        with running:
            try:
                done.put((name, fetch_weights(zoo.card(name), progress)))
            except Exception as error:
                done.put((name, error))

    # Daemons, unlike the threads of a pool, let an interrupted command end at once; the next call
    # resumes their downloads.
    for name in names:
        threading.Thread(target=work, args=(name,), daemon=True).start()
    for _ in names:
        yield done.get()


if __name__ == "__main__":
    from tools.cli import main

    sys.exit(main(["download", *sys.argv[1:]]))
