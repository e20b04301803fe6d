"""Files on the Hugging Face Hub, left to huggingface_hub: its token, Xet, retries, offline mode."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo import cache
from zoo.sources import FileSource, SourceError, WeightsError, endpoint


def download(source: FileSource, part: Path, update: Callable[..., None]) -> None:
    """Download into the cache's own folder, so that the file is on the disk once."""
    from huggingface_hub import hf_hub_download

    repo, revision, file = _address(source)
    folder = part.with_suffix(".hub")
    with _one_line(), cache.disk_space(part, 0):
        path = hf_hub_download(
            repo,
            file,
            revision=revision,
            local_dir=folder,
            endpoint=endpoint(),
            tqdm_class=_bar(update),
        )
        os.replace(path, part)
    shutil.rmtree(folder, ignore_errors=True)


def cached_copy(source: FileSource) -> FileSource | None:
    """The file in huggingface_hub's own cache, if another program has downloaded it."""
    from huggingface_hub import try_to_load_from_cache

    repo, revision, file = _address(source)
    path = try_to_load_from_cache(repo, file, revision=revision)
    if not isinstance(path, str):
        return None
    copy = Path(path).resolve()
    return FileSource(str(copy), sha256=source.digest or (copy.name if is_blob(copy) else ""))


def is_blob(path: Path) -> bool:
    """Whether this is a large file in huggingface_hub's cache, named by its SHA-256."""
    return re.fullmatch("blobs/[0-9a-f]{64}", "/".join(path.parts[-2:])) is not None


def probe(source: FileSource) -> FileSource:
    """The source with what the Hub states of its file: the newest commit, size and SHA-256."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    repo, revision, file = _address(source)
    with _one_line():
        facts = get_hf_file_metadata(hf_hub_url(repo, file, revision=revision, endpoint=endpoint()))
    hashed = re.fullmatch("[0-9a-f]{64}", facts.etag or "")
    unpinned = revision == "main" and facts.commit_hash
    return replace(
        source,
        url=f"hf://{repo}@{facts.commit_hash}/{file}" if unpinned else source.url,
        size=facts.size or source.size,
        sha256=facts.etag if hashed else source.sha256,
    )


def _address(source: FileSource) -> tuple[str, str, str]:
    assert source.hub is not None
    return source.hub


@contextmanager
def _one_line() -> Iterator[None]:
    """Turn what huggingface_hub raises into one line."""
    try:
        yield
    except WeightsError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = " ".join(lines[:2]) or type(error).__name__
        if status and str(status) not in reason:
            reason = f"{status}: {reason}"
        raise SourceError(reason) from error


def _bar(update: Callable[..., None]) -> type:
    """A tqdm class that reports to our progress bar and shows nothing itself."""
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
