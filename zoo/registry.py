"""The zoo's entries: their names, facts and published weights, and folders of a user's entries.

An entry is a YAML file of the same name in ``configs/entry``. Its facts are in that file, and those
that all entries of a code base share are in a file of ``configs/system``. They are read without
importing torch, and without Hydra, which takes seconds to compose all entries.
"""

from __future__ import annotations

import copy
import difflib
import fnmatch
import os
import sys
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.progress import Progress

from zoo.cache import path_of, sha256
from zoo.download import fetch
from zoo.sources import PACKAGE, FileSource, WeightsError, load_yaml, mirrors, offline, sources_of

if TYPE_CHECKING:
    from zoo.published import Cell, Row, Table

CONFIGS = PACKAGE / "configs"

_registered: list[Path] = []


class UnknownEntryError(LookupError):
    """There is no entry of that name; the message suggests the most similar ones."""


class NoWeightsError(WeightsError, LookupError):
    """No host serves the entry's weights; the message names the most similar entry with weights.

    `reason` only states the cause, in a few words.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Card:
    """The facts of an entry.

    Attributes:
        name: the name of the entry.
        family: the code base that published it.
        repository: where that code base is published.
        source: the entry's config there.
        license: the license of the weights.
        permissive: whether the license is permissive.
        weights: where the published file can be downloaded, the most trusted first; dead sources
            are included as a record.
        backbone: the entry's choice among ``configs/backbone``, such as "resnet50"; "" if it
            defines its backbone itself.
    """

    name: str
    family: str = ""
    repository: str = ""
    source: str = ""
    license: str = "not stated"
    permissive: bool = False
    weights: tuple[FileSource, ...] = ()
    backbone: str = ""

    @property
    def config(self) -> dict[str, Any]:
        """The settings of the detector and of its training, as a copy that may be changed."""
        return copy.deepcopy(self._composed)

    @cached_property
    def _composed(self) -> dict[str, Any]:
        from zoo.config import compose_entry

        return compose_entry(self.name)

    @property
    def live(self) -> bool:
        """Whether a host is known to serve the weights."""
        return any(not source.dead for source in self.weights)

    @property
    def tables(self) -> list[tuple[Table, Row]]:
        """The entry's rows in the published tables."""
        from zoo import published

        return published.rows(self.name)

    @property
    def published(self) -> dict[str, Cell]:
        """The entry's published figures by key, see `zoo.published.figures`."""
        from zoo import published

        return published.figures(self.name)

    @property
    def filename(self) -> str | None:
        """The name of the published file in the cache and on mirrors, None where there never was
        one. Entries with the same file name share one file; that of a registered entry begins with
        a hash of its address, since others may be called `best.pth`, too."""
        if not self.weights:
            return None
        source = self.weights[0]
        filename = source.filename or f"{self.name}.pth"
        ours = [path.stem for path in (CONFIGS / "entry").glob("*.yaml")]
        if self.name in ours or any(source in card(name).weights for name in ours):
            return filename
        return f"{source.key}-{filename}"


def register(folder: str | Path) -> list[str]:
    """Add a folder of entries to the zoo; returns their names.

    Each ``NAME.yaml`` in the folder is an entry, as in ``configs/entry``. Subfolders are Hydra's
    groups: ``backbone/mine.yaml`` is what ``/backbone: mine`` chooses. The environment variable
    ``FCOS_ZOO_CONFIGS`` lists folders that are registered in every process.

    Raises:
        ValueError: the folder holds no entry, or one whose name is taken.
    """
    path = Path(folder).expanduser().resolve()
    entries = sorted(file.stem for file in path.glob("*.yaml"))
    if not entries:
        raise ValueError(f"{folder} holds no entry: give a folder of NAME.yaml files")
    others = _files(without=path)
    if taken := [name for name in entries if name in others]:
        raise ValueError(f"{folder}: the zoo already has {', '.join(taken)}: choose another name")
    if path not in folders():
        _registered.append(path)
    _card.cache_clear()  # files may have changed since they were registered before
    return entries


def names(
    pattern: str = "*",
    license: Literal["permissive", "non-commercial"] | None = None,
    weights: bool | None = None,
) -> list[str]:
    """Return the sorted names of the zoo's entries.

    Args:
        pattern: a name with shell wildcards.
        license: only entries whose weights have a permissive license ("permissive"), or only the
            others, whose authors reserve commercial use or state no license ("non-commercial").
        weights: only entries whose weights are served by a host (True), or by none (False).
    """
    if license not in (None, "permissive", "non-commercial"):
        raise ValueError(f"license {license!r} is neither 'permissive' nor 'non-commercial'")
    chosen = sorted(name for name in _files() if fnmatch.fnmatchcase(name, pattern))
    if license is not None:
        chosen = [name for name in chosen if card(name).permissive is (license == "permissive")]
    if weights is not None:
        chosen = [name for name in chosen if card(name).live == weights]
    return chosen


def card(name: str) -> Card:
    """Return the card of an entry.

    Raises:
        UnknownEntryError: there is no such entry; the message suggests the most similar names.
    """
    return _card(name, entry_file(name))


def entry_file(name: str) -> Path:
    """Return the YAML file of an entry; an UnknownEntryError suggests the most similar names."""
    files = _files()
    if name not in files:
        close = difflib.get_close_matches(str(name), files, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(close)}?" if close else "`fcos-zoo list` shows all"
        if "://" in str(name):
            hint = "give an address as the weights of an entry: weights=... or --weights"
        elif not close and Path(str(name)).is_file():
            hint = "a model's file ends in .pth, .pt, .safetensors, .onnx, .xml or .pt2"
        raise UnknownEntryError(f"no entry {name!r} in the zoo: {hint}")
    return files[name]


def entry_of_file(filename: str) -> str | None:
    """Return the entry whose weights have this file name; if several do, the one of that name."""
    entries = [name for name in names() if card(name).filename == filename]
    stem = filename.rpartition(".")[0]
    return stem if stem in entries else next(iter(entries), None)


def fetch_weights(entry: Card, progress: Progress | None = None, cached_only: bool = False) -> Path:
    """Return the entry's published file: a local one, or from the cache, which downloads it once.

    A license that is not permissive is printed to stderr when the file arrives.

    Args:
        entry: the card of the entry.
        progress: progress bars to add one to.
        cached_only: do not use the network, as with ``FCOS_ZOO_OFFLINE``.

    Raises:
        NoWeightsError: no host is known to serve the file.
        WeightsError: all sources failed this time; the message has a line for each.
    """
    if local := _local(entry):
        return local
    if entry.filename is None:
        reason = "no weights were ever published"
        raise NoWeightsError(f"{reason} for {entry.name}: {_alternative(entry)}", reason)
    cached = path_of(entry.filename).is_file()
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


def folders() -> list[Path]:
    """Return the registered folders of entries."""
    listed = os.environ.get("FCOS_ZOO_CONFIGS", "").split(os.pathsep)
    return [*_registered, *(Path(each).expanduser().resolve() for each in listed if each)]


def _files(without: Path | None = None) -> dict[str, Path]:
    """Return the file of each entry; a registered folder cannot replace an entry of the zoo."""
    registered = [folder for folder in reversed(folders()) if folder != without]
    return {
        path.stem: path
        for folder in (*registered, CONFIGS / "entry")
        for path in folder.glob("*.yaml")
    }


@cache
def _card(name: str, path: Path) -> Card:
    content = load_yaml(path)
    chosen = {
        key.removeprefix("/"): value
        for default in content.get("defaults", [])
        if isinstance(default, dict)
        for key, value in default.items()
    }
    if path.parent == CONFIGS / "entry":
        facts = {**load_yaml(CONFIGS / "system" / f"{chosen['system']}.yaml"), **content}
    else:  # it may be based on anything, even on another entry
        from zoo.config import compose_entry

        facts = compose_entry(name)
    shared = ("family", "repository", "source", "license", "permissive")
    return Card(
        name,
        weights=sources_of(facts.get("weights") or (), path),
        backbone=str(chosen.get("backbone", "")),
        **{key: facts[key] for key in shared if key in facts},
    )


def _local(entry: Card) -> Path | None:
    """Return an entry's weights if they are installed with this package or another local file."""
    for source in entry.weights:
        path = Path(source.url).expanduser()
        usable = not (source.dead or source.remote) and path.is_file()
        if usable and sha256(path).startswith(source.digest or ""):
            return path
    return None


def _alternative(entry: Card) -> str:
    """Return advice for an entry without weights, which names the most similar one with weights."""

    def similarity(name: str) -> tuple[bool, float]:
        ratio = difflib.SequenceMatcher(None, entry.name, name).ratio()
        return card(name).backbone == entry.backbone, ratio

    nearest = max((name for name in names(weights=True) if name != entry.name), key=similarity)
    return (
        f"the nearest entry with weights is {nearest}; "
        f"`fcos-zoo train {entry.name}` trains this one"
    )
