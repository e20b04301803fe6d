"""Files from the cache, or from the first source that serves them completely."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from difflib import SequenceMatcher
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from zoo import cache, hub
from zoo.registry import Card, card, names
from zoo.sources import (
    FileSource,
    SourceError,
    WeightsError,
    expected,
    mirrors,
    offline,
    with_mirrors,
)


class NoWeightsError(WeightsError, LookupError):
    """No host serves the entry's weights; the message names the nearest entry with weights.

    `reason` says only why, in a few words.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


def fetch_weights(entry: Card, progress: Progress | None = None, cached_only: bool = False) -> Path:
    """The entry's published file in the cache, downloaded and verified if it is not there yet.

    A license that is not permissive is printed to stderr when the file arrives.

    Args:
        entry: its card.
        progress: progress bars to which to add one.
        cached_only: do not use the network, as with ``FCOS_ZOO_OFFLINE``.

    Raises:
        NoWeightsError: no host is known to serve the file.
        WeightsError: no source served it this time; the message has a line for each.
    """
    if entry.filename is None:
        reason = "no weights were ever published"
        raise NoWeightsError(f"{reason} for {entry.name}: {_alternative(entry)}", reason)
    cached = cache.path_of(entry.filename).is_file()
    if not (cached or mirrors() or entry.live):
        reason = next((source.note for source in entry.weights if source.note), "dead link")
        gone = f"any more ({reason})"
        raise NoWeightsError(
            f"no host serves the weights of {entry.name} {gone}: {_alternative(entry)}",
            f"no host serves the weights {gone}",
        )
    try:
        path = fetch(entry.filename, entry.weights, progress=progress, cached_only=cached_only)
    except WeightsError as error:
        if entry.live and (cached_only or offline()):
            raise
        message = f"{error}\nAlternatively, {_alternative(entry)}."
        if entry.live:
            raise WeightsError(message) from None
        raise NoWeightsError(message, "no mirror has the weights") from None
    if not (cached or entry.permissive) and os.environ.get("RANK", "0") == "0":
        print(f"{entry.name}: license of these weights: {entry.license}", file=sys.stderr)
    return path


def fetch(
    filename: str,
    sources: Sequence[FileSource],
    *,
    folder: Path | None = None,
    progress: bool | Progress | None = None,
    cached_only: bool = False,
) -> Path:
    """The path of a complete, verified file, downloaded if it is not in the cache yet.

    The user's mirrors (``FCOS_ZOO_MIRRORS``, ``zoo.toml``) are tried first, then the live sources
    in order. Any number of processes may ask for one file at a time: one downloads it, the others
    wait. An interrupted download is resumed by the next call.

    Args:
        filename: the name in the cache and on mirrors.
        sources: where the file is published, the most trusted first.
        folder: where to keep it; by default `zoo.cache.folder`.
        progress: whether to show a progress bar (None: if stderr is a terminal), or the bars to
            which to add one.
        cached_only: do not use the network, as with ``FCOS_ZOO_OFFLINE``.

    Raises:
        WeightsError: no source served it; the message has a line for each.
    """
    path = cache.path_of(filename, folder)
    wanted = expected(filename, sources)
    if cache.is_valid(path, wanted):
        return path
    with ExitStack() as stack:
        if not isinstance(progress, Progress):
            progress = stack.enter_context(progress_bars(progress))
        update = partial(progress.update, progress.add_task(filename, total=None))
        waiting = partial(update, description=f"{filename}: another process is downloading it")
        stack.enter_context(cache.locked(path, waiting))
        if cache.is_valid(path, wanted):  # another process was faster
            return path
        failures = []
        if path.is_file():
            failures.append(f"{path}: is not the expected file; {cache.quarantine(path)}")
        for source in with_mirrors(filename, sources):
            copy = hub.cached_copy(source) if source.hub else None
            for each in filter(None, (copy, source)):
                if each.remote and (cached_only or offline()):
                    continue
                try:
                    return _fetch_from(each, path, wanted, update)
                except SourceError as error:
                    failures.append(f"{each.shown}: {error}")
    raise WeightsError(_failure(path, sources, failures))


def probe(source: FileSource) -> FileSource:
    """Ask a host for a file's size and, on the Hub, its SHA-256 and commit, without downloading it.

    Returns:
        The source with what the host states filled in.

    Raises:
        WeightsError: the host does not serve the file, or the network must not be used.
    """
    if offline():
        raise WeightsError(f"{source.shown} was not asked: unset FCOS_ZOO_OFFLINE to do so")
    try:
        if source.hub:
            return hub.probe(source)
        from zoo import https  # imports requests and NumPy, which commands start without

        return replace(source, size=https.content_length(source) or source.size)
    except SourceError as error:
        raise WeightsError(f"{source.shown}: {error}; try another source") from error


def progress_bars(shown: bool | None = None) -> Progress:
    """Progress bars with size, speed and time left, for one file or for several side by side."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not (sys.stderr.isatty() if shown is None else shown),
    )


def _fetch_from(
    source: FileSource, path: Path, wanted: Sequence[FileSource], update: Callable[..., None]
) -> Path:
    """Download from one source, verify, and put the file in its place."""
    from zoo import https

    part = cache.sidecar(path, ".part")
    # The hash that a source states of its own file counts before those of the others.
    wanted = [source] if source.digest else wanted
    if source.hub:
        hub.download(source, part, update)
    elif source.remote:
        https.Download(source, part, wanted, update).run()
    else:
        _copy(source, part, update)
    digest = cache.sha256(part)
    if not cache.matches(part, digest, wanted):
        bad = cache.sidecar(path, ".bad")
        os.replace(part, bad)
        https.discard(part)
        raise SourceError(f"sha256 {digest} is not that of the expected file; moved to {bad}")
    cache.commit(part, path, digest)
    https.discard(part)
    return path


def _copy(source: FileSource, part: Path, update: Callable[..., None]) -> None:
    """Copy a local file; one of huggingface_hub's cache is linked where possible."""
    from zoo import https
    from zoo.files import HEAD

    path = Path(source.url).expanduser()
    try:
        with path.open("rb") as file:
            https.check_head(file.read(HEAD))
        size = path.stat().st_size
    except OSError as error:
        raise SourceError(error.strerror or str(error)) from error
    https.discard(part)
    with cache.disk_space(part, size):
        try:
            if not hub.is_blob(path):
                raise OSError
            os.link(path, part)  # its content never changes: it is named by its hash
        except OSError:
            shutil.copyfile(path, part)
    update(completed=size, total=size)


def _failure(path: Path, sources: Sequence[FileSource], failures: Sequence[str]) -> str:
    """The message of an error: a line for each source that was tried, and the remedy."""
    colon = ":" if failures else ""
    lines = [
        f"{path.name} is not in the cache, and FCOS_ZOO_OFFLINE forbids downloading it{colon}"
        if offline()
        else f"{path.name} could not be downloaded:",
        *failures,
    ]
    if all(source.dead for source in sources):
        lines += [
            f"{source.shown}: dead, not tried{source.note and f' ({source.note})'}"
            for source in sources
        ] or ["no source of it is known"]
    kept = cache.size_on_disk(cache.sidecar(path, ".part"))
    if kept and not offline():
        lines.append(f"{kept} bytes are kept: the next call resumes the download")
    unset = "unset FCOS_ZOO_OFFLINE, " if offline() else ""
    remedy = f"{unset}put the file at {path}, or set FCOS_ZOO_MIRRORS to a host that serves it"
    return "\n  ".join(lines) + f"\n{remedy[0].upper()}{remedy[1:]}."


def _alternative(entry: Card) -> str:
    """Advice where an entry has no weights, which names the most similar entry that has."""

    def similarity(name: str) -> tuple[bool, float]:
        ratio = SequenceMatcher(None, entry.name, name).ratio()
        return card(name).backbone == entry.backbone, ratio

    nearest = max((name for name in names(weights=True) if name != entry.name), key=similarity)
    return (
        f"the nearest entry with weights is {nearest}; "
        f"`fcos-zoo train {entry.name}` trains this one"
    )
