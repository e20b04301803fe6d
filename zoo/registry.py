"""The zoo's entries: their names and facts, and folders of the user's entries.

An entry is a YAML file of its name in ``configs/entry``. Its facts are in that file, and those that
all entries of a code base share in a file of ``configs/system``. They are read without torch, and
without Hydra, which takes seconds to compose all entries.
"""

from __future__ import annotations

import difflib
import fnmatch
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

import yaml

from zoo import published
from zoo.sources import FileSource

# Relative to this file and not a package, so that a user's own `configs` cannot take its place.
CONFIGS = Path(__file__).resolve().parent.parent / "configs"

_SUFFIXES = (".pth", ".pt", ".pkl", ".safetensors")  # unlike the opaque link of a shared file
_registered: list[Path] = []


class UnknownEntryError(LookupError):
    """No entry of that name; the message suggests the nearest."""


@dataclass(frozen=True)
class Card:
    """The facts of an entry.

    Attributes:
        name: of the entry.
        family: the code base that published it.
        repository: where that code base is published.
        source: the entry's config there.
        license: of the weights.
        permissive: whether the license is permissive.
        weights: where the published file can be downloaded, the most trusted first; dead sources
            are included as a record.
        backbone: the entry's choice among ``configs/backbone``, such as "resnet50"; "" if it
            defines its backbone itself.
    """

    name: str
    family: str
    repository: str
    source: str
    license: str
    permissive: bool
    weights: tuple[FileSource, ...]
    backbone: str

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The settings of the detector and of its training, composed by Hydra on first use."""
        from zoo.config import compose_entry

        return compose_entry(self.name)

    @property
    def live(self) -> bool:
        """Whether a host is known to serve the weights."""
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
        """The name of the published file in the cache and on mirrors, None where there never was
        one. Entries with the same file name share one file."""
        return _filename(self.name, self.weights[0]) if self.weights else None


def register(folder: str | Path) -> list[str]:
    """Add a folder of entries to the zoo; returns their names.

    Each ``NAME.yaml`` in the folder is an entry, as in ``configs/entry``. Subfolders are Hydra's
    groups: ``backbone/mine.yaml`` is what ``/backbone: mine`` chooses. The environment variable
    ``FCOS_ZOO_CONFIGS`` lists folders that are registered in every process.

    Raises:
        ValueError: it holds no entry, or one whose name is taken.
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
    return entries


def names(
    pattern: str = "*",
    license: Literal["permissive", "non-commercial"] | None = None,
    weights: bool | None = None,
) -> list[str]:
    """Names of the zoo's entries, sorted.

    Args:
        pattern: shell wildcards.
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
        chosen = [name for name in chosen if card(name).live is weights]
    return chosen


def card(name: str) -> Card:
    """The card of an entry.

    Raises:
        UnknownEntryError: with the nearest names.
    """
    return _card(name, entry_file(name))


def entry_file(name: str) -> Path:
    """The YAML file of an entry; UnknownEntryError suggests the nearest names."""
    files = _files()
    if name not in files:
        close = difflib.get_close_matches(name, files, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(close)}?" if close else "see zoo.names()"
        raise UnknownEntryError(f"no entry {name!r} in the zoo: {hint}")
    return files[name]


def entry_of_file(filename: str) -> str | None:
    """The entry whose weights file has this name; of several, the one of the same name."""
    entries = [name for name in names() if card(name).filename == filename]
    stem = filename.rpartition(".")[0]
    return stem if stem in entries else next(iter(entries), None)


def source_of(stated: str | Mapping[str, Any]) -> FileSource:
    """A source as YAML states it; ``package:PATH`` is beside the installed packages."""
    facts = {"url": stated} if isinstance(stated, str) else dict(stated)
    if facts["url"].startswith("package:"):
        facts["url"] = str(CONFIGS.parent / facts["url"].removeprefix("package:"))
    return FileSource(**facts)


def folders() -> list[Path]:
    """The registered folders of entries."""
    listed = os.environ.get("FCOS_ZOO_CONFIGS", "").split(os.pathsep)
    return [*_registered, *(Path(each).expanduser().resolve() for each in listed if each)]


def registered_targets() -> set[str]:
    """Every `_target_` that a file of the registered folders names."""
    files = [path for folder in folders() for path in folder.rglob("*.yaml")]
    return {str(target) for path in files for target in targets(load_yaml(path))}


def targets(config: Any) -> Iterator[Any]:
    """Every `_target_` in nested containers."""
    if isinstance(config, Mapping):
        if "_target_" in config:
            yield config["_target_"]
        config = list(config.values())
    if isinstance(config, list | tuple):
        for value in config:
            yield from targets(value)


def load_yaml(path: Path) -> dict[str, Any]:
    """A YAML file's mapping, by libyaml where PyYAML has it."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(path.read_text(encoding="utf-8"), loader) or {}


def _files(without: Path | None = None) -> dict[str, Path]:
    """The file of each entry; a registered folder cannot replace an entry of the zoo."""
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
    else:  # may be composed of anything, even of another entry
        from zoo.config import compose_entry

        facts = compose_entry(name)
    return Card(
        name,
        facts.get("family", ""),
        facts.get("repository", ""),
        facts.get("source", ""),
        facts.get("license", "not stated"),
        facts.get("permissive", False),
        tuple(source_of(each) for each in facts.get("weights") or ()),
        str(chosen.get("backbone", "")),
    )


def _filename(name: str, source: FileSource) -> str:
    stem = source.url.split("?")[0].rsplit("/", 1)[-1]
    return stem if stem.endswith(_SUFFIXES) else f"{name}.pth"


def _per_cent(cell: published.Cell, unit: str) -> published.Cell:
    """A fraction, or a curve of them, in per cent; anything else as it is."""
    if unit != "0..1":
        return cell
    if isinstance(cell, list):
        return [round(100 * value, 2) for value in cell]
    return round(100 * cell, 2) if isinstance(cell, float | int) else cell
