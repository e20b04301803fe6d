"""Return files from the cache, or download them from the first source that serves them completely.

For files on the Hugging Face Hub, huggingface_hub does it: token, Xet, retries and offline mode.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from zoo import cache
from zoo.sources import (
    FileSource,
    SourceError,
    WeightsError,
    endpoint,
    expected,
    offline,
    with_mirrors,
)


def fetch(
    filename: str,
    sources: Sequence[FileSource],
    *,
    folder: Path | None = None,
    progress: bool | Progress | None = None,
    cached_only: bool = False,
) -> Path:
    """Return the path of a complete, verified file, downloaded if it is not in the cache yet.

    The user's mirrors (``FCOS_ZOO_MIRRORS``, ``zoo.toml``) are tried first, then the live sources
    in order. If several processes ask for the same file, one downloads it and the others wait. An
    interrupted download is resumed by the next call.

    Args:
        filename: the name in the cache and on mirrors.
        sources: where the file is published, the most trusted first.
        folder: where to keep it; by default `zoo.cache.folder`.
        progress: whether to show a progress bar (None: if stderr is a terminal), or the bars to add
            one to.
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
            copy = _copy_of_hub(source) if source.hub else None
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
            return _probe_hub(source)
        from zoo import https  # imports requests and NumPy, which commands start without

        return replace(source, size=https.content_length(source) or source.size)
    except SourceError as error:
        raise WeightsError(f"{source.shown}: {error}; try another source") from error


def progress_bars(shown: bool | None = None) -> Progress:
    """Make progress bars with size, speed and time left, for one file or several side by side."""
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
    # The hash that a source states itself takes precedence over those of other sources.
    wanted = [source] if source.digest else wanted
    if source.hub:
        _download_from_hub(source, part, update)
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
    """Copy a local file; a file of huggingface_hub's cache is linked where possible."""
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
            if not _is_blob(path):
                raise OSError
            os.link(path, part)  # its content never changes, as its name is its hash
        except OSError:
            shutil.copyfile(path, part)
    update(completed=size, total=size)


def _download_from_hub(source: FileSource, part: Path, update: Callable[..., None]) -> None:
    """Download into the cache's own folder, so that the disk holds the file only once."""
    from huggingface_hub import hf_hub_download

    repo, revision, file = _hub_address(source)
    folder = part.with_suffix(".hub")
    with hub_errors(), cache.disk_space(part, 0):
        path = hf_hub_download(
            repo,
            file,
            revision=revision,
            local_dir=folder,
            endpoint=endpoint(),
            tqdm_class=_hub_bar(update),
        )
        os.replace(path, part)
    shutil.rmtree(folder, ignore_errors=True)


def _copy_of_hub(source: FileSource) -> FileSource | None:
    """Return the file in huggingface_hub's own cache, if another program has downloaded it."""
    from huggingface_hub import try_to_load_from_cache

    repo, revision, file = _hub_address(source)
    path = try_to_load_from_cache(repo, file, revision=revision)
    if not isinstance(path, str):
        return None
    copy = Path(path).resolve()
    return FileSource(str(copy), sha256=source.digest or (copy.name if _is_blob(copy) else ""))


def _is_blob(path: Path) -> bool:
    """Whether `path` is a large file in huggingface_hub's cache, named by its SHA-256."""
    return re.fullmatch("blobs/[0-9a-f]{64}", "/".join(path.parts[-2:])) is not None


def _probe_hub(source: FileSource) -> FileSource:
    """Return the source with the file's newest commit, size and SHA-256, as the Hub states them."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    repo, revision, file = _hub_address(source)
    with hub_errors():
        facts = get_hf_file_metadata(hf_hub_url(repo, file, revision=revision, endpoint=endpoint()))
    hashed = re.fullmatch("[0-9a-f]{64}", facts.etag or "")
    unpinned = revision == "main" and facts.commit_hash
    return replace(
        source,
        url=f"hf://{repo}@{facts.commit_hash}/{file}" if unpinned else source.url,
        size=facts.size or source.size,
        sha256=facts.etag if hashed else source.sha256,
    )


def _hub_address(source: FileSource) -> tuple[str, str, str]:
    assert source.hub is not None
    return source.hub


@contextmanager
def hub_errors() -> Iterator[None]:
    """Turn errors of huggingface_hub into one line, and hide its warnings about retries."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    except WeightsError:
        raise
    except Exception as error:  # the HTTP library depends on huggingface_hub's version
        status = getattr(getattr(error, "response", None), "status_code", None)
        # Without a connection, it says that the file could not be located; the cause says why.
        cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else None
        lines = [line.strip() for line in str(cause or error).splitlines() if line.strip()]
        reason = " ".join(lines[:2]) or type(error).__name__
        if status and str(status) not in reason:
            reason = f"{status}: {reason}"
        raise SourceError(reason) from error
    finally:
        logger.setLevel(level)


def _hub_bar(update: Callable[..., None]) -> type:
    """Make a tqdm class that reports to our progress bar and shows nothing itself."""
    from huggingface_hub.utils.tqdm import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})
            self.received = options.get("initial") or 0
            update(total=options.get("total"))

        def update(self, n: float | None = 1) -> None:
            self.received += n or 0
            update(completed=self.received)

    return Bar


def _failure(path: Path, sources: Sequence[FileSource], failures: Sequence[str]) -> str:
    """Return an error message: a line for each source that was tried, and the remedy."""
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
