"""What the Hugging Face Hub's own client adds where it is installed: token, cache, Xet transfer.

Files that the Hub sends over plain HTTPS are not left to the client, which drops what it has of a
file when it is interrupted: :mod:`zoo.weights.transfer` goes on, and bounds what a host may do.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests

from zoo.weights.location import Location, endpoint


def token() -> str | None:
    """The user's token, as the client finds it; without the client, ``HF_TOKEN``."""
    try:
        from huggingface_hub import get_token
    except ImportError:
        return os.environ.get("HF_TOKEN")
    return get_token()


def cached(location: Location) -> Path | None:
    """Where the client's own cache (``HF_HOME``) has the file, None where it has not."""
    if location.hub is None or importlib.util.find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    repo, revision, file = location.hub
    path = try_to_load_from_cache(repo, file, revision=revision)
    return Path(path).resolve() if isinstance(path, str) else None


def blob_hash(path: Path) -> str | None:
    """The SHA-256 by which the client's cache names a large file, None for any other path."""
    return path.name if re.fullmatch("blobs/[0-9a-f]{64}", "/".join(path.parts[-2:])) else None


def commit_on_xet(response: requests.Response) -> str | None:
    """The commit of a file that the Hub offers by Xet, None where it, or the client, does not."""
    headers: dict[str, str] = {}
    for each in (response, *reversed(response.history)):  # the Hub's own answer, not its CDN's
        headers |= each.headers
    if "X-Xet-Hash" not in headers or importlib.util.find_spec("hf_xet") is None:
        return None
    from huggingface_hub import constants

    return None if constants.HF_HUB_DISABLE_XET else headers.get("X-Repo-Commit")


def download(location: Location, commit: str, part: Path, update: Callable[..., None]) -> None:
    """Fill a part by the client, beside it and not in the client's cache: on the disk once.

    Args:
        location: a file on the Hub.
        commit: of which revision.
        part: where to.
        update: is told the bytes ``completed``.

    Raises:
        Exception: any that the client lets pass.
    """
    from huggingface_hub import hf_hub_download

    assert location.hub is not None
    repo, _, file = location.hub
    folder = part.with_suffix(".hub")
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
    try:
        path = hf_hub_download(
            repo,
            file,
            revision=commit,
            local_dir=folder,
            endpoint=endpoint(),
            tqdm_class=_bar(update),
        )
        os.replace(path, part)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _bar(update: Callable[..., None]) -> type:
    """The client's progress bar, which shows nothing itself."""
    from huggingface_hub.utils.tqdm import tqdm

    furthest = 0

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})
            self.limit, self.bytes = options.get("total"), 0

        def update(self, n: float | None = 1) -> None:
            nonlocal furthest  # of two bars, of bytes sent (with their wrapping) and bytes written
            self.bytes += int(n or 0)
            furthest = max(furthest, min(self.bytes, self.limit or self.bytes))
            update(completed=furthest)

    return Bar
