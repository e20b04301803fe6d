"""A checkpoint from a file, an address or a mapping: its tensors, and what was trained."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from torch import Tensor
from torch.nn import Module

import backbones
import fcos
from zoo import cache, converted, formats
from zoo.download import fetch
from zoo.files import UnreadableError, read
from zoo.formats import CheckpointError
from zoo.registry import Card
from zoo.renamed import rename_settings
from zoo.sources import FileSource, WeightsError


@dataclass(frozen=True)
class Checkpoint:
    """Tensors, and what training here writes beside them.

    Attributes:
        state: the tensors under their published keys.
        name: what errors call it.
        entry: the entry that was trained, None where the file does not state it.
        classes: the names of its classes, or None.
        config: the configuration that it was trained with, or None.
        trained: whether training here wrote it.
    """

    state: dict[str, Tensor]
    name: str = "the checkpoint"
    entry: str | None = None
    classes: list[str] | None = None
    config: dict[str, Any] | None = None
    trained: bool = False

    def check_entry(self, entry: Card) -> None:
        """CheckpointError if it says that it is of another."""
        if self.entry not in (None, entry.name):
            raise CheckpointError(
                f"{self.name} holds a trained {self.entry}, whose boxes {entry.name} would not "
                f"decode: load it by zoo.get({self.entry!r}, weights=...)"
            )


def check_config(checkpoint: Checkpoint) -> None:
    """Refuse a configuration that would call anything but modules of this project.

    A file is data from anywhere; only `_target_` in its configuration chooses what is called.

    Raises:
        CheckpointError: naming the target.
    """
    allowed = {
        f"{package.__name__}.{name}"
        for package in (backbones, fcos)
        for name, value in vars(package).items()
        if isinstance(value, type) and issubclass(value, Module)
    }
    for target in _targets(checkpoint.config):
        if target not in allowed:
            raise CheckpointError(
                f"{checkpoint.name} asks for {target!r}, which is not a module of fcos-zoo: load "
                "its weights by zoo.load_checkpoint into a detector of your own"
            )


def _targets(config: Any) -> Iterator[Any]:
    """Every `_target_` in nested containers."""
    if isinstance(config, Mapping):
        if "_target_" in config:
            yield config["_target_"]
        config = list(config.values())
    if isinstance(config, list | tuple):
        for value in config:
            yield from _targets(value)


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
    path = _fetch_address(source)
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
        return _fetch_address(source)
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
    config = converted.settings(facts)
    trained = "model" in content and "classes" in content
    if trained:
        entry, classes, config = content.get("entry"), content["classes"], content.get("config")
    return Checkpoint(
        formats.unwrap(content),
        name,
        entry if isinstance(entry, str) else None,
        None if classes is None else converted.checked(classes),
        rename_settings(config) if isinstance(config, dict) else None,
        trained,
    )


def _fetch_address(url: str) -> Path:
    """Download a user's file; the cache keeps it under its name and a hash of its address."""
    name = re.split("[?#]", url.partition("://")[2])[0].rpartition("/")[2]
    stem, suffix = os.path.splitext(re.sub(r"[^\w.-]+", "-", unquote(name), flags=re.ASCII))
    of_address = hashlib.sha256(url.encode()).hexdigest()[:12]
    # A hash in the file's own name counts, the one of its address that is added here does not.
    source = FileSource(url, sha256=FileSource(url).digest or "")
    stem = stem.lstrip(".")[:100] or "weights"
    return fetch(f"{stem}-{of_address}{suffix[:20]}", [source])
