"""Checkpoints from a file, an address or a mapping, and the entry that they belong to."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any
from urllib.parse import unquote

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

import backbones
import fcos
from fcos import Detector
from fcos.settings import detector_settings
from zoo import cache, formats
from zoo.config import build_detector, modules_of, rename_settings
from zoo.download import fetch
from zoo.files import UnreadableError, read
from zoo.formats import CheckpointError
from zoo.formats.backbones import TABLES, rename
from zoo.formats.detectors import NATIVE, PUBLISHED, Format
from zoo.registry import Card, card, folders, names
from zoo.sources import FileSource, WeightsError, load_yaml

# Settings that the tensors do not show, but without which these mean something else.
MEANING = {
    "images": ("mean", "std", "channel_order", "value_range"),
    "head": ("box", "quality_on"),
    "detector": ("point_offset", "point_spacing"),
}


@dataclass(frozen=True)
class Checkpoint:
    """Tensors, and the facts that training writes beside them.

    Attributes:
        state: the tensors under their published keys.
        name: the file's name for messages.
        entry: the entry that was trained, or None if the file does not state it.
        classes: the names of its classes, or None.
        config: the configuration that it was trained with, or None.
        trained: whether this project's training wrote it.
    """

    state: dict[str, Tensor]
    name: str = "the checkpoint"
    entry: str | None = None
    classes: list[str] | None = None
    config: dict[str, Any] | None = None
    trained: bool = False

    def check_entry(self, entry: Card) -> None:
        """Raise a CheckpointError if the file states another entry."""
        if self.entry not in (None, entry.name):
            raise CheckpointError(
                f"{self.name} holds a trained {self.entry}, whose boxes {entry.name} would not "
                f"decode: load it by zoo.get({self.entry!r}, weights=...)"
            )

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Raise a CheckpointError if its input or outputs mean something else than a detector's."""
        for section, keys in MEANING.items():
            theirs, ours = (self.config or {}).get(section, {}), settings.get(section, {})
            for key in keys if isinstance(theirs, Mapping) else ():
                if key in theirs and key in ours and theirs[key] != ours[key]:
                    raise CheckpointError(
                        f"{self.name} was trained with {section}.{key}={theirs[key]}, this "
                        f"detector has {ours[key]}: load it by zoo.get({self.name!r})"
                    )

    def check_config(self) -> None:
        """Refuse a configuration that would call anything but known modules.

        A file may come from anywhere, and `_target_` in its configuration chooses what is called.
        Allowed are modules of this project and those that the user's registered folders name.

        Raises:
            CheckpointError: the target is not a known module; the message names it.
        """
        allowed = {*_registered_targets(), *modules_of(backbones), *modules_of(fcos)}
        for target in _targets(self.config):
            if target not in allowed:
                raise CheckpointError(
                    f"{self.name} asks for {target!r}, which is not a module of fcos-zoo: register "
                    "the folder of the entry that names it (zoo.register, FCOS_ZOO_CONFIGS), or "
                    "load its weights by zoo.load_checkpoint into a detector of your own"
                )


def open_checkpoint(source: str | Path | Mapping[str, Any]) -> Checkpoint:
    """Read the checkpoint in a file, at an address, or in a mapping.

    Raises:
        WeightsError: it cannot be fetched or read; a damaged download is removed from the cache.
        CheckpointError: it is not a checkpoint.
    """
    if isinstance(source, Mapping):
        return _parse(source, {}, "the checkpoint")
    path = file_of(source)
    try:
        return read_checkpoint(path)
    except UnreadableError:
        raise
    except WeightsError as error:
        address = FileSource(str(source))
        if not address.remote:
            raise
        raise WeightsError(
            f"{address.shown}: {error}\n{path.name}: {cache.quarantine(path)}"
        ) from error


def is_path(name: str) -> bool:
    """Whether `name` is a path, whose file need not exist, and not an entry or an address."""
    path = Path(name)
    if "://" in str(name):
        return False
    return name not in names() and (path.name != name or bool(path.suffix) or path.is_file())


def file_of(source: str | Path) -> Path:
    """Return the file at a path, or at an address, from which it is downloaded once.

    The cache keeps a download under the file's name and a hash of its address.

    Raises:
        WeightsError: it cannot be fetched, or no file is named.
    """
    if not str(source):
        raise WeightsError("no file is named: give the path of the weights")
    url = str(source)
    if not FileSource(url).remote:
        return Path(source)
    name = re.split("[?#]", url.partition("://")[2])[0].rpartition("/")[2]
    stem, suffix = os.path.splitext(re.sub(r"[^\w.-]+", "-", unquote(name), flags=re.ASCII))
    # A hash in the file's own name counts, but not that of its address, which is added here.
    address = FileSource(url, sha256=FileSource(url).digest or "")
    stem = stem.lstrip(".")[:100] or "weights"
    return fetch(f"{stem}-{address.key}{suffix[:20]}", [address])


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read the checkpoint in a file; the errors are those of `open_checkpoint`."""
    content = read(path)
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
    except (OSError, SafetensorError):  # a file of another kind
        header = {}
    try:
        return _parse(content, header, str(path))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def write_safetensors(detector: Detector, path: Path) -> None:
    """Write a detector's weights, with its entry, classes and settings in the file's header."""
    state = {key: value.contiguous() for key, value in detector.state_dict().items()}
    header = {"format": "pt", "fcos_zoo": "1", "entry": detector.card.name}
    facts = {"classes": detector.classes, "config": detector.settings}
    save_file(state, path, {**header, **{key: json.dumps(fact) for key, fact in facts.items()}})


def describe(state: Mapping[str, Tensor], entry: Card | None = None) -> str:
    """Say in a clause what a published state dict seems to be; may take a few seconds.

    Args:
        state: its tensors.
        entry: the expected entry; the state may be of this entry with other classes.
    """
    classes = _classes_if_it_fits(entry, state) if entry else None
    if entry and classes and classes != len(entry.config["classes"]):
        return (
            f"it is one of {classes} classes: zoo.build({entry.name!r}, num_classes={classes}), "
            "then zoo.load_checkpoint"
        )
    form = formats.recognise(state)
    if form is NATIVE:
        return "it looks like a detector that this project wrote, perhaps of another entry"
    fitting = _fitting_entries(form, state)
    if not fitting:
        return f"it looks like a checkpoint of {form.name} that fits no entry of the zoo"
    more = f" and {len(fitting) - 3} more" if len(fitting) > 3 else ""
    return f"its tensors are those of {', '.join(fitting[:3])}{more}"


def _registered_targets() -> set[str]:
    """Return every `_target_` that files in the registered folders name."""
    files = [path for folder in folders() for path in folder.rglob("*.yaml")]
    return {str(target) for path in files for target in _targets(load_yaml(path))}


def _targets(config: Any) -> Iterator[Any]:
    """Yield every `_target_` in nested containers."""
    if isinstance(config, Mapping):
        if "_target_" in config:
            yield config["_target_"]
        config = list(config.values())
    if isinstance(config, list | tuple):
        for value in config:
            yield from _targets(value)


def _fitting_entries(form: Format, state: Mapping[str, Tensor]) -> list[str]:
    """Return the entries whose networks have the tensors of a state."""

    def matching_keys(backbone: type) -> int:
        rules = form.rules(TABLES[backbone], 3, 3)
        return sum(rename(key, rules) not in (None, key) for key in state)

    backbone = max(TABLES, key=matching_keys).__name__
    fits: dict[str, bool] = {}  # by network, as several entries may share one
    other: set[str] = set()  # choices of backbone that build another class
    fitting: list[str] = []
    for entry in map(card, names()):
        if PUBLISHED.get(entry.family) is not form or entry.backbone in other:
            continue
        config = entry.config
        if config["backbone"]["_target_"].rpartition(".")[2] != backbone:
            other |= {entry.backbone} - {""}
            continue
        network = json.dumps([config[part] for part in ("backbone", "pyramid", "head", "images")])
        if network not in fits:
            fits[network] = _classes_if_it_fits(entry, state) is not None
        if fits[network]:
            fitting.append(entry.name)
    return fitting


def _classes_if_it_fits(entry: Card, state: Mapping[str, Tensor]) -> int | None:
    """Return the number of classes of a state that otherwise fits the entry, or None."""
    shapes = {
        key: value if key.startswith("pixel_") else torch.empty_like(value, device="meta")
        for key, value in state.items()
    }
    detector = build_detector(entry.config, empty=True)
    classes = formats.num_classes(detector, state)
    if classes != len(detector.classes):
        detector = build_detector(entry.config, classes or None, empty=True)
    try:
        formats.load_state(detector, shapes)
    except CheckpointError:
        return None
    return classes


def _parse(content: Mapping[str, Any], header: Mapping[str, str], name: str) -> Checkpoint:
    trained = "model" in content and "classes" in content
    facts: Mapping[str, Any] = content
    if not trained:
        facts = header if "fcos_zoo" in header else {}
        facts = {key: _from_json(fact) for key, fact in facts.items()}
    entry, classes, config = (facts.get(key) for key in ("entry", "classes", "config"))
    if (classes is not None or trained) and not (
        isinstance(classes, list | tuple) and all(isinstance(each, str) for each in classes)
    ):
        raise CheckpointError(
            f'its "classes" are not a list of names but {shorten(repr(classes), 80)}: '
            "write the names there, or leave them out"
        )
    if trained and classes and isinstance(content.get("settings"), dict):  # a file to resume from
        config = detector_settings(content["settings"], classes)
        if average := content.get("average"):  # the weights that are measured and released
            content = {"model": {k: v for k, v in average.items() if k != "n_averaged"}}
    return Checkpoint(
        formats.unwrap(content),
        name,
        entry if isinstance(entry, str) else None,
        None if classes is None else list(classes),
        rename_settings(config) if isinstance(config, dict) else None,
        trained,
    )


def _from_json(text: str) -> Any:
    """Return the value of a header's field, which is plain text if it is not JSON."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
