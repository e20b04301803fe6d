"""The facts of an entry, composed from `configs/` by Hydra."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

import yaml

from zoo import published
from zoo.compose import CONFIGS, composed
from zoo.renamed import rename_overrides, rename_settings
from zoo.sources import FileSource

_FACTS = ("family", "repository", "source", "licence", "permissive")
_SUFFIXES = (".pth", ".pt", ".pkl", ".safetensors")  # of weights, unlike a share's opaque link


class UnknownEntryError(LookupError):
    """No entry of that name; the message suggests the nearest."""


@dataclass(frozen=True)
class Card:
    """What is known of an entry.

    `family`: the system that published it; `repository` and `source`: where, and its config there;
    `licence` of the weights and whether it is `permissive`; `weights`: where the published file can
    be had, in order of trust: as its file states them, dead sources included as a record.
    """

    name: str
    family: str
    repository: str
    source: str
    licence: str
    permissive: bool
    weights: tuple[FileSource, ...]

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """Everything that composes the detector and its training; composed when first asked for."""
        return compose_entry(self.name)

    @property
    def live(self) -> bool:
        """Whether somebody is known to serve the weights."""
        return any(not source.dead for source in self.weights)

    @property
    def tables(self) -> list[tuple[published.Table, published.Row]]:
        """Its rows in the published tables."""
        return published.rows(self.name)

    @property
    def published(self) -> dict[str, published.Cell]:
        """Its published figures by key (`ap`, `time_ms`, ...), each from its newest page; AP and AR
        in per cent, whatever the page prints them in."""
        figures: dict[str, published.Cell] = {}
        newest_first = sorted(self.tables, key=lambda pair: pair[0].source.date or "", reverse=True)
        for table, row in newest_first:
            for column in table.columns:
                if column.key != "printed" and row[column.key] is not None:
                    figures.setdefault(column.key, _per_cent(row[column.key], column.unit))
        return figures

    @property
    def filename(self) -> str | None:
        """What the published weights file is called in the cache and on mirrors, None where there
        never was one; entries of one name are of one file."""
        return _filename(self.name, self.weights[0]) if self.weights else None


def names(
    pattern: str = "*",
    license: Literal["permissive", "non-commercial"] | None = None,
    weights: bool | None = None,
) -> list[str]:
    """Names of the zoo's entries, sorted.

    Args:
        pattern: shell wildcards.
        license: only entries whose weights' licence is "permissive", or only the others, whose
            commercial use their authors reserve or do not speak of ("non-commercial").
        weights: only entries whose weights somebody serves (True), or nobody (False).
    """
    if license not in (None, "permissive", "non-commercial"):
        raise ValueError(f"license {license!r} is neither 'permissive' nor 'non-commercial'")
    found = sorted(path.stem for path in (CONFIGS / "entry").glob("*.yaml"))
    found = [name for name in found if fnmatch.fnmatchcase(name, pattern)]
    if license is not None:
        permissive = license == "permissive"
        found = [name for name in found if stated(name, "permissive") is permissive]
    if weights is not None:
        found = [name for name in found if _served(name) is weights]
    return found


def card(name: str) -> Card:
    """The card of an entry.

    Raises:
        UnknownEntryError: with the nearest names.
    """
    if name not in names():
        close = difflib.get_close_matches(name, names(), n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(close)}?" if close else "see zoo.names()"
        raise UnknownEntryError(f"no entry {name!r} in the zoo: {hint}")
    return _card(name)


@cache
def _card(name: str) -> Card:
    facts = {key: stated(name, key) for key in _FACTS}
    weights = [_location(place) for place in stated(name, "weights") or ()]
    return Card(name=name, weights=tuple(weights), **facts)


def compose_entry(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The entry's whole configuration as plain containers, with Hydra `overrides` applied.

    Settings may have the names of earlier versions, see `zoo.renamed`.
    """
    return rename_settings(composed(f"entry/{name}", rename_overrides(overrides)))


def stated(name: str, key: str) -> Any:
    """A top-level value of an entry's configuration, None where nothing states it.

    Read from the files alone: composing all the zoo's cards takes seconds.
    """
    return _stated(CONFIGS / "entry" / f"{name}.yaml", key)


def owner(filename: str) -> str | None:
    """The entry whose weights file is called so; of several the one that has its name."""
    found = [
        name
        for name in names()
        if (places := stated(name, "weights")) and _filename(name, _location(places[0])) == filename
    ]
    stem = filename.rpartition(".")[0]
    return stem if stem in found else next(iter(found), None)


def backbone_of(name: str) -> str:
    """The entry's choice among `configs/backbone`, such as "resnet50"."""
    chosen = [each for each in stated(name, "defaults") if isinstance(each, dict)]
    return next(str(each["/backbone"]) for each in chosen if "/backbone" in each)


def _stated(path: Path, key: str) -> Any:
    content = _yaml(path)
    if key in content:
        return content[key]
    for default in reversed(content.get("defaults", [])):  # the last one has the last word
        if isinstance(default, dict):
            (group, choice), *_ = default.items()
            below = CONFIGS / group.removeprefix("override ").lstrip("/") / f"{choice}.yaml"
        elif default == "_self_":
            continue
        else:
            below = path.with_name(f"{default}.yaml")
        if (value := _stated(below, key)) is not None:
            return value
    return None


@cache
def _yaml(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def _filename(name: str, place: FileSource) -> str:
    return _published(place.url) or f"{name}.pth"


def _published(url: str) -> str | None:
    """The name of the file that an address states, None where it names none."""
    name = url.split("?")[0].rsplit("/", 1)[-1]
    return name if name.endswith(_SUFFIXES) else None


def _per_cent(cell: published.Cell, unit: str) -> published.Cell:
    """A fraction, or a curve of them, in per cent; anything else as it is."""
    if unit != "0..1":
        return cell
    if isinstance(cell, list):
        return [round(100 * value, 2) for value in cell]
    return round(100 * cell, 2) if isinstance(cell, float | int) else cell


def _served(name: str) -> bool:
    return any(not _location(place).dead for place in stated(name, "weights") or ())


def _location(place: str | dict[str, Any]) -> FileSource:
    """A place as the entry's file states it; `package:PATH` lies beside the installed packages."""
    facts = {"url": place} if isinstance(place, str) else dict(place)
    if facts["url"].startswith("package:"):
        facts["url"] = str(CONFIGS.parent / facts["url"].removeprefix("package:"))
    return FileSource(**facts)
