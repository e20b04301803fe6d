"""Whether an entry's weights can be had: fetch them, or say what to take instead."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from difflib import SequenceMatcher
from pathlib import Path
from urllib.parse import unquote

from rich.progress import Progress

from zoo import cache
from zoo.card import Card, backbone_of, names
from zoo.download import fetch
from zoo.sources import FileSource, WeightsError, mirrors, offline


class NoWeightsError(WeightsError, LookupError):
    """Nobody serves the entry's weights; the message names the nearest entry that has some.

    `why` is the reason alone, in a few words.
    """

    def __init__(self, message: str, why: str = "") -> None:
        super().__init__(message)
        self.why = why


def fetch_weights(entry: Card, progress: Progress | None = None) -> Path:
    """The entry's published checkpoint in the cache, downloaded and verified if need be.

    A licence that is not permissive is told in a line on stderr when the file arrives.

    Args:
        entry: whose.
        progress: bars to add one to.

    Raises:
        NoWeightsError: nobody serves them.
        WeightsError: no place served them this time; a line for each attempt.
    """
    if entry.filename is None:
        why = "no weights were ever published"
        raise NoWeightsError(f"{why} for {entry.name}: {_instead(entry)}", why)
    path = cache.path_of(entry.filename)
    held = path.is_file()
    if not (held or mirrors() or any(not place.dead for place in entry.weights)):
        why = next((place.note for place in entry.weights if place.note), "dead link")
        raise NoWeightsError(
            f"nobody serves the weights of {entry.name} any more ({why}): {_instead(entry)}",
            f"nobody serves the weights any more ({why})",
        )
    try:
        path = fetch(entry.filename, entry.weights, progress=progress)
    except WeightsError as error:
        if entry.live and offline():
            raise
        message = f"{error}\nOr else: {_instead(entry)}."
        if entry.live:
            raise WeightsError(message) from None
        raise NoWeightsError(message, "no mirror has the weights") from None
    if not (held or entry.permissive) and os.environ.get("RANK", "0") == "0":
        print(f"{entry.name}: licence of these weights: {entry.licence}", file=sys.stderr)
    return path


def fetch_address(url: str) -> Path:
    """A user's own file in the cache, kept there under its name and a hash of its whole address.

    Args:
        url: `hf://owner/repo[@revision]/file` or `http(s)://...`.

    Raises:
        WeightsError: it could not be fetched; a line for each attempt.
    """
    name = re.split("[?#]", url.partition("://")[2])[0].rpartition("/")[2]
    stem, suffix = os.path.splitext(re.sub(r"[^\w.-]+", "-", unquote(name), flags=re.ASCII))
    of_address = hashlib.sha256(url.encode()).hexdigest()[:12]
    # The digits that end this name are no hash of the file, though those of its own may be.
    place = FileSource(url, sha256=FileSource(url).digest or "")
    stem = stem.lstrip(".")[:100] or "weights"
    return fetch(f"{stem}-{of_address}{suffix[:20]}", [place])


def nearest(name: str) -> str:
    """The entry with weights most like this one: of the same backbone if any, then by name."""
    backbone = backbone_of(name)

    def likeness(other: str) -> tuple[bool, float]:
        return backbone_of(other) == backbone, SequenceMatcher(None, name, other).ratio()

    return max((other for other in names(weights=True) if other != name), key=likeness)


def _instead(entry: Card) -> str:
    return (
        f"the nearest entry with weights is {nearest(entry.name)}; "
        f"`fcos-zoo train {entry.name}` trains this one"
    )
