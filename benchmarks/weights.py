"""The weights that an entry is measured with: published ones, a user's file, or random ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import zoo
from benchmarks.cases import Weights
from fcos import Detector
from zoo.cache import recorded, sha256
from zoo.download import fetch_weights
from zoo.exported import SUFFIXES


def resolve(
    entry: str,
    files: Mapping[str, Path] | None = None,
    folder: Path | None = None,
    cached_only: bool = False,
) -> Weights:
    """The weights of a zoo entry: from `files`, from `folder`, or as published.

    Args:
        entry: its name.
        files: checkpoints by entry.
        folder: contains files with their published names, or `<entry>.pth`.
        cached_only: use published weights only if they are in the cache.

    Returns:
        Weights of source "published" or "file", or of source "random" with the reason as `note`.
    """
    if kind(entry) != "entry":
        return _file(Path(entry))
    card = zoo.card(entry)
    if files and entry in files:
        return _file(files[entry])
    if folder is not None:
        for name in (card.filename, f"{entry}.pth"):
            if name and (folder / name).is_file():
                return _file(folder / name)
    try:
        path = fetch_weights(card, cached_only=cached_only)
    except zoo.NoWeightsError as error:
        return Weights(note=error.reason)
    except zoo.WeightsError as error:
        return Weights(note=_why(str(error), cached_only))
    return Weights("published", str(path), (recorded(path) or sha256(path))[:12])


def kind(entry: str) -> Literal["entry", "trained", "exported", "baseline"]:
    """What the entry of a case is: one of the zoo, a file that training or `fcos-zoo export`
    wrote, or a baseline."""
    suffix = Path(entry).suffix
    if suffix in (".pth", ".pt", ".safetensors"):
        return "trained"
    if suffix in SUFFIXES:
        return "exported"
    return "baseline" if ":" in entry else "entry"


def architecture(entry: str) -> Detector:
    """The detector of a case in eval mode, whatever its weights."""
    return zoo.get(entry) if kind(entry) == "trained" else zoo.build(entry).eval()


def _file(path: Path) -> Weights:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weights file")
    digest = sha256(path)[:12]
    if path.suffix == ".xml":  # of OpenVINO, whose weights lie beside it
        digest = digest[:6] + sha256(path.with_suffix(".bin"))[:6]
    return Weights("file", str(path.resolve()), digest)


def _why(message: str, cached_only: bool) -> str:
    """The reason in one line: the error lists every attempt, beginning with the best source."""
    if cached_only:
        return "published weights not in the cache (`fcos-zoo download` fetches them)"
    lines = [line.strip() for line in message.splitlines()]
    return f"published weights unreachable ({lines[1]})" if len(lines) > 1 else lines[0]
