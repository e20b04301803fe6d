"""A weights file by name: from the cache, or else from the first place that serves it whole."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from filelock import Timeout
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from zoo.weights import hub
from zoo.weights.cache import beside, commit, held_bytes, lock, place, sha256, whole
from zoo.weights.errors import WeightsError
from zoo.weights.host import RefusedError, Retry
from zoo.weights.location import Location, offline, promises, sources
from zoo.weights.transfer import Transfer, Version, forget


def fetch(
    filename: str,
    locations: Sequence[Location],
    *,
    cache: Path | None = None,
    progress: bool | Progress | None = None,
    retry: Retry | None = None,
) -> Path:
    """The path of a whole, verified weights file, fetched if it is not in the cache yet.

    The user's mirrors (``FCOS_ZOO_MIRRORS``, ``zoo.toml``) are tried first, then the live locations
    in order. Any number of processes may ask for the same file at once: one fetches, the others
    wait. An interrupted transfer goes on where it stopped.

    Args:
        filename: the name in the cache and on mirrors.
        locations: where it is published, in order of trust.
        cache: the folder to keep it in; see :func:`zoo.weights.cache.folder`.
        progress: whether to show a bar (None: if stderr is a terminal), or the bars to add one to.
        retry: how patient to be.

    Raises:
        WeightsError: no place served it; the message has a line for each attempt.
    """
    path = place(filename, cache)
    part = beside(path, ".part")
    promised = promises(filename, locations)
    if whole(path, promised):
        return path
    attempts: list[str] = []
    with ExitStack() as stack:
        if not isinstance(progress, Progress):
            progress = stack.enter_context(progress_bars(progress))
        update = partial(progress.update, progress.add_task(filename, total=None))
        busy = partial(update, description=f"{filename}: another process is fetching it")
        stack.enter_context(_locked(path, waiting=busy))
        if whole(path, promised):  # another process was faster
            return path
        if path.is_file():
            attempts.append(f"{path}: {_set_aside(path, beside(path, '.bad'), sha256(path))}")
        for source in _with_copies(sources(filename, locations)):
            if source.remote and offline():
                continue
            try:
                digest = _bring(source, part, promised, retry or Retry(), attempts, update)
                commit(part, path, digest)
                forget(part)
                return path
            except RefusedError as error:
                attempts.append(f"{source.shown}: {error}")
    raise WeightsError(_failure(path, locations, attempts))


def progress_bars(shown: bool | None = None) -> Progress:
    """Bars with size, speed and time left, for one fetch or for several side by side."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not (sys.stderr.isatty() if shown is None else shown),
    )


def _with_copies(locations: Iterable[Location]) -> Iterator[Location]:
    """The locations, one on the Hub after the copy of it that the Hub's client has cached."""
    for location in locations:
        if copy := hub.cached(location):
            yield Location(str(copy), sha256="")
        yield location


def _bring(
    source: Location,
    part: Path,
    promised: Sequence[Location],
    retry: Retry,
    attempts: list[str],
    update: Callable[..., None],
) -> str:
    """Fills the part from one source and returns its SHA-256, verified."""
    promised = [source] if source.digest else promised
    while True:
        transfer = Transfer(source, part, promised, retry, attempts, update)
        transfer.run()
        size, digest = part.stat().st_size, sha256(part)
        if transfer.linked.fits(size, digest) and any(each.fits(size, digest) for each in promised):
            return digest
        if not transfer.resumed:
            refusal = _set_aside(part, part.with_suffix(".bad"), digest)
            forget(part)
            raise RefusedError(refusal)
        forget(part)
        attempts.append(f"{source.shown}: the resumed bytes do not fit the earlier: starting over")


def _set_aside(path: Path, aside: Path, digest: str) -> str:
    os.replace(path, aside)
    return f"sha256 {digest} is not that of the file wanted; kept aside as {aside}"


@contextmanager
def _locked(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Holds the file's lock, so that of many processes one fetches and the others wait."""
    held = lock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            held.acquire(timeout=0.5)
        except Timeout:
            waiting()
            held.acquire()
    except OSError as error:
        raise WeightsError(
            f"{path.parent} cannot be written ({error.strerror}): set FCOS_ZOO_HOME to one that can"
        ) from error
    try:
        yield
    finally:
        held.release()


def _failure(path: Path, locations: Sequence[Location], attempts: Sequence[str]) -> str:
    """All that was tried, a line each, and what to do about it."""
    colon = ":" if attempts else ""
    lines = [
        f"{path.name} is not in the cache, and FCOS_ZOO_OFFLINE forbids fetching it{colon}"
        if offline()
        else f"{path.name} could not be fetched:",
        *attempts,
    ]
    if all(location.dead or location.archived for location in locations):
        dead = [
            f"{each.shown}: dead, not tried{each.note and f' ({each.note})'}" for each in locations
        ]
        lines += dead or ["no location of it is known"]
    part, promised = beside(path, ".part"), promises(path.name, locations)
    version = Version.of(part)
    if version and any(version.continues(each.shown, promised) for each in locations):
        lines.append(
            f"{held_bytes(part)} bytes are kept in {part}: another call goes on from there"
        )
    offline_too = "unset FCOS_ZOO_OFFLINE, " if offline() else ""
    remedy = f"{offline_too}put the file at {path}, or set FCOS_ZOO_MIRRORS to who serves it"
    return "\n  ".join(lines) + f"\n{remedy[0].upper()}{remedy[1:]}."
