"""The facts of an entry, composed from `configs/` by Hydra."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf

from zoo import published
from zoo.weights import Location

# Relative to this file and not as a package, so that a user's own `configs` cannot stand before it.
CONFIGS = Path(__file__).resolve().parent.parent / "configs"


class UnknownEntryError(LookupError):
    """No entry of that name; the message suggests the nearest."""


@dataclass(frozen=True)
class Card:
    """What is known of an entry.

    `family`: the system that published it; `repository` and `source`: where, and its config there;
    `licence` of the weights and whether it is `permissive`; `weights`: where the published file can
    be had, in order of trust, dead places included as a record; `config`: everything that composes
    the detector and its training.
    """

    name: str
    family: str
    repository: str
    source: str
    licence: str
    permissive: bool
    weights: tuple[Location, ...]
    config: Mapping[str, Any]

    @property
    def tables(self) -> list[tuple[published.Table, published.Row]]:
        """Its rows in the published tables."""
        return published.rows(self.name)

    @property
    def published(self) -> dict[str, published.Cell]:
        """Its published figures by key (`ap`, `time_ms`, ...), each from its newest page."""
        figures: dict[str, published.Cell] = {}
        newest_first = sorted(self.tables, key=lambda pair: pair[0].source.date or "", reverse=True)
        for table, row in newest_first:
            for column in table.columns:
                if column.key != "printed" and row[column.key] is not None:
                    figures.setdefault(column.key, row[column.key])
        return figures

    @property
    def filename(self) -> str | None:
        """The name of the published weights file, None where there never was one."""
        return self.weights[0].url.split("?")[0].rsplit("/", 1)[-1] if self.weights else None


def names(pattern: str = "*") -> list[str]:
    """Names of the zoo's entries, sorted; `pattern` takes shell wildcards."""
    found = [path.stem for path in (CONFIGS / "entry").glob("*.yaml")]
    return sorted(name for name in found if fnmatch.fnmatchcase(name, pattern))


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
    config = compose_entry(name)
    return Card(
        name=name,
        family=config["family"],
        repository=config["repository"],
        source=config["source"],
        licence=config["licence"],
        permissive=config["permissive"],
        weights=tuple(_location(place) for place in config.get("weights", ())),
        config=config,
    )


def compose_entry(name: str, overrides: list[str] | None = None) -> dict[str, Any]:
    """The entry's whole configuration as plain containers, with Hydra `overrides` applied."""
    with initialize_config_dir(str(CONFIGS), version_base=None):
        try:
            composed = compose(f"entry/{name}", overrides=overrides or [])
        except HydraException as error:
            raise ValueError(f"{name}: {' '.join(str(error).split())}") from None
    config = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}


def _location(place: str | dict[str, Any]) -> Location:
    return Location(place) if isinstance(place, str) else Location(**place)
