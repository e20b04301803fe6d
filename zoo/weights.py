"""The published weights file of an entry: fetched, or what to use instead."""

from __future__ import annotations

import os
import sys
from difflib import SequenceMatcher
from pathlib import Path

from rich.progress import Progress

from zoo import cache
from zoo.download import fetch
from zoo.registry import Card, card, names
from zoo.sources import WeightsError, mirrors, offline


class NoWeightsError(WeightsError, LookupError):
    """No host serves the entry's weights; the message names the nearest entry with weights.

    `reason` says only why, in a few words.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


def fetch_weights(entry: Card, progress: Progress | None = None) -> Path:
    """The entry's published file in the cache, downloaded and verified if it is not there yet.

    A license that is not permissive is printed to stderr when the file arrives.

    Args:
        entry: its card.
        progress: progress bars to which to add one.

    Raises:
        NoWeightsError: no host is known to serve the file.
        WeightsError: no source served it this time; the message has a line for each.
    """
    if entry.filename is None:
        reason = "no weights were ever published"
        raise NoWeightsError(f"{reason} for {entry.name}: {_alternative(entry)}", reason)
    path = cache.path_of(entry.filename)
    cached = path.is_file()
    if not (cached or mirrors() or entry.live):
        reason = next((source.note for source in entry.weights if source.note), "dead link")
        gone = f"any more ({reason})"
        raise NoWeightsError(
            f"no host serves the weights of {entry.name} {gone}: {_alternative(entry)}",
            f"no host serves the weights {gone}",
        )
    try:
        path = fetch(entry.filename, entry.weights, progress=progress)
    except WeightsError as error:
        if entry.live and offline():
            raise
        message = f"{error}\nAlternatively, {_alternative(entry)}."
        if entry.live:
            raise WeightsError(message) from None
        raise NoWeightsError(message, "no mirror has the weights") from None
    if not (cached or entry.permissive) and os.environ.get("RANK", "0") == "0":
        print(f"{entry.name}: license of these weights: {entry.license}", file=sys.stderr)
    return path


def nearest(name: str) -> str:
    """The most similar entry with weights: of the same backbone if there is one, then by name."""
    backbone = card(name).backbone

    def similarity(other: str) -> tuple[bool, float]:
        same_backbone = card(other).backbone == backbone
        return same_backbone, SequenceMatcher(None, name, other).ratio()

    return max((other for other in names(weights=True) if other != name), key=similarity)


def _alternative(entry: Card) -> str:
    return (
        f"the nearest entry with weights is {nearest(entry.name)}; "
        f"`fcos-zoo train {entry.name}` trains this one"
    )
