"""A checkpoint as it comes, from wherever: its tensors, and what it says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo import cache, converted, formats
from zoo.available import fetch_address
from zoo.card import Card
from zoo.files import UnreadableError, read
from zoo.formats import CheckpointError
from zoo.sources import FileSource, WeightsError


@dataclass(frozen=True)
class Checkpoint:
    """`state` under its published keys; `entry` and `classes`, which training here writes beside
    it, are None where nothing is said of them. `name` is what errors call it."""

    state: dict[str, Tensor]
    name: str = "the checkpoint"
    entry: str | None = None
    classes: list[str] | None = None

    def check_entry(self, entry: Card) -> None:
        """CheckpointError if it says that it is of another."""
        if self.entry not in (None, entry.name):
            raise CheckpointError(
                f"{self.name} holds a trained {self.entry}, whose boxes {entry.name} would not "
                f"decode: load it by zoo.get({self.entry!r}, weights=...)"
            )


def open_checkpoint(source: str | Path | Mapping[str, Any]) -> Checkpoint:
    """The checkpoint in a file, behind an address, or in a mapping.

    Raises:
        WeightsError: it cannot be fetched or read; what is damaged does not stay in the cache.
        CheckpointError: it is none.
    """
    if isinstance(source, Mapping):
        return _parse(source, {}, "the checkpoint")
    if not (isinstance(source, str) and FileSource(source).remote):
        return read_checkpoint(source)
    path = fetch_address(source)
    try:
        return read_checkpoint(path)
    except UnreadableError:
        raise
    except WeightsError as error:
        raise WeightsError(
            f"{FileSource(source).shown}: {error}\n{path.name}: {cache.quarantine(path)}"
        ) from error


def file_of(source: str) -> Path:
    """The file at a path, or behind an address, fetched once.

    Raises:
        FileNotFoundError: it is neither.
        WeightsError: it cannot be fetched.
    """
    if FileSource(source).remote:
        return fetch_address(source)
    if not Path(source).is_file():
        raise FileNotFoundError(f"{source} is neither a file, nor an address, nor an entry's name")
    return Path(source)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """The checkpoint in a file; errors as of `open_checkpoint`."""
    content = read(path)
    facts = converted.metadata(Path(path))
    try:
        return _parse(converted.in_order(content, facts), facts, str(path))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _parse(content: Mapping[str, Any], facts: dict[str, str], name: str) -> Checkpoint:
    entry, classes = facts.get("entry"), converted.classes(facts)
    if "model" in content and "classes" in content:
        entry, classes = content.get("entry"), content["classes"]
    state = formats.unwrap(content)
    named = None if classes is None else converted.checked(classes)
    return Checkpoint(state, name, entry if isinstance(entry, str) else None, named)
