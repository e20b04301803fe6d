"""Fetch published weights into the cache: several at a time, resumed where interrupted."""

from __future__ import annotations

import argparse
import queue
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

import zoo
from zoo.download import progress_bars
from zoo.weights import fetch_weights


def main(arguments: Sequence[str] | None = None) -> int:
    """Download every named entry; failures do not stop the others, and are told at the end."""
    parser = argparse.ArgumentParser(prog="fcos-zoo download", description=__doc__)
    parser.add_argument("names", nargs="*", help="entries; shell wildcards are allowed")
    parser.add_argument("--all", action="store_true", help="every entry whose weights are served")
    parser.add_argument("--jobs", type=int, default=4, help="files at a time (%(default)s)")
    options = parser.parse_args(arguments)
    if bool(options.names) == options.all:
        parser.error("name entries, or say --all")
    if options.jobs < 1:
        parser.error(f"--jobs must be at least 1, not {options.jobs}")
    names = zoo.names(weights=True) if options.all else list(matching(options.names))
    console = Console(soft_wrap=True, markup=False, highlight=False)
    failed: dict[str, Exception] = {}
    with progress_bars() as progress:
        for name, outcome in fetch_all(names, options.jobs, progress):
            if isinstance(outcome, Exception):
                failed[name] = outcome
            else:
                console.print(f"{name}: {outcome}")
    for name, error in failed.items():
        console.print(f"{name}: {error}", style="red")
    if failed:
        console.print(f"{len(failed)} of {len(names)} entries could not be downloaded")
    return 1 if failed else 0


def matching(patterns: Iterable[str]) -> Iterator[str]:
    """The entries that the patterns name, each once; a pattern that names none stays, to fail."""
    yield from dict.fromkeys(name for each in patterns for name in zoo.names(each) or [each])


def fetch_all(
    names: Sequence[str], jobs: int, progress: Progress
) -> Iterator[tuple[str, Path | Exception]]:
    """Each entry's file, or what went wrong, in the order in which they end."""
    todo: queue.SimpleQueue[str] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[str, Path | Exception]] = queue.SimpleQueue()
    for name in names:
        todo.put(name)

    def work() -> None:
        while not todo.empty():
            try:
                name = todo.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((name, fetch_weights(zoo.card(name), progress)))
            except Exception as error:
                done.put((name, error))

    # Daemons, unlike the threads of a pool, let an interrupted command end at once; what they
    # have fetched by then is on the disk for the next call.
    for _ in range(min(jobs, len(names))):
        threading.Thread(target=work, daemon=True).start()
    for _ in names:
        yield done.get()


if __name__ == "__main__":
    sys.exit(main())
